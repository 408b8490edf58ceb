// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands that tracepoints' records do not suffice.

use std::path::Path;

use anyhow::{Error, anyhow};

use crate::kernel::{btf, diagnose, features, limits, mounts};

/// Why a command does not run without type information, or without a ring buffer; before that, what hides the type
/// information, and what is wrong with the file of `--btf`, which would not help. `why` ends the sentence.
pub fn refusal(btf: Option<&Path>, why: &str) -> Error {
    let problem = mounts::sys().or_else(mounts::proc).or_else(limits::low);
    if let Some(problem) = problem.or_else(diagnose::lockdown) {
        return anyhow!("{problem}");
    }
    if let Some(Err(error)) = btf.map(|file| btf::file::checked(file, None)) {
        return error;
    }
    anyhow!("{}, {why}", features::this_kernel())
}
