// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--explain`: what reasons and hints mean.

use std::io;

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
    match reasons::print(&reasons, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
