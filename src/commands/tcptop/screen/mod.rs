// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live screen: redrawn in place at each interval and key.

mod detail;
mod draw;
mod keys;
mod paint;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, raise};

use super::choice::Choice;
use super::look::Look;
use super::sort::First;
use super::traffic::Connection;
use crate::kernel::clock::{Clock, boot_ns};
use crate::output::message;
use crate::session::{Figures, Handler, Interval, Printer, Shows};

use state::{Act, State, Sums};
use terminal::Screen;
pub(super) use terminal::is_there;

/// Connections of an interval that keys can sort and filter; of more, the first ones in the order of the time.
const KEPT: usize = 10_000;

/// How often keys, and the size of the terminal, are looked for.
const KEYS: Duration = Duration::from_millis(50);

/// Draws, and reads keys.
pub(super) struct Live {
    look: Look,
    every: Interval,
    state: State,
    screen: Screen,
    colours: paint::Look,
    clock: Clock,
    /// Of the interval that is not over.
    first: First<Connection>,
    sums: Sums,
    boot_ns: u64,
    /// Something has changed that is not drawn.
    stale: bool,
}

impl Live {
    /// Shows connections as chosen, every `interval`, in `colour` or not.
    ///
    /// # Errors
    /// Never, as nothing is done with the terminal yet.
    pub(super) fn new(
        look: Look,
        choice: Choice,
        interval: Duration,
        colour: bool,
    ) -> Result<Self> {
        let first = First::new(choice.sort, KEPT);
        Ok(Self {
            look,
            every: Interval::new(Some(interval)),
            state: State::new(choice, format!("{interval:?}")),
            screen: Screen::new()?,
            colours: paint::Look { colour },
            clock: Clock::default(),
            first,
            sums: Sums::default(),
            boot_ns: 0,
            stale: true,
        })
    }

    /// The interval is over: all connections are looked at.
    fn next(&mut self) {
        let (first, sums) = (&mut self.first, &mut self.sums);
        let looked = self.look.all(|one| {
            sums.add(&one);
            first.add(one);
        });
        if let Err(error) = looked {
            crate::message!("tcptop: cannot show open connections: {error:#}");
        }
        let now = boot_ns();
        let interval_us = now.saturating_sub(self.boot_ns) / 1000;
        self.boot_ns = now;
        self.clock.refresh();
        let mut connections = self.first.take().0;
        for one in &mut connections {
            one.interval_us = interval_us;
        }
        self.first = First::new(self.state.choice.sort, KEPT);
        self.state.show(state::Interval {
            connections,
            sums: std::mem::take(&mut self.sums),
            interval_us,
            time: self.clock.local_time(now).to_owned(),
        });
        self.stale = true;
    }

    /// Keys that wait; whether to go on.
    fn keys(&mut self) -> Result<bool> {
        let Some(keys) = keys::waiting() else {
            return Ok(false);
        };
        for key in keys {
            self.stale = true;
            match self.state.key(key) {
                Act::Draw => {}
                Act::Quit => return Ok(false),
                Act::Suspend => {
                    terminal::leave();
                    let _ = raise(Signal::SIGTSTP);
                    self.screen.enter()?;
                }
            }
        }
        Ok(true)
    }

    fn draw(&mut self, out: &mut Printer) -> Result<()> {
        self.state.note = message::newest();
        let (state, colours) = (&self.state, self.colours);
        let bytes = self
            .screen
            .draw(|frame| draw::draw(frame, state, colours))?;
        out.picture(&bytes);
        self.stale = false;
        Ok(())
    }

    fn turn(&mut self, out: &mut Printer) -> Result<()> {
        if self.screen.was_taken() {
            self.screen.enter()?;
            self.stale = true;
        }
        self.stale |= self.screen.resize()?;
        if !self.keys()? {
            out.stop();
            return Ok(());
        }
        if self.every.is_due() {
            self.next();
        }
        // A picture is made of the one before, so that one must be there.
        if self.stale && out.is_idle() {
            self.draw(out)?;
        }
        Ok(())
    }
}

impl Handler for Live {
    fn header(&mut self, _out: &mut Vec<u8>) {}

    fn attached(&mut self) {
        self.look.begin();
        self.boot_ns = boot_ns();
        self.every.restart();
    }

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(one) = self.look.ended(record) {
            self.sums.add(&one);
            self.first.add(one);
        }
    }

    fn due(&self) -> Option<Instant> {
        let keys = Instant::now() + KEYS;
        self.every.due().into_iter().chain([keys]).min()
    }

    fn tick(&mut self, out: &mut Printer) {
        if let Err(error) = self.turn(out) {
            crate::message!("tcptop: {error:#}");
            out.stop();
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        out.discard();
        terminal::leave();
    }

    fn unvisited(&self) -> u64 {
        self.look.unvisited()
    }

    fn shows(&self) -> Shows {
        Shows::Picture
    }

    fn has_ends(&self) -> bool {
        true
    }

    fn summary(&mut self, _out: &mut Vec<u8>, _fields: &Figures) {}
}
