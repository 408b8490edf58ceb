// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types that kernel and user space share, generated from `src/bpf/shared.bpf.c`: nothing is written twice.

use plain::Plain;

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
            use $crate::packed::Packed;
            include!(concat!(env!("OUT_DIR"), "/", $stem, ".skel.rs"));
        }
    };
}

skeleton!("shared");

pub use bpf::types::{
    cidr, cidr_list, comm_list, config, count_key, counters, filter, filter_set, flow, head, hist,
    hist_key, id_list, lacks, owner, port_set, range, range_list, seen, seen_bytes, seen_end,
    seen_limit, seen_read, seen_reset, seen_segment,
};

/// `enum` of the owner's origin in `src/bpf/tcp.bpf.h`.
pub const PID_SOURCES: [Option<&str>; 4] = [None, Some("socket"), Some("listener"), Some("seed")];

/// The owner's origin, as in [`PID_SOURCES`].
pub mod pid_source {
    #![allow(missing_docs)]
    pub const UNKNOWN: u8 = 0;
    pub const SOCKET: u8 = 1;
    pub const LISTENER: u8 = 2;
    pub const SEED: u8 = 3;
}

/// `enum seen_kind` of `src/bpf/record.bpf.h`: which tracepoint a record is of.
pub mod seen_kind {
    #![allow(missing_docs)]
    pub const STATE: u32 = 0;
    pub const RETRANSMIT: u32 = 1;
    pub const SYNACK: u32 = 2;
    pub const SEND_RESET: u32 = 3;
    pub const RECEIVE_RESET: u32 = 4;
    pub const DESTROY: u32 = 5;
    pub const READ: u32 = 6;
    pub const PROBE: u32 = 7;
    pub const EXCEED_BUF_LIMIT: u32 = 8;
    pub const RCVQUEUE_FULL: u32 = 9;
    pub const UDP_FAIL: u32 = 10;
}

/// `seen_end.known` of `src/bpf/record.bpf.h`.
pub mod known {
    #![allow(missing_docs)]
    pub const ERROR: u8 = 1;
    pub const TCP: u8 = 2;
}

/// How many elements a list in the kernel half's configuration holds.
macro_rules! capacity {
    ($list:ty, $field:ident, $element:ty) => {
        (size_of::<$list>() - std::mem::offset_of!($list, $field)) / size_of::<$element>()
    };
}

/// Ranges of process or user ids.
pub const MAX_RANGES: usize = capacity!(range_list, range, range);
/// Networks.
pub const MAX_CIDRS: usize = capacity!(cidr_list, cidr, cidr);
/// Namespaces or cgroups.
pub const MAX_IDS: usize = capacity!(id_list, id, u64);
/// Process names.
pub const MAX_COMMS: usize = capacity!(comm_list, comm, [u64; 2]);

// SAFETY: `repr(C)` structs of integers only, with explicit padding: every bit pattern is a value.
unsafe impl Plain for head {}
// SAFETY: as above.
unsafe impl Plain for config {}
// SAFETY: as above.
unsafe impl Plain for seen {}
// SAFETY: as above.
unsafe impl Plain for seen_end {}
// SAFETY: as above.
unsafe impl Plain for seen_limit {}
// SAFETY: as above.
unsafe impl Plain for seen_read {}
// SAFETY: as above.
unsafe impl Plain for seen_reset {}
// SAFETY: as above.
unsafe impl Plain for seen_segment {}
// SAFETY: as above.
unsafe impl Plain for counters {}
// SAFETY: as above.
unsafe impl Plain for count_key {}
// SAFETY: as above.
unsafe impl Plain for hist_key {}
// SAFETY: as above.
unsafe impl Plain for hist {}

/// A record of a tool, as it lies in the ring buffer.
///
/// # Safety
/// `repr(C)`, integers only, with explicit padding, and its first field is `struct head`: [`record!`](crate::record!) checks that.
pub unsafe trait Record: Plain + Copy {
    /// The part that every record begins with.
    fn head(&self) -> &head {
        // SAFETY: the implementor begins with a `head`, and lives as long as the reference.
        unsafe { &*std::ptr::from_ref(self).cast::<head>() }
    }

    /// Replaces the part that every record begins with.
    fn with_head(mut self, head: &head) -> Self {
        // SAFETY: as above; it is borrowed mutably.
        unsafe { *std::ptr::from_mut(&mut self).cast::<head>() = *head };
        self
    }
}

/// Makes a generated struct a [`Record`]: `record!(bpf::types::session, bpf::types::head)`.
#[macro_export]
macro_rules! record {
    ($record:ty, $head:ty) => {
        const _: () = assert!(
            std::mem::offset_of!($record, head) == 0
                && size_of::<$head>() == size_of::<$crate::types::head>()
                && align_of::<$record>() == align_of::<$crate::types::head>()
        );
        // SAFETY: generated from C, a `repr(C)` struct of integers only: every bit pattern is a value.
        unsafe impl plain::Plain for $record {}
        // SAFETY: as above, and its head comes first, as was just checked.
        unsafe impl $crate::types::Record for $record {}
    };
}

/// The longest prefix of a kernel record that is a `T`, without a copy.
///
/// `None` when the record is shorter than `T` or not aligned for it: a record of another version of the program.
pub fn decode<T: Plain>(record: &[u8]) -> Option<&T> {
    plain::from_bytes(record).ok()
}

/// The bytes of a record that was made here, as the kernel half would have sent them.
pub fn bytes_of<T: Record>(record: &T) -> &[u8] {
    // SAFETY: a `Record` is integers only, with explicit padding, so all its bytes have values.
    unsafe { plain::as_bytes(record) }
}

/// A record that may end at `least` bytes, before its stack (`bpf/stack.bpf.h`): what is missing is zero.
///
/// `None` when it is shorter, or longer than a `T`.
pub fn decode_stack<T: Record + Default>(record: &[u8], least: usize) -> Option<T> {
    let mut whole = T::default();
    // SAFETY: a `Record` is integers only, so its bytes may be written one by one.
    let bytes = unsafe { plain::as_mut_bytes(&mut whole) };
    (record.len() >= least).then_some(())?;
    bytes.get_mut(..record.len())?.copy_from_slice(record);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_refused() {
        let record = vec![0u64; size_of::<head>() / 8];
        // SAFETY: the bytes of a live vector of integers, seen for its length.
        let bytes =
            unsafe { std::slice::from_raw_parts(record.as_ptr().cast::<u8>(), record.len() * 8) };
        assert!(decode::<head>(bytes).is_some());
        assert!(decode::<head>(&bytes[..bytes.len() - 1]).is_none());
        assert!(decode::<head>(&bytes[1..]).is_none());
    }
}
