// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel lockdown in confidentiality mode, which hides the kernel's memory from BPF: no command runs, and each says why.
//! Nothing here sets it: that lasts until the next boot. A guest is booted so (`./kernels.sh newest-confidentiality`).

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::{tool, tools, trial};

pub fn tests() -> Vec<Trial> {
    vec![trial("fallback::lockdown", refused)]
}

fn refused() -> Result<()> {
    let why = "kernel lockdown is in confidentiality mode";
    for name in tools::here() {
        for without in ["", "btf", "btf,ringbuf,mmap"] {
            let run = tool::run_without(without, name, &["--duration", "1ms"])?;
            let one = run.stderr.lines().count() == 1;
            let says = run.stderr.starts_with(&format!("{name}: {why}"));
            ensure!(one && says, "{name} without {without:?}: {run:?}");
            ensure!(
                run.status.code() == Some(1) && run.lines.is_empty(),
                "{run:?}"
            );
        }
    }
    let run = tool::run("tcptools", &["check"])?;
    let line = run.lines.iter().find(|line| line.starts_with("lockdown "));
    let says = line.is_some_and(|line| line.contains(" NO ") && line.contains(why));
    ensure!(says && !run.status.success(), "{run:#?}");
    Ok(())
}
