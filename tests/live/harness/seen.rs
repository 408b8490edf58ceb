// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which columns had a value in any test, for the table in `docs/kernels.md`.

use std::{collections::BTreeSet, env, fs::OpenOptions, io::Write};

use anyhow::{Context, Result};
use serde_json::Value;

/// Adds to the file `TCPTOOLS_SEEN`, if that is set, which columns had a value: lines of tool, key, and 0 (null) or 1.
pub fn note(rows: &[Value]) -> Result<()> {
    let Some(path) = env::var_os("TCPTOOLS_SEEN") else {
        return Ok(());
    };
    let mut lines = BTreeSet::new();
    for row in rows {
        for (key, value) in row.as_object().context("a row is an object")? {
            let tool = row["tool"].as_str().unwrap_or_default();
            lines.insert(format!("{tool} {key} {}\n", u8::from(!value.is_null())));
        }
    }
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(lines.into_iter().collect::<String>().as_bytes())?)
}
