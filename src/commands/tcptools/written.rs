// SPDX-License-Identifier: MIT OR Apache-2.0
//! How triage and follow write: a page for people, or records.

use std::borrow::Cow;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Map, Value};

use super::feed::Source;
use crate::error::Usage;
use crate::output::Format;
use crate::output::logs::{Host, Logs, socket};

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A page for people.
    #[default]
    Table,
    /// JSON Lines, documented in docs/json.md.
    Json,
    /// Entries of the systemd journal: docs/logs.md.
    Journal,
    /// OTLP/JSON log lines: docs/logs.md.
    Otlp,
}

/// The flags.
#[derive(clap::Args, Debug)]
pub struct Written {
    /// Set the output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Form,
    /// Same as --output json: one object per record
    #[arg(long, conflicts_with = "output")]
    pub json: bool,
    /// Name the host, as NAME or as itself, and its boot ID in each record
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub host: Option<Host>,
    /// Set the socket of the journal
    #[arg(long, hide = true, value_name = "PATH", default_value = socket::SOCKET)]
    journal_socket: PathBuf,
}

impl Written {
    /// The form, by whichever flag it was chosen.
    pub fn form(&self) -> Form {
        if self.json { Form::Json } else { self.output }
    }

    /// `keeps`: rows go to a file, too, which may name the host.
    ///
    /// # Errors
    /// A sentence: the journal is not there, or a flag has no effect.
    pub fn open(&self, keeps: bool) -> Result<()> {
        match self.form() {
            Form::Table if self.host.is_some() && !keeps => {
                let why = "--host cannot be used with a table: add --json or --output";
                Err(Usage(why.into()).into())
            }
            Form::Journal => socket::choose(&self.journal_socket),
            _ => Ok(()),
        }
    }

    /// Lines of JSON in the form that was chosen.
    pub fn encode<'t>(&self, lines: &'t str) -> Cow<'t, [u8]> {
        let format = match self.form() {
            Form::Table | Form::Json => return Cow::Borrowed(lines.as_bytes()),
            Form::Journal => Format::Journal,
            Form::Otlp => Format::Otlp,
        };
        let mut out = Vec::new();
        for line in lines.lines() {
            let Ok(Value::Object(record)) = serde_json::from_str(line) else {
                continue;
            };
            let tool = record.get("tool").and_then(Value::as_str);
            if let Some(logs) = Logs::new(format, tool.unwrap_or("tcptools"), self.host.as_ref()) {
                logs.object(&mut out, &record);
            }
        }
        Cow::Owned(out)
    }
}

/// The commands, told to name the host, too.
pub fn named(mut sources: Vec<Source>, host: Option<&Host>) -> Vec<Source> {
    let flag = host.map(|host| format!("--host={}", host.name));
    for source in &mut sources {
        source.args.extend(flag.clone());
    }
    sources
}

/// Adds the host to a record of `tcptools` itself.
pub fn name(record: &mut Map<String, Value>, host: Option<&Host>) {
    if let Some(host) = host {
        record.insert("host".into(), host.name.clone().into());
        record.insert("boot_id".into(), host.boot_id.into());
    }
}
