// SPDX-License-Identifier: MIT OR Apache-2.0
//! `-Y`: each row to the systemd journal, beside standard output, with the fields of bcc's tcpstates, too.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

use super::Args;
use super::bpf::types::transition;
use super::columns::{columns, in_state_us};
use crate::abi::names::tcp_state;
use crate::abi::types::Record;
use crate::error::Usage;
use crate::output::logs::{framed, socket::Journal};
use crate::output::{Format, Rows, Style};

/// Entries of the journal.
pub struct Log {
    journal: Journal,
    rows: Rows<transition>,
    entry: Vec<u8>,
}

impl Log {
    /// # Errors
    /// A sentence: nothing listens, or rows go there already.
    pub fn open(args: &Args) -> Result<Self> {
        let output = &args.common.output;
        if output.format() == Format::Journal {
            return Err(Usage("--journal cannot be used with --output journal".into()).into());
        }
        let style = Style {
            format: Format::Journal,
            host: output.style().host,
            ..Style::default()
        };
        Ok(Self {
            journal: Journal::open(&output.journal_socket)?,
            rows: Rows::new("tcpstates", style, columns(args.skaddr))?,
            entry: Vec::with_capacity(2048),
        })
    }

    /// An entry; what is not known is left out.
    pub fn row(&mut self, body: &transition) {
        self.entry.clear();
        let out = &mut self.entry;
        self.rows.row(out, "state_change", &body.into());
        let Some((entry, length)) = framed(out) else {
            return;
        };
        let begin = length - entry.len();
        of_bcc(out, body);
        self.journal.send(out.get(begin..).unwrap_or_default());
    }

    /// See [`Rows::refresh_clock`].
    pub fn refresh_clock(&mut self) {
        self.rows.refresh_clock();
    }

    /// `last`: the run ends.
    pub fn say_lost(&mut self, last: bool) {
        self.journal.report("tcpstates", last);
    }

    /// How many entries the journal did not accept.
    pub fn lost(&self) -> u64 {
        self.journal.lost()
    }

    /// When more of them are due to be reported.
    pub fn due(&self) -> Option<Instant> {
        self.journal.due()
    }
}

/// Adds the fields of bcc's tcpstates that no entry of ours has.
fn of_bcc(out: &mut Vec<u8>, body: &transition) {
    let head = body.head();
    let version = if head.flow.family == 4 { 4 } else { 6 };
    // Writing to memory does not fail.
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "OBJECT_{name}={value}");
    };
    field(&format!("IPV{version}_SOURCE_ADDRESS"), &head.local());
    field("TCP_SOURCE_PORT", &head.flow.lport);
    field(&format!("IPV{version}_DESTINATION_ADDRESS"), &head.remote());
    field("TCP_DESTINATION_PORT", &head.flow.rport);
    field("TCP_OLD_STATE", &tcp_state(body.old_state));
    field("TCP_NEW_STATE", &tcp_state(body.new_state));
    if let Some(us) = in_state_us(body) {
        field("TCP_SPAN_TIME", &us);
    }
    if head.cookie != 0 {
        field("TCP_COOKIE", &head.cookie);
    }
}
