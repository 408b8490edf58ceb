// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the screen shows, and what keys change of it. Knows no terminal.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::choice::Choice;
use super::super::groups::{self, Groups, Talker};
use super::super::sort::{First, Ranked, Sort};
use super::super::traffic::{Connection, Id};
use super::text;
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;

/// What the caller has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Draw,
    Quit,
    /// Ctrl-Z.
    Suspend,
}

/// A line of the table.
#[allow(
    clippy::large_enum_variant,
    reason = "there are nearly always connections only"
)]
#[derive(Clone, Copy)]
pub(super) enum Line {
    Connection(Connection),
    Group(Talker),
}

/// Sums of an interval, over all connections whatever is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) connections: u64,
    pub(super) closed: u64,
    pub(super) stuck: u64,
    pub(super) tx: u64,
    pub(super) rx: u64,
    pub(super) retrans: u64,
}

impl Sums {
    pub(super) fn add(&mut self, one: &Connection) {
        self.connections += 1;
        self.closed += u64::from(one.is_closed());
        self.stuck += u64::from(one.why().is_stuck());
        self.tx += one.tx;
        self.rx += one.rx;
        self.retrans += u64::from(one.retrans);
    }
}

/// A look at all connections.
#[derive(Default)]
pub(super) struct Interval {
    /// The first of them in the order of that time.
    pub(super) connections: Vec<Connection>,
    pub(super) sums: Sums,
    pub(super) interval_us: u64,
    /// The time of day.
    pub(super) time: String,
}

/// A connection that is shown alone.
pub(super) struct Opened {
    pub(super) id: Id,
    pub(super) last: Connection,
    /// Bytes per second sent and received, congestion window, round-trip time: a point per interval.
    pub(super) history: [VecDeque<u64>; 4],
}

/// Points of a history that are kept: more than a screen is wide.
const POINTS: usize = 300;

impl Opened {
    fn new(one: &Connection) -> Self {
        let mut opened = Self {
            id: one.id(),
            last: *one,
            history: Default::default(),
        };
        opened.add(one);
        opened
    }

    fn add(&mut self, one: &Connection) {
        self.last = *one;
        let rate = |bytes: u64| {
            let rate = u128::from(bytes) * 1_000_000;
            rate.checked_div(one.interval_us.into()).unwrap_or_default() as u64
        };
        let points = [
            rate(one.tx),
            rate(one.rx),
            one.conn.snd_cwnd.into(),
            one.conn.rtt_us.into(),
        ];
        for (line, point) in self.history.iter_mut().zip(points) {
            line.push_back(point);
            if line.len() > POINTS {
                line.pop_front();
            }
        }
    }
}

/// Everything that a picture is made of.
pub(super) struct State {
    pub(super) choice: Choice,
    pub(super) every: String,
    pub(super) interval: Interval,
    /// Only what has this in it.
    pub(super) filter: String,
    /// Only what is in this group.
    pub(super) within: Option<(Keys, Group)>,
    /// A filter that is being typed.
    pub(super) typing: Option<String>,
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) opened: Option<Opened>,
    pub(super) lines: Vec<Line>,
    pub(super) selected: usize,
    pub(super) note: Option<String>,
}

impl State {
    pub(super) fn new(choice: Choice, every: String) -> Self {
        Self {
            choice,
            every,
            interval: Interval::default(),
            filter: String::new(),
            within: None,
            typing: None,
            paused: false,
            help: false,
            opened: None,
            lines: Vec::new(),
            selected: 0,
            note: None,
        }
    }

    /// The next interval, unless the screen is paused.
    pub(super) fn show(&mut self, interval: Interval) {
        if self.paused {
            return;
        }
        if let Some(opened) = &mut self.opened {
            let mut all = interval.connections.iter();
            if let Some(one) = all.find(|one| one.id() == opened.id) {
                opened.add(one);
            }
        }
        self.interval = interval;
        self.arrange();
    }

    /// Whether a connection is among those that are shown, whatever the order.
    fn passes(&self, one: &Connection) -> bool {
        let within = self.within.as_ref();
        within.is_none_or(|(keys, group)| keys.is_one(group, &groups::group(keys, one)))
            && (self.filter.is_empty() || text::matches(one, &self.filter))
    }

