// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages on a terminal that show that a command is running.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use crate::cli::Run;
use crate::suite;

/// When a command shows something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Rows as they come.
    Rows,
    /// What it has counted, at the end.
    AtTheEnd,
    /// What it has counted, at this interval and at the end.
    Every(Duration),
    /// A picture on the terminal, which shows that it runs.
    Picture,
}

impl From<Option<Duration>> for Shows {
    /// Of an interval, if there is one.
    fn from(interval: Option<Duration>) -> Self {
        interval.map_or(Self::AtTheEnd, Self::Every)
    }
}

/// Silent unless standard error is a terminal.
pub(super) struct Idle {
    tool: &'static str,
    since: Option<Instant>,
}

impl Idle {
    /// Prints what is traced, and how to end it.
    pub(super) fn begin(tool: &'static str, run: &Run, shows: Shows) -> Self {
        let says = shows != Shows::Picture && stderr().is_terminal();
        let since = says.then(Instant::now);
        // A single look is over before anybody could end it.
        if since.is_some() && run.duration != Some(Duration::ZERO) {
            crate::message!("{tool}: {}", sentence(tool, run, shows));
        }
        Self { tool, since }
    }

    /// Prints, if there were no rows, how long the run took.
    pub(super) fn end(self, rows: u64) {
        if let (Some(since), 0) = (self.since, rows) {
            let seconds = since.elapsed().as_secs_f64();
            crate::message!("{}: 0 rows in {seconds:.1} s", self.tool);
        }
    }
}

fn sentence(tool: &str, run: &Run, shows: Shows) -> String {
    let traced = suite::traced(tool);
    let when = match shows {
        Shows::Rows | Shows::Picture => String::new(),
        Shows::AtTheEnd => ", shown at the end".into(),
        Shows::Every(interval) => format!(", shown every {interval:?}"),
    };
    let time = run.duration.map(|time| format!("ends after {time:?}, "));
    let rows = run
        .count_events
        .map(|rows| format!("ends after {rows} rows, "));
    let (time, rows) = (time.unwrap_or_default(), rows.unwrap_or_default());
    format!("tracing {traced}{when}... {time}{rows}Ctrl-C to end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Common;
    use clap::Parser;

    #[derive(Parser)]
    struct Tool {
        #[command(flatten)]
        common: Common,
    }

    #[test]
    fn idle_sentence_names_source_time_and_end() {
        for (args, shows, text) in [
            (
                &["x"][..],
                Shows::Rows,
                "tracing TCP sessions as they end... Ctrl-C to end",
            ),
            (
                &["x", "-d2", "-n5"],
                Shows::Every(Duration::from_millis(500)),
                "tracing TCP sessions as they end, shown every 500ms... ends after 2s, ends after 5 rows, Ctrl-C to end",
            ),
            (
                &["x"],
                None.into(),
                "tracing TCP sessions as they end, shown at the end... Ctrl-C to end",
            ),
        ] {
            let tool = Tool::try_parse_from(args).unwrap();
            assert_eq!(sentence("tcplife", &tool.common.run, shows), text);
        }
    }
}
