// SPDX-License-Identifier: MIT OR Apache-2.0
//! When something is due that happens at an interval.

use std::time::{Duration, Instant};

/// A timer that is asked. It does not drift, and after a pause it is due once, not once for each interval that passed.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// `None`: never due.
    length: Option<Duration>,
    due: Instant,
}

impl Interval {
    /// First due one interval from now; never, when there is none.
    pub fn new(length: Option<Duration>) -> Self {
        Self::from(Instant::now(), length)
    }

    /// First due now, and then one interval after each [`Interval::restart`].
    pub fn at_once(length: Duration) -> Self {
        Self {
            length: Some(length),
            due: Instant::now(),
        }
    }

    fn from(start: Instant, length: Option<Duration>) -> Self {
        let length = length.filter(|length| !length.is_zero());
        // What lies beyond the clock is never due.
        let due = length.and_then(|length| start.checked_add(length));
        Self {
            length: length.filter(|_| due.is_some()),
            due: due.unwrap_or(start),
        }
    }

    /// How long it is, if there is one.
    pub fn length(&self) -> Option<Duration> {
        self.length
    }

    /// When it is time, if ever.
    pub fn due(&self) -> Option<Instant> {
        self.length.map(|_| self.due)
    }

    /// Whether it is time; if so, the next interval has begun.
    pub fn is_due(&mut self) -> bool {
        self.is_due_at(Instant::now())
    }

    /// Whether it is time. It stays so until the next [`Interval::is_due`] or [`Interval::restart`].
    pub fn has_passed(&self) -> bool {
        self.length.is_some() && Instant::now() >= self.due
    }

    /// Due one interval from now: for what happens at most so often.
    pub fn restart(&mut self) {
        *self = Self::new(self.length);
    }

    /// The times that are due are whole intervals from the start, of which those in the past are skipped.
    fn is_due_at(&mut self, now: Instant) -> bool {
        let Some(length) = self.length.filter(|_| now >= self.due) else {
            return false;
        };
        let late = (now - self.due).as_nanos() % length.as_nanos();
        let left = length.saturating_sub(Duration::from_nanos(late.try_into().unwrap_or(u64::MAX)));
        match now.checked_add(left) {
            Some(due) => self.due = due,
            None => self.length = None,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How often it is due when it is asked at these times after the start.
    fn due(length: Duration, asked: impl IntoIterator<Item = Duration>) -> usize {
        let start = Instant::now();
        let mut interval = Interval::from(start, Some(length));
        let asked = asked.into_iter();
        asked.filter(|t| interval.is_due_at(start + *t)).count()
    }

    #[test]
    fn no_drift() {
        // Asked every 50 ms and always 7 ms late, for a thousand intervals.
        let asked = (0..20_000).map(|n| Duration::from_millis(n * 50 + 7));
        assert_eq!(due(SECOND, asked), 999);
        let exact = (0..=1000).map(|n| SECOND * n);
        assert_eq!(due(SECOND, exact), 1000);
    }

    #[test]
    fn no_catching_up() {
        let pause = [
            7 * SECOND,
            7 * SECOND + SECOND / 20,
            7 * SECOND + SECOND / 10,
        ];
        assert_eq!(due(SECOND, pause), 1);
        // And goes on at whole seconds from the start.
        let after = [SECOND * 15 / 2, SECOND * 79 / 10, SECOND * 8];
        assert_eq!(due(SECOND, after), 2);
    }

    proptest! {
        /// However long the pauses are: once for all intervals that have ended since it was due last.
        #[test]
        fn due_once_after_a_pause(length in 1..100_000u64, pauses in vec(0..1_000_000u64, 1..50)) {
            let start = Instant::now();
            let mut interval = Interval::from(start, Some(Duration::from_nanos(length)));
            let (mut now, mut last) = (0, 0);
            for pause in pauses {
                now += pause;
                let due = interval.is_due_at(start + Duration::from_nanos(now));
                prop_assert_eq!(due, now / length > last);
                last = now / length;
            }
        }
    }

    #[test]
    fn never_due_without_interval() {
        let mut never = Interval::new(None);
        assert!(!never.is_due() && !never.has_passed());
        assert_eq!(never.due(), None);
        let mut zero = Interval::new(Some(Duration::ZERO));
        assert!(!zero.is_due());
        let mut endless = Interval::new(Some(Duration::MAX));
        assert!(!endless.is_due());
    }

    #[test]
    fn stays_due_until_restarted() {
        let mut interval = Interval::from(Instant::now() - SECOND, Some(SECOND));
        assert!(interval.has_passed() && interval.has_passed());
        interval.restart();
        assert!(!interval.has_passed() && !interval.is_due());
    }
}
