// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one way of writing to standard error.

use std::collections::VecDeque;
use std::fmt::Arguments;
use std::io::{IsTerminal, Stderr, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::output::{escape, nonblocking::Writer};

/// How long a stalled reader may delay a message.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);
/// The interval at which a growing number is reported again.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Writes a line to standard error, like `eprintln!`. A line that cannot be written is counted: a run must neither end
/// nor block because nobody reads its messages.
#[macro_export]
macro_rules! message {
    ($($text:tt)*) => { $crate::output::message::line(format_args!($($text)*)) };
}

/// See [`message!`](crate::message!).
pub fn line(text: Arguments<'_>) {
    // It may contain arguments, paths and names, which must not move the cursor or start a line.
    write(format_args!("{}\n", escape::text(&text.to_string())));
}

/// Like [`line()`], for text with its own line ends.
pub fn write(text: Arguments<'_>) {
    if keep(text) {
        return;
    }
    let sent = with_channel(|channel| channel.send(text.to_string().as_bytes()));
    if !sent {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Messages are kept for [`release`], if they would go to the terminal: it shows a picture now.
pub fn hold() {
    if stderr().is_terminal() {
        lock(&HELD).get_or_insert_default();
    }
}

/// Writes those that were kept, and from now on each at once.
pub fn release() {
    let held = lock(&HELD).take();
    for text in held.into_iter().flatten() {
        write(format_args!("{text}"));
    }
}

/// The newest one that was kept.
pub fn newest() -> Option<String> {
    let held = lock(&HELD);
    let newest = held.as_ref().and_then(VecDeque::back);
    newest.map(|text| text.trim_end().to_owned())
}

fn keep(text: Arguments<'_>) -> bool {
    let mut held = lock(&HELD);
    let Some(held) = held.as_mut() else {
        return false;
    };
    if held.len() >= MOST_HELD {
        held.pop_front();
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    held.push_back(text.to_string());
    true
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Opens standard error anew, as long as that is allowed.
pub(crate) fn open() {
    with_channel(|_| ());
}

fn with_channel<T>(act: impl FnOnce(&mut Channel) -> T) -> T {
    let mut writer = lock(&WRITER);
    act(writer.get_or_insert_with(|| Channel {
        writer: Writer::new(stderr()),
        rest: Vec::new(),
        stalled: false,
    }))
}

/// How many messages could not be written.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

static WRITER: Mutex<Option<Channel>> = Mutex::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);
/// `None`: they are not kept.
static HELD: Mutex<Option<VecDeque<String>>> = Mutex::new(None);
/// The newest of these are kept.
const MOST_HELD: usize = 1000;

struct Channel {
    writer: Writer<Stderr>,
    /// What is left of a message whose beginning is written.
    rest: Vec<u8>,
    /// The last message was not accepted: do not wait for the next one.
    stalled: bool,
}

impl Channel {
    fn send(&mut self, text: &[u8]) -> bool {
        let wait = if self.stalled {
            Duration::ZERO
        } else {
            WRITE_TIMEOUT
        };
        let deadline = Instant::now() + wait;
        self.put(deadline);
        let mut sent = self.rest.is_empty();
        if sent {
            self.rest.extend_from_slice(text);
            self.put(deadline);
            // A message that was begun is not dropped: the next one must not continue its line.
            sent = self.rest.len() < text.len() || self.writer.holds();
            if !sent {
                self.rest.clear();
            }
        }
        self.stalled = !sent || !self.rest.is_empty();
        sent
    }

    /// Writes as much of the rest as possible until the deadline.
    fn put(&mut self, deadline: Instant) {
        while !self.rest.is_empty() {
            let chunk = self.writer.chunk(&self.rest);
            match self.writer.try_write(chunk) {
                Ok(n) => drop(self.rest.drain(..n)),
                Err(Errno::EAGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.writer.wait(left) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// Limits how often a growing number is reported: the first time, then once a second, and at the end.
#[derive(Debug, Default)]
pub struct Throttle {
    said: u64,
    when: Option<Instant>,
    /// A larger number waits.
    waits: bool,
}

impl Throttle {
    /// `last`: this is the last chance to report it.
    pub fn is_due(&mut self, now: u64, last: bool) -> bool {
        let rests = self
            .when
            .is_some_and(|when| when.elapsed() < REPORT_INTERVAL);
        self.waits = now > self.said && rests && !last;
        if now <= self.said || self.waits {
            return false;
        }
        self.said = now;
        self.when = Some(Instant::now());
        true
    }

    /// When to ask again, if a number waits to be reported.
    pub fn due(&self) -> Option<Instant> {
        self.rests_until().filter(|_| self.waits)
    }

    /// The end of the time in which no number is reported, which may have passed.
    pub fn rests_until(&self) -> Option<Instant> {
        self.when.map(|when| when + REPORT_INTERVAL)
    }
}

/// Reports network namespaces that could not be entered, with the consequence and the remedy.
pub(crate) fn unvisited(tool: &str, what: &str, unvisited: u64) {
    crate::message!(
        "{tool}: cannot enter {unvisited} network namespaces, so {what} there stay unknown: this needs CAP_SYS_ADMIN, CAP_SYS_PTRACE, one more process, and open files (ulimit -n)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_number_is_always_reported() {
        let mut throttle = Throttle::default();
        assert!(!throttle.is_due(0, true));
        assert!(throttle.is_due(1, false));
        assert_eq!(throttle.due(), None, "nothing waits");
        assert!(!throttle.is_due(2, false), "within a second");
        assert!(throttle.due().is_some_and(|due| due > Instant::now()));
        assert!(throttle.is_due(2, true));
        assert_eq!(throttle.due(), None);
        assert!(!throttle.is_due(2, true), "nothing new");
    }
}
