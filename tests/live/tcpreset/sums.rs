// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts, and stacks.

use anyhow::{Result, ensure};
use nix::libc;
use serde_json::json;

use super::{reason, talk};
use crate::pair::Pair;

pub fn sums(mut pair: Pair, host: &str) -> Result<()> {
    for _ in 0..3 {
        let (c, s, _) = talk(&mut pair, host)?;
        pair.c.run(&format!("linger0 {c}"))?;
        pair.c.run(&format!("close {c}"))?;
        pair.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    }
    let (c, s, _) = talk(&mut pair, host)?;
    pair.c.run(&format!("shutdown {c} both"))?;
    pair.s.run(&format!("eof {s}"))?;
    pair.c.run(&format!("drained {c}"))?;
    pair.s.run(&format!("send {s} 700"))?;
    pair.net.quiet()?;
    let rows = pair.tool.stop()?.rows()?;
    let mut got: Vec<_> = rows
        .iter()
        .map(|r| json!([r["direction"], r["state"], r["reason"], r["count"]]).to_string())
        .collect();
    got.sort();
    let want = [
        json!(["received", "CLOSE_WAIT", null, 1]),
        json!(["received", "ESTABLISHED", null, 3]),
        json!(["sent", "ESTABLISHED", reason("TCP_STATE"), 3]),
        json!(["sent", "FIN_WAIT2", reason("TCP_ABORT_ON_DATA"), 1]),
    ]
    .map(|want| want.to_string());
    ensure!(got == want, "{got:?}");
    Ok(())
}

pub fn stacks(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, _) = talk(&mut pair, host)?;
    pair.c.run(&format!("linger0 {c}"))?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    let (rows, _) = pair.finish()?;
    for row in &rows {
        let function = row["stack"][0].as_str().unwrap_or_default();
        let name = if row["direction"] == "sent" {
            "tcp_send_active_reset+"
        } else {
            "tcp_reset+"
        };
        ensure!(function.starts_with(name), "{row}");
    }
    Ok(())
}
