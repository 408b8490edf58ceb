// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every order in which the steps of the reader and of some programs can happen: no record is slept over.
//!
//! The programs' steps are those of `bpf/common/events.bpf.h`: event_submit(), reader_wake().

use std::collections::{HashSet, VecDeque};

use super::Pace;

/// Records that the buffer has room for; a bell takes as much as one.
const ROOM: u64 = 2;
/// A record whose place is the last of so many wakes the reader.
const WAKES_EACH: u64 = 2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Program {
    Reserves,
    Commits(u64),
    ReadsWord,
    ReservesBell,
    ClearsWord(u64),
    Rings(u64),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reader {
    Waits,
    Looks,
    /// So many were there, and whether the next one was being written.
    ReadsWord(usize, bool),
    Says(bool),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    programs: Vec<Program>,
    reader: Reader,
    pace: Pace,
    /// `sleeper.asleep`
    word: bool,
    /// A wake-up is under way (an interrupt delivers it), and is there.
    wakes: bool,
    woken: bool,
    /// The reader's place, and from there on: whether it is committed, and a record.
    taken: u64,
    buffer: VecDeque<(bool, bool)>,
}

impl World {
    fn new(programs: usize) -> Self {
        Self {
            programs: vec![Program::Reserves; programs],
            reader: Reader::Looks,
            pace: Pace::new(true),
            word: false,
            wakes: false,
            woken: false,
            taken: 0,
            buffer: VecDeque::new(),
        }
    }

    fn reserve(&mut self, record: bool) -> Option<u64> {
        let place = self.taken + self.buffer.len() as u64;
        (self.buffer.len() < ROOM as usize).then(|| self.buffer.push_back((false, record)))?;
        Some(place)
    }

    fn commit(&mut self, place: u64, wakes: bool) {
        self.buffer[(place - self.taken) as usize].0 = true;
        self.wakes |= wakes;
    }

    /// One step of a program.
    fn step(&mut self, index: usize) {
        self.programs[index] = match self.programs[index] {
            // A lost event is counted.
            Program::Reserves => self.reserve(true).map_or(Program::Ended, Program::Commits),
            Program::Commits(place) => {
                self.commit(place, place % WAKES_EACH == WAKES_EACH - 1);
                Program::ReadsWord
            }
            Program::ReadsWord if self.word => Program::ReservesBell,
            Program::ReservesBell => {
                let bell = self.reserve(false);
                bell.map_or(Program::Ended, Program::ClearsWord)
            }
            Program::ClearsWord(place) => {
                self.word = false;
                Program::Rings(place)
            }
            Program::Rings(place) => {
                self.commit(place, true);
                Program::Ended
            }
            Program::ReadsWord | Program::Ended => Program::Ended,
        };
    }

    /// One step of the reader; false if it sleeps.
    fn read(&mut self) -> bool {
        self.reader = match self.reader {
            Reader::Waits => {
                let sleeps = self.pace.rest().is_none();
                if sleeps && !self.woken {
                    return false;
                }
                // epoll drops a wake-up if there is nothing to read.
                let dropped = std::mem::take(&mut self.woken) && self.buffer.is_empty();
                if sleeps && dropped {
                    Reader::Waits
                } else {
                    Reader::Looks
                }
            }
            Reader::Looks => {
                let mut records = 0;
                while let Some(&(true, record)) = self.buffer.front() {
                    self.buffer.pop_front();
                    self.taken += 1;
                    records += usize::from(record);
                }
                Reader::ReadsWord(records, records == 0 && !self.buffer.is_empty())
            }
            Reader::ReadsWord(records, unwritten) => {
                let before = self.pace;
                self.pace = before.next(records, unwritten, self.word);
                self.pace.says(before).map_or(Reader::Waits, Reader::Says)
            }
            Reader::Says(asleep) => {
                self.word = asleep;
                Reader::Waits
            }
        };
        true
    }

    /// All that can follow.
    fn next(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for index in 0..self.programs.len() {
            if self.programs[index] != Program::Ended {
                let mut next = self.clone();
                next.step(index);
                // Which of them is where makes no difference.
                next.programs.sort_unstable();
                all.push(next);
            }
        }
        if self.wakes {
            let mut next = self.clone();
            (next.wakes, next.woken) = (false, true);
            all.push(next);
        }
        let mut next = self.clone();
        if next.read() {
            all.push(next);
        }
        all
    }
}

#[test]
fn no_record_is_slept_over() {
    let mut seen = HashSet::new();
    let mut left = vec![World::new(3)];
    let mut sleeps = 0;
    while let Some(world) = left.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        let next = world.next();
        if next.is_empty() {
            assert!(world.buffer.is_empty(), "slept over: {world:?}");
            sleeps += 1;
        }
        left.extend(next);
    }
    assert!(sleeps > 0, "the reader never sleeps");
}
