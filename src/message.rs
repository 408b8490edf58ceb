// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one way of writing to standard error.

use std::fmt::Arguments;
use std::io::{Stderr, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::nonblocking::Writer;
use crate::output::escape;

/// How long a reader that does not read may hold up a message.
const MOMENT: Duration = Duration::from_millis(100);
/// How often what goes on and on is said again.
const AGAIN: Duration = Duration::from_secs(1);

/// Writes a line to standard error, as `eprintln!` does; one that cannot be written is counted, as a run must neither end
/// nor wait because nobody reads its messages.
#[macro_export]
macro_rules! message {
    ($($text:tt)*) => { $crate::message::line(format_args!($($text)*)) };
}

/// See [`message!`](crate::message!).
pub fn line(text: Arguments<'_>) {
    // Arguments, paths and names are in it, which may not move a cursor or begin a line.
    write(format_args!("{}\n", escape::text(&text.to_string())));
}

/// As [`line()`], for text that ends its own lines.
pub fn write(text: Arguments<'_>) {
    let mut writer = WRITER
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let writer = writer.get_or_insert_with(|| Channel {
        writer: Writer::new(stderr()),
        rest: Vec::new(),
        stalled: false,
    });
    if !writer.send(text.to_string().as_bytes()) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many messages could not be written.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

static WRITER: Mutex<Option<Channel>> = Mutex::new(None);
static LOST: AtomicU64 = AtomicU64::new(0);

struct Channel {
    writer: Writer<Stderr>,
    /// What is left of a message whose beginning is written.
    rest: Vec<u8>,
    /// The last message was not taken: the next one does not wait.
    stalled: bool,
}

impl Channel {
    fn send(&mut self, text: &[u8]) -> bool {
        let wait = if self.stalled { Duration::ZERO } else { MOMENT };
        let deadline = Instant::now() + wait;
        self.put(deadline);
        let mut sent = self.rest.is_empty();
        if sent {
            self.rest.extend_from_slice(text);
            self.put(deadline);
            // What was begun is not dropped: the next message must not go on in the middle of a line.
            sent = self.rest.len() < text.len() || self.writer.holds();
            if !sent {
                self.rest.clear();
            }
        }
        self.stalled = !sent || !self.rest.is_empty();
        sent
    }

    /// Writes of what is left as much as can be until then.
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

/// Whether a number that grows is worth a word: the first time, then once a second, and at the end.
#[derive(Debug, Default)]
pub struct Throttle {
    said: u64,
    when: Option<Instant>,
}

impl Throttle {
    /// `last`: what is not said now never will be.
    pub fn is_due(&mut self, now: u64, last: bool) -> bool {
        let rests = self.when.is_some_and(|when| when.elapsed() < AGAIN);
        if now <= self.said || rests && !last {
            return false;
        }
        self.said = now;
        self.when = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_always_said() {
        let mut throttle = Throttle::default();
        assert!(!throttle.is_due(0, true));
        assert!(throttle.is_due(1, false));
        assert!(!throttle.is_due(2, false), "within a second");
        assert!(throttle.is_due(2, true));
        assert!(!throttle.is_due(2, true), "nothing new");
    }
}
