// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel's own trace says of an event: a trace instance of its own, gone with the value.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};

use crate::scratch::Scratch;

/// The events, mounted for as long as the value lives.
struct Tracefs(Scratch);

impl Tracefs {
    fn mount() -> Result<Self> {
        let at = Scratch::path("tracefs");
        fs::create_dir(&*at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tracefs", "none", at.text()])
            .status()?;
        ensure!(mounted.success(), "tracefs cannot be mounted");
        Ok(Self(at))
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = Command::new("umount").arg(self.0.text()).status();
    }
}

/// The record of `category/event` has this field, by the kernel's own description, which needs no type information.
pub fn record_has(event: &str, field: &str) -> Result<bool> {
    let tracefs = Tracefs::mount()?;
    let format = fs::read_to_string(tracefs.0.join("events").join(event).join("format"))?;
    let names = format.split(';').filter_map(|part| part.rsplit(' ').next());
    Ok(names
        .map(|name| name.split('[').next().unwrap_or(name))
        .any(|name| name == field))
}

pub struct Trace {
    dir: PathBuf,
    name: String,
    _tracefs: Tracefs,
}

impl Trace {
    /// Of `category/event`, those that pass the filter (`0`: all).
    pub fn of(event: &str, filter: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tracefs = Tracefs::mount()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("tcptools-{}-{number}", std::process::id());
        let dir = tracefs.0.join("instances").join(instance);
        let (_, name) = event.split_once('/').context("category/event")?;
        let name = name.to_owned();
        let trace = Self {
            dir,
            name,
            _tracefs: tracefs,
        };
        fs::create_dir(&trace.dir)?;
        let event = trace.dir.join("events").join(event);
        fs::write(event.join("filter"), filter)?;
        fs::write(event.join("enable"), "1")?;
        Ok(trace)
    }

    /// The records so far, a line each; it ends here.
    pub fn lines(&self) -> Result<Vec<String>> {
        fs::write(self.dir.join("tracing_on"), "0")?;
        let text = fs::read_to_string(self.dir.join("trace"))?;
        let event = format!(" {}: ", self.name);
        let ours = text.lines().filter(|line| line.contains(&event));
        Ok(ours.map(str::to_owned).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = fs::remove_dir(&self.dir);
    }
}
