// SPDX-License-Identifier: MIT OR Apache-2.0
//! The skeletons that libbpf-cargo makes of the kernel half, and the one that all commands share.

/// The module `bpf`: what libbpf-cargo made of `src/bpf/<stem>.bpf.c`.
#[macro_export]
macro_rules! skeleton {
    ($stem:literal) => {
        #[allow(
            non_camel_case_types,
            dead_code,
            clippy::all,
            clippy::arithmetic_side_effects,
            clippy::indexing_slicing,
            clippy::undocumented_unsafe_blocks
        )]
        mod bpf {
            #[allow(unused_imports)] // only a release's objects are compressed
            use $crate::abi::packed::Packed;
            include!(concat!(env!("OUT_DIR"), "/", $stem, ".skel.rs"));
        }
    };
}

skeleton!("shared");

pub use bpf::types;
