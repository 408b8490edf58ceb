// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows kept in a file: JSON Lines, as the commands printed them, between a first line that says where, when and what,
//! and a last one that says for how long.

pub mod gzip;
mod read;
mod write;

use std::path::Path;
use std::time::Duration;

use nix::sys::utsname::uname;
use serde_json::json;

pub use self::read::Recording;
pub use self::write::Recorder;

use super::{Forwarded, Source};
use crate::kernel::clock::{Clock, boot_ns};
use crate::output::logs::{Host, boot_id};

/// What the first line says.
pub struct Header<'a> {
    pub sources: &'a [Source],
    pub filters: &'a Forwarded,
    /// The name of this host, if it is to be kept.
    pub host: Option<&'a Host>,
}

impl Header<'_> {
    /// With the newline.
    pub fn line(&self) -> String {
        let sources = self.sources.iter();
        let sources: Vec<_> = sources
            .map(|source| {
                [&[source.tool.to_owned()], &source.args[..]]
                    .concat()
                    .join(" ")
            })
            .collect();
        let words = self.filters.words().iter();
        let filters: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let name = uname().ok();
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let kernel = name.as_ref().map(|name| text(name.release()));
        let boot_id = Some(boot_id()).filter(|id| !id.is_empty());
        let now = boot_ns();
        let line = json!({
            "tool": "tcptools", "event": "recording", "ts": rfc3339(now), "boot_ns": now,
            "version": env!("CARGO_PKG_VERSION"), "kernel": kernel,
            "boot_id": boot_id, "host": self.host.map(|host| &host.name),
            "filters": filters, "sources": sources,
        });
        format!("{line}\n")
    }
}

fn rfc3339(boot_ns: u64) -> String {
    let mut clock = Clock::default();
    let (seconds, ns) = clock.rfc3339(boot_ns);
    format!("{seconds}.{ns:09}Z")
}

/// The last line, with the newline. `looked`: for how long; `notes`: what commands reported meanwhile; `host`: its name,
/// if that is kept.
pub fn last_line(looked: Duration, notes: &[String], host: Option<&str>) -> String {
    let now = boot_ns();
    let line = json!({
        "tool": "tcptools", "event": "recorded", "ts": rfc3339(now), "boot_ns": now,
        "duration_us": looked.as_micros() as u64, "notes": notes, "host": host,
    });
    format!("{line}\n")
}

/// Whether a file of this name is compressed.
pub fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "gz")
}
