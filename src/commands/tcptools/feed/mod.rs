// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of several commands in one order, of processes of the suite that run side by side.
//!
//! Each command is a process of its own: its privileges are dropped as ever, one that cannot run on this kernel does
//! not keep the others from it, and a row is what the command itself prints.

mod child;
mod connections;
mod forward;
mod live;
mod matching;
mod order;
mod recording;
mod row;

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::child::{Child, Said};
pub use self::connections::{Connection, Connections, Ends, MOST};
pub use self::forward::Forwarded;
pub use self::live::{Heard, Live, Running};
pub use self::matching::{Matching, flow_of, owner_of};
pub use self::order::Order;
pub use self::recording::{Header, Recorder, Recording, gzip, is_packed, last_line};
pub use self::row::Row;
use crate::kernel::clock::boot_ns;

/// A command to run, and its flags.
#[derive(Clone, Debug)]
pub struct Source {
    pub tool: &'static str,
    pub args: Vec<String>,
}

impl Source {
    pub fn new(tool: &'static str, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { tool, args }
    }
}

/// How many rows may wait for the reader. Beyond that the commands wait, and count what they lose.
const QUEUE: usize = 8192;

/// How long a row is held back for an earlier one of another command: rows wait in a command for what may still complete
/// them, at most 50 ms where the kernel has BTF.
const HELD: Duration = Duration::from_millis(300);

/// How long a command may take until its probes are attached. The verifier is slow on emulated machines.
const START: Duration = Duration::from_secs(60);

/// How long a command may take to end.
const END: Duration = Duration::from_secs(10);

/// How many messages of the commands are kept.
const NOTES: usize = 256;

/// Running commands.
pub struct Feed {
    children: Vec<Child>,
    said: Receiver<Said>,
    order: Order,
    running: usize,
    /// Since when the commands are told to end.
    stopped: Option<Instant>,
    /// Why a command did not run, or what it reported.
    notes: Vec<String>,
}

impl Feed {
    /// Starts all, and returns when each is attached or has ended.
    ///
    /// # Errors
    /// A sentence: none of them runs.
    pub fn start(sources: &[Source], filters: &Forwarded) -> Result<Self> {
        let (sender, said) = sync_channel(QUEUE);
        let mut children = Vec::new();
        let mut notes = Vec::new();
        for (at, source) in sources.iter().enumerate() {
            match Child::start(at, source, filters, sender.clone()) {
                Ok(child) => children.push(child),
                Err(error) => notes.push(format!("{}: {error:#}", source.tool)),
            }
        }
        let running = children.len();
        let until = Instant::now() + START;
        for child in &mut children {
            child.await_ready(until);
        }
        let feed = Self {
            order: Order::default(),
            children,
            said,
            running,
            stopped: None,
            notes,
        };
        if !feed.children.iter().any(Child::is_ready) {
            bail!("{}", feed.refusal());
        }
        Ok(feed)
    }

    /// Why nothing runs: the first reason, as all mostly have the same.
    fn refusal(mut self) -> String {
        while self.next(Instant::now() + END).is_some() {}
        let first = self.notes.first();
        first.map_or_else(|| "no command runs".to_owned(), Clone::clone)
    }

    /// Until a row can be handed on, all commands have ended, or the time has come.
    ///
    /// Rows come in the order of their events, `boot_ns`, as far as they come within [`HELD`] of each other.
    pub fn next(&mut self, until: Instant) -> Option<Row> {
        loop {
            let settled = match self.is_ending() {
                true => 0,
                false => boot_ns().saturating_sub(HELD.as_nanos() as u64),
            };
            if let Some(row) = self.order.take(settled, self.running == 0) {
                return Some(row);
            }
            if self.running == 0 {
                return None;
            }
            let left = until.checked_duration_since(Instant::now())?;
            let look = if self.order.is_empty() {
                left
            } else {
                HELD / 4
            };
            match self.said.recv_timeout(look.min(left)) {
                Ok(said) => self.hear(said),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.running = 0,
            }
        }
    }

    /// Whether last rows come, each command's in its own time: then all are held back until the last command has ended.
    fn is_ending(&self) -> bool {
        self.running > 0 && self.stopped.is_some_and(|since| since.elapsed() < END)
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Row(row) => self.order.put(row),
            Said::Note(note) if self.notes.len() < NOTES => self.notes.push(note),
            Said::Note(_) => {}
            Said::End => self.running -= 1,
        }
    }

    /// Whether all commands have ended, and all their rows were taken.
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.order.is_empty()
    }

    /// Ends the commands; their last rows still come from [`next`](Self::next).
    pub fn stop(&mut self) {
        self.stopped.get_or_insert_with(Instant::now);
        self.children.iter_mut().for_each(Child::stop);
    }

    /// What commands have reported since the last call: why one does not run, what was lost.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
        // A thread that waits for room would keep its command from ending.
        let until = Instant::now() + END;
        while Instant::now() < until && self.next(until).is_some() {}
    }
}
