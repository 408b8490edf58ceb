// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows kept in a file: JSON Lines, as the commands printed them, between a first line that says where, when and what,
//! and a last one that says for how long.

pub mod gzip;
mod read;
mod write;

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::utsname::uname;
use serde_json::json;

pub use self::read::Recording;
pub use self::write::Recorder;

use super::{Forwarded, Source};
use crate::kernel::clock::{Clock, boot_ns};

/// What the first line says.
pub struct Header<'a> {
    pub sources: &'a [Source],
    pub filters: &'a Forwarded,
    /// With the name of this host.
    pub host: bool,
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
        let host = name.as_ref().filter(|_| self.host);
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let now = boot_ns();
        let line = json!({
            "tool": "tcptools", "event": "recording", "ts": rfc3339(now), "boot_ns": now,
            "version": env!("CARGO_PKG_VERSION"), "kernel": kernel,
            "boot_id": boot_id.as_deref().map(str::trim),
            "host": host.map(|name| text(name.nodename())),
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

/// The last line, with the newline. `looked`: for how long; `notes`: what commands reported meanwhile.
pub fn last_line(looked: Duration, notes: &[String]) -> String {
    let now = boot_ns();
    let line = json!({
        "tool": "tcptools", "event": "recorded", "ts": rfc3339(now), "boot_ns": now,
        "duration_us": looked.as_micros() as u64, "notes": notes,
    });
    format!("{line}\n")
}

/// Whether a file of this name is compressed.
pub fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "gz")
}
