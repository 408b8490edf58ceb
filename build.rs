// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles every `src/bpf/<stem>.bpf.c` into `$OUT_DIR/<stem>.skel.rs`; there is no list to edit.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The directory: a change in any header rebuilds every object that may include it.
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    for entry in fs::read_dir("src/bpf")? {
        let source = entry?.path();
        let Some(stem) = source
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".bpf.c"))
        else {
            continue;
        };
        SkeletonBuilder::new()
            .source(&source)
            .clang_args(["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"])
            .reference_obj(true)
            .build_and_generate(out.join(format!("{stem}.skel.rs")))
            .with_context(|| format!("{} does not compile", source.display()))?;
    }
    Ok(())
}
