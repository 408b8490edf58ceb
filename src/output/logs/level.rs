// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much a record matters: the journal's priority, and OTLP's severity.

use super::Cells;

/// As syslog(3) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A critical finding of triage.
    Err,
    /// Something failed, or was lost.
    Warning,
    /// Not a failure, but a sign of one: a segment sent again, an RST.
    Notice,
    /// As it should be.
    Info,
}

/// What a summary has of the run's own losses.
pub const LOSSES: &[&str] = &[
    "lost",
    "untracked",
    "uncounted",
    "skipped",
    "unvisited",
    "statistics_lost",
    "messages_lost",
    "journal_lost",
    "peers_missed",
];

impl Level {
    /// Of a record.
    pub fn of(tool: &str, event: &str, cells: &dyn Cells) -> Self {
        let some = |keys: &[&str]| {
            keys.iter()
                .any(|key| cells.number(key).is_some_and(|n| n > 0))
        };
        let warn_if = |is, otherwise| if is { Self::Warning } else { otherwise };
        // `errno` is null where there was no error.
        let failed = cells.number("errno").is_some();
        match (tool, event) {
            ("tcptools", "finding") if cells.is("severity", "critical") => Self::Err,
            ("tcptools", "finding") => warn_if(cells.is("severity", "warning"), Self::Notice),
            (_, "summary") => warn_if(some(LOSSES), Self::Info),
            ("tcpconnect", "connect") => warn_if(!cells.is("outcome", "established"), Self::Info),
            ("tcpdrop", "drop") => Self::Warning,
            ("sockbuf", _) => Self::Warning,
            ("tcpaccept", "listener") => warn_if(some(&["drops"]), Self::Info),
            ("tcpstates", "state_change")
            | ("tcpconnect", "pending")
            | ("tcpretrans", _)
            | ("tcpreset", _)
            | ("tcpdrop", _)
            | ("tcptop", "stalled") => warn_if(failed, Self::Notice),
            _ => warn_if(failed, Self::Info),
        }
    }

    /// `PRIORITY` of the journal.
    pub fn priority(self) -> u8 {
        match self {
            Self::Err => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
        }
    }

    /// `severityNumber` of OTLP, by its mapping of syslog's severities.
    pub fn severity(self) -> u8 {
        match self {
            Self::Err => 17,
            Self::Warning => 13,
            Self::Notice => 10,
            Self::Info => 9,
        }
    }

    /// As syslog calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Err => "err",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
        }
    }
}
