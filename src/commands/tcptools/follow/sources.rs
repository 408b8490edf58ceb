// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which commands tell the story of a connection, and how they are started.

use std::time::Duration;

use super::super::feed::Source;

/// How often a connection that does not move is looked at.
const LOOK: &str = "1s";

/// A shorter time without progress, and a faster answer, are nothing to tell.
const SLOW_MS: &str = "100";

/// So that a window that is shut is seen, and that it opens again: the time between two probes of it is longer.
const FINE: Duration = Duration::from_millis(100);

/// Whatever happens to a connection. `every`: how far samples are apart.
pub fn all(every: Duration) -> Vec<Source> {
    let fine = format!("--interval={}ms", every.min(FINE).as_millis().max(1));
    let mut all = events(&fine, every);
    all.push(Source::new(
        "tcptop",
        &["--batch", "--stalled=1s", "--interval", LOOK],
    ));
    all.extend(
        ["tcpconnect", "tcplife", "tcpreset", "tcpretrans", "tcpdrop"]
            .map(|tool| Source::new(tool, &[])),
    );
    all
}

/// Those of them that triage does not start, for a recording that both can read.
pub fn events(fine: &str, every: Duration) -> Vec<Source> {
    let every = format!("--interval={}ms", every.as_millis().max(1));
    vec![
        Source::new("tcpstates", &[]),
        Source::new("tcpaccept", &[]),
        Source::new("tcpprobe", &[fine]),
        Source::new("tcpcong", &[]),
        Source::new("tcprcvspace", &[&every]),
        Source::new("tcplat", &["--min-ms", SLOW_MS]),
        Source::new("sockbuf", &[]),
        Source::new("tcpinfo", &[]),
    ]
}
