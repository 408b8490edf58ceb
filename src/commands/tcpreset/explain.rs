// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--explain`: what reasons and hints mean.

use crate::cli::explain::{self, Explained};
use crate::error::Usage;
use anyhow::{Result, bail};

use super::reasons;

pub(super) fn explain(reason: Option<&str>) -> Result<()> {
    let reasons = match reason {
        None => [reasons::reasons(), reasons::hints()].concat(),
        Some(name) if reasons::explain(name).is_some() => vec![name],
        Some(name) => {
            let known = reasons::reasons().join(", ");
            let hints = reasons::hints().join(", ");
            bail!(Usage(format!(
                "'{name}' is not a reason or a hint; this kernel has {known}, and the hints are {hints}"
            )))
        }
    };
    explain::print(reasons.into_iter().map(|reason| {
        reasons::explain(reason).copied().unwrap_or(Explained(
            reason,
            "A reason that is newer than this command.",
            "include/net/rstreason.h of the kernel.",
        ))
    }))
}
