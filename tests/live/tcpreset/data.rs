// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets because of unread data.

use anyhow::Result;
use nix::libc;
use serde_json::json;

use super::{CLIENT, bytes, finish, received, sent, talk};
use crate::pair::Pair;

pub fn unread_data(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    pair.c.run(&format!("send {c} 500"))?;
    pair.c.run(&format!("drained {c}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.c.fails(&format!("recv {c} 1"), libc::ECONNRESET)?;
    let [tx, rx] = CLIENT;
    let wants = [
        sent(1, "ESTABLISHED", "TCP_ABORT_ON_CLOSE").and(bytes(rx, tx + 500)),
        received(0, "ESTABLISHED").and(bytes(tx + 500, rx)),
    ];
    finish(pair, ports, &wants).map(drop)
}

/// The kernel also reports a received reset here, but there was none: no such row.
pub fn data_after_shutdown(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    pair.c.run(&format!("shutdown {c} both"))?;
    pair.s.run(&format!("eof {s}"))?;
    pair.c.run(&format!("drained {c}"))?;
    pair.s.run(&format!("send {s} 700"))?;
    pair.net.quiet()?;
    let wants = [
        sent(0, "FIN_WAIT2", "TCP_ABORT_ON_DATA")
            .and(json!({"after_shutdown": true, "trigger_flags": "PSH|ACK"})),
        received(1, "CLOSE_WAIT"),
    ];
    finish(pair, ports, &wants).map(drop)
}

/// The client's socket is in TIME_WAIT, which has no owner.
pub fn data_after_close(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("eof {s}"))?;
    pair.net.a.quiet()?;
    pair.s.run(&format!("send {s} 700"))?;
    pair.net.b.quiet()?;
    let wants = [
        sent(0, "TIME_WAIT", "TCP_TIMEWAIT_SOCKET").without_socket("PSH|ACK"),
        received(1, "CLOSE_WAIT"),
    ];
    finish(pair, ports, &wants).map(drop)
}

/// In the same state as above, but a reset was received.
pub fn real_reset_after_shutdown(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    pair.c.run(&format!("shutdown {c} both"))?;
    pair.s.run(&format!("eof {s}"))?;
    pair.c.run(&format!("drained {c}"))?;
    pair.s.run(&format!("linger0 {s}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.net.quiet()?;
    let wants = [sent(1, "CLOSE_WAIT", "TCP_STATE"), received(0, "FIN_WAIT2")];
    finish(pair, ports, &wants).map(drop)
}
