// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which commands triage starts, and how.

use std::time::Duration;

use super::super::feed::Source;

/// States of sockets that may be stuck in them.
const STUCK: &str = "syn_sent,syn_recv,close_wait,fin_wait1,fin_wait2,last_ack,closing";

/// What is there now is looked at at the start, five times in between, and at the end.
pub fn all(duration: Duration) -> Vec<Source> {
    let interval = (duration / 5).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let every = |flag: &str| format!("{flag}={}ms", interval.as_millis());
    vec![
        Source::new("tcpaccept", &[&every("--listeners")]),
        // However short: what lasts for a round trip is found at several looks.
        Source::new("tcptop", &["--batch", "--stalled"]),
        Source::new("tcptop", &["--batch", &every("--interval")]),
        Source::new("tcpstates", &[&every("--active"), "--state", STUCK]),
        Source::new("tcpstates", &[&every("--summary")]),
        Source::new("sockbuf", &[&every("--summary")]),
        Source::new("tcpconnect", &[]),
        Source::new("tcplife", &[]),
        Source::new("tcpreset", &[]),
        Source::new("tcpretrans", &[]),
        // For a share of what was sent.
        Source::new(
            "tcpretrans",
            &[&every("--summary"), "--by", "netns,comm,raddr"],
        ),
        Source::new("tcpdrop", &[]),
        Source::new("tcplat", &[&every("--summary"), "--by", "comm,server"]),
    ]
}