    /// Makes the lines of the interval, and keeps the selection on what it is on.
    fn arrange(&mut self) {
        let selected = self.lines.get(self.selected).map(key);
        let shown = self.interval.connections.iter();
        let shown = shown.filter(|one| self.passes(one));
        let (sort, most) = (self.choice.sort, usize::MAX);
        let lines = match &self.choice.by {
            None => {
                let mut first = First::new(sort, most);
                let shown = shown.filter(|one| self.choice.shows(one));
                shown.for_each(|one| first.add(*one));
                first.take().0.into_iter().map(Line::Connection).collect()
            }
            Some(by) => {
                let mut groups = Groups::new(by.clone());
                let shown = shown.filter(|one| self.choice.counts(one));
                shown.for_each(|one| groups.add(one));
                let mut first = First::new(sort, most);
                let all = self.choice.all;
                let shown = groups.take(self.interval.interval_us);
                let shown = shown.filter(|one| all || one.value(sort) != (0, 0));
                shown.for_each(|one| first.add(one));
                first.take().0.into_iter().map(Line::Group).collect()
            }
        };
        self.lines = lines;
        let at =
            selected.and_then(|key_before| self.lines.iter().position(|l| key(l) == key_before));
        let last = self.lines.len().saturating_sub(1);
        self.selected = at.unwrap_or(self.selected).min(last);
    }

    pub(super) fn key(&mut self, event: KeyEvent) -> Act {
        let control = event.modifiers.contains(KeyModifiers::CONTROL);
        match event.code {
            KeyCode::Char('c') if control => return Act::Quit,
            KeyCode::Char('z') if control => return Act::Suspend,
            _ => {}
        }
        if self.typing.is_some() {
            self.type_filter(event.code);
            return Act::Draw;
        }
        if std::mem::take(&mut self.help) {
            return if event.code == KeyCode::Char('q') {
                Act::Quit
            } else {
                Act::Draw
            };
        }
        match event.code {
            KeyCode::Char('q') => return Act::Quit,
            KeyCode::Char('h' | '?') => self.help = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = Some(self.filter.clone()),
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            _ if self.opened.is_some() => {}
            KeyCode::Enter => self.open(),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::PageUp => self.select(-10),
            KeyCode::PageDown => self.select(10),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = self.lines.len().saturating_sub(1),
            code => self.choose(code),
        }
        Act::Draw
    }

    /// Keys that change the order, or what is shown.
    fn choose(&mut self, code: KeyCode) {
        let choice = &mut self.choice;
        match code {
            KeyCode::Char('s') | KeyCode::Right => choice.sort = choice.sort.next(false),
            KeyCode::Char('S') | KeyCode::Left => choice.sort = choice.sort.next(true),
            KeyCode::Char('g') => {
                choice.by = Keys::next(choice.by.as_ref());
                self.within = None;
            }
            KeyCode::Char('a') => choice.all = !choice.all,
            KeyCode::Char('w') => {
                let stalled = choice.stalled_us.is_none();
                choice.stalled_us = stalled.then_some(0);
                choice.sort = if stalled { Sort::Stalled } else { Sort::Rate };
            }
            _ => return,
        }
        self.selected = 0;
        self.lines.clear();
        self.arrange();
    }

    fn type_filter(&mut self, code: KeyCode) {
        /// As much as fits a narrow screen.
        const LONGEST: usize = 64;
        let Some(typed) = &mut self.typing else {
            return;
        };
        match code {
            KeyCode::Char(c) if typed.chars().count() < LONGEST => typed.push(c),
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Enter => {
                self.filter = self.typing.take().unwrap_or_default();
                self.selected = 0;
                self.arrange();
            }
            KeyCode::Esc => self.typing = None,
            _ => {}
        }
    }

    fn select(&mut self, by: isize) {
        let last = self.lines.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(by).min(last);
    }

    /// Shows a connection alone, or those of a group.
    fn open(&mut self) {
        match self.lines.get(self.selected) {
            Some(Line::Connection(one)) => self.opened = Some(Opened::new(one)),
            Some(Line::Group(group)) => {
                let keys = self.choice.by.take();
                self.within = keys.map(|keys| (keys, group.group));
                self.selected = 0;
                self.lines.clear();
                self.arrange();
            }
            None => {}
        }
    }

    /// Undoes one thing, the last first.
    fn back(&mut self) {
        if self.opened.take().is_some() {
            return;
        }
        if let Some((by, _)) = self.within.take() {
            self.choice.by = Some(by);
        } else if self.filter.is_empty() {
            self.choice.by = None;
        } else {
            self.filter.clear();
        }
        self.selected = 0;
        self.lines.clear();
        self.arrange();
    }
}

/// By what a line is found again.
fn key(line: &Line) -> (Option<Id>, Option<Group>) {
    match line {
        Line::Connection(one) => (Some(one.id()), None),
        Line::Group(group) => (None, Some(group.group)),
    }
}
