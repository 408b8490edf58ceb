// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long the reader waits before it looks into the kernel's buffer again.
//!
//! While records come, it looks by itself, so that no program has to wake it. When none have come, it says that it
//! sleeps (`bpf/common/events.bpf.h`), looks once more, and waits for the next record, however long that takes.

use std::time::Duration;

/// The wait while few records come, which is how late a row may be.
const LEAST: Duration = Duration::from_millis(1);

/// The wait while many come. The kernel wakes the reader earlier when the buffer fills.
const MOST: Duration = Duration::from_millis(20);

/// Records per millisecond that are many: a look costs as much as some of them.
const MANY: u128 = 4;

/// Where nobody wakes the reader, or not for one record.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// What the reader does when it has taken all that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pace {
    /// Looks again after this time.
    Awake(Duration),
    /// Has said that it sleeps, and looks once more.
    Drowsy,
    /// Waits for a record.
    Asleep,
    /// The kernel cannot wake it: looks from time to time.
    Polls,
}

impl Pace {
    /// Of a reader that has just started.
    pub(super) fn new(can_sleep: bool) -> Self {
        match can_sleep {
            true => Self::Awake(LEAST),
            false => Self::Polls,
        }
    }

    /// How long to wait; `None`: until the kernel says that there is a record.
    pub(super) fn rest(self) -> Option<Duration> {
        match self {
            Self::Awake(rest) => Some(rest),
            Self::Drowsy => Some(Duration::ZERO),
            Self::Asleep => None,
            Self::Polls => Some(POLL),
        }
    }

    /// After a wait that brought so many records. `unwritten`: none, because a program is still writing the next one.
    /// It may find no room any more to wake the reader, which therefore sleeps only before an empty buffer: by the time
    /// that one is full, a record in it has woken the reader (`bpf/common/events.bpf.h: wakes_reader`).
    ///
    /// `says`: the kernel half still knows that the reader sleeps.
    pub(super) fn next(self, records: usize, unwritten: bool, says: bool) -> Self {
        match self {
            Self::Polls => Self::Polls,
            Self::Awake(rest) if unwritten || records as u128 >= MANY * rest.as_millis() => {
                Self::Awake((rest * 2).min(MOST))
            }
            _ if unwritten || records > 0 => Self::Awake(LEAST),
            Self::Drowsy | Self::Asleep if says => Self::Asleep,
            _ => Self::Drowsy,
        }
    }

    /// What the kernel half is to be told now, if anything: whether the reader sleeps. `before`: the pace so far.
    pub(super) fn says(self, before: Self) -> Option<bool> {
        match (before, self) {
            (_, Self::Drowsy) => Some(true),
            (Self::Drowsy | Self::Asleep, Self::Awake(_)) => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_only_after_a_second_look() {
        let mut pace = Pace::new(true);
        let mut rests = Vec::new();
        for records in [3, 0, 0, 0, 1, 0, 2, 0, 0] {
            rests.push(pace.rest());
            pace = pace.next(records, false, true);
        }
        let (look, once_more, sleep) = (Some(LEAST), Some(Duration::ZERO), None);
        assert_eq!(
            rests,
            [
                look, look, once_more, sleep, sleep, look, once_more, look, once_more
            ]
        );
        assert_eq!(pace, Pace::Asleep);
    }

    #[test]
    fn says_again_what_a_program_has_cleared() {
        let woken = Pace::Asleep.next(0, false, false);
        assert_eq!(woken, Pace::Drowsy);
        assert_eq!(woken.next(0, false, false), Pace::Drowsy);
        assert_eq!(woken.next(0, false, true), Pace::Asleep);
    }

    #[test]
    fn does_not_sleep_before_a_record_that_is_being_written() {
        for pace in [Pace::Drowsy, Pace::Asleep] {
            let mut pace = pace.next(0, true, true);
            assert_eq!(pace.rest(), Some(LEAST));
            for _ in 0..10 {
                pace = pace.next(0, true, false);
            }
            assert_eq!(pace.rest(), Some(MOST));
        }
    }

    #[test]
    fn waits_longer_while_many_records_come() {
        let mut pace = Pace::new(true);
        for _ in 0..10 {
            pace = pace.next(1000, false, false);
        }
        assert_eq!(pace.rest(), Some(MOST));
        assert_eq!(pace.next(20, false, false).rest(), Some(LEAST), "few");
        assert_eq!(pace.next(0, false, false), Pace::Drowsy);
    }

    #[test]
    fn polls_where_nobody_wakes_it() {
        let pace = Pace::new(false);
        for records in [0, 1, 100_000] {
            assert_eq!(pace.next(records, false, false).rest(), Some(POLL));
        }
    }
}
