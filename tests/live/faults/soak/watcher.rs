// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command that runs all the time. Its rows are counted as they come, and not kept.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cli_contract::{command, kill_at_last, signal, until_exists},
    faults::objects::Objects,
    scratch::Scratch,
};

pub struct Watcher {
    pub tool: &'static str,
    pub args: &'static [&'static str],
    child: Child,
    seen: Arc<Seen>,
    readers: [JoinHandle<()>; 2],
    _ready: Scratch,
}

#[derive(Default)]
struct Seen {
    rows: AtomicU64,
    /// Of those that the kernel counts.
    counted: AtomicU64,
    last: Mutex<Value>,
    messages: Mutex<Vec<String>>,
}

/// How many of what the kernel counts a row stands for.
fn worth(tool: &str, row: &Value) -> u64 {
    match tool {
        "tcpstates" => u64::from(row["new_state"] == "SYN_SENT"),
        "tcpretrans" => row["segs"].as_u64().unwrap_or(1),
        "tcpinfo" => u64::from(row["rport"] != 0),
        "sockbuf" => u64::from(row["event"] == "udp_fail_queue_rcv"),
        _ => 1,
    }
}

impl Watcher {
    pub fn start(
        tool: &'static str,
        args: &'static [&'static str],
        networks: &str,
    ) -> Result<Self> {
        let ready = Scratch::path("ready");
        let common = ["--json", "--buffer", "8192", "--addr", networks];
        let ready_args = ["--ready-file", ready.text()];
        let mut child = command("", tool, &[&common[..], args, &ready_args].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let seen = Arc::<Seen>::default();
        let rows = BufReader::new(child.stdout.take().context("no stdout")?);
        let said = BufReader::new(child.stderr.take().context("no stderr")?);
        let (of_rows, of_said) = (Arc::clone(&seen), Arc::clone(&seen));
        let readers = [
            thread::spawn(move || {
                for line in rows.lines().map_while(Result::ok) {
                    of_rows.take(tool, &line);
                }
            }),
            thread::spawn(move || {
                for line in said.lines().map_while(Result::ok) {
                    of_said.messages.lock().expect("no panic").push(line);
                }
            }),
        ];
        let watcher = Self {
            tool,
            args,
            child,
            seen,
            readers,
            _ready: ready,
        };
        let begun = until_exists(&watcher._ready);
        begun.with_context(|| format!("{tool} {args:?}: {:?}", watcher.said()))?;
        Ok(watcher)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn rows(&self) -> u64 {
        self.seen.rows.load(Ordering::Relaxed)
    }

    pub fn counted(&self) -> u64 {
        self.seen.counted.load(Ordering::Relaxed)
    }

    pub fn objects(&self) -> Result<Objects> {
        Objects::of(self.pid())
    }

    /// What it has said since the last call.
    pub fn said(&self) -> Option<String> {
        let messages = std::mem::take(&mut *self.seen.messages.lock().expect("no panic"));
        (!messages.is_empty()).then(|| messages.join("; "))
    }

    /// Ends it.
    pub fn end(self) -> Result<Ended> {
        let objects = self.objects()?;
        signal(&self.child, Signal::SIGTERM)?;
        let status = kill_at_last(self.child)?;
        for reader in self.readers {
            reader.join().expect("no panic");
        }
        ensure!(status.success(), "{}: {status}", self.tool);
        objects.gone()?;
        let last = self.seen.last.lock().expect("no panic");
        ensure!(last["event"] == "summary", "{}: {last}", self.tool);
        let whole = last["lost"] == 0 && last["untracked"] == 0 && last["messages_lost"] == 0;
        Ok(Ended {
            skipped: last["skipped"].as_u64().context("skipped")?,
            complaint: (!whole).then(|| format!("{}: {last}", self.tool)),
        })
    }
}

/// What the summary of a command says.
pub struct Ended {
    /// Events that the kernel ran no program for.
    pub skipped: u64,
    /// Of losses, if there are any.
    pub complaint: Option<String>,
}

impl Seen {
    fn take(&self, tool: &str, line: &str) {
        let Ok(row) = serde_json::from_str::<Value>(line) else {
            let said = format!("{tool} wrote what is no JSON: {line}");
            return self.messages.lock().expect("no panic").push(said);
        };
        if row["event"] != "summary" {
            self.rows.fetch_add(1, Ordering::Relaxed);
            self.counted.fetch_add(worth(tool, &row), Ordering::Relaxed);
        }
        *self.last.lock().expect("no panic") = row;
    }
}
