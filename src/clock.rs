// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the kernel's boot-time clock to the wall clock.

use std::sync::LazyLock;

use chrono::{DateTime, Local, SecondsFormat};
use nix::time::{ClockId, clock_getres, clock_gettime};

/// Nanoseconds of a clock.
fn now(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

/// Nanoseconds since boot, suspend included: the clock of every record (`bpf_ktime_get_boot_ns`).
pub fn boot_ns() -> u64 {
    now(ClockId::CLOCK_BOOTTIME) as u64
}

/// Nanoseconds since boot, suspend not included.
pub fn monotonic_ns() -> u64 {
    now(ClockId::CLOCK_MONOTONIC) as u64
}

/// Microseconds in a jiffy, the unit of the kernel's own timers (`icsk_rto`).
///
/// The coarse clocks advance once per tick, so their resolution tells it on every kernel (TICK_NSEC in
/// `kernel/time/posix-timers.c`), without its configuration.
pub fn jiffy_us() -> u64 {
    static JIFFY: LazyLock<u64> = LazyLock::new(|| {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
        // Every kernel since 2.6.32 has that clock; 250 Hz is the most common.
        tick.map_or(4000, |t| t.tv_nsec() as u64 / 1000)
    });
    *JIFFY
}

/// The wall-clock second that was formatted last: most rows of a busy host fall into the same one.
#[derive(Default)]
struct Second {
    unix: i64,
    text: String,
}

impl Second {
    fn text(&mut self, unix: i64, format: impl Fn(DateTime<chrono::Utc>) -> String) -> &str {
        if self.text.is_empty() || self.unix != unix {
            self.unix = unix;
            self.text = format(DateTime::from_timestamp(unix, 0).unwrap_or_default());
        }
        &self.text
    }
}

/// Converts boot time to wall time. Refresh it now and then: the wall clock is stepped and slewed while a tool runs.
pub struct Clock {
    offset: i64,
    utc: Second,
    local: Second,
}

impl Default for Clock {
    fn default() -> Self {
        let mut clock = Self {
            offset: 0,
            utc: Second::default(),
            local: Second::default(),
        };
        clock.refresh();
        clock
    }
}

impl Clock {
    /// Reads again how far the wall clock is ahead of the boot-time clock.
    pub fn refresh(&mut self) {
        self.offset = now(ClockId::CLOCK_REALTIME) - now(ClockId::CLOCK_BOOTTIME);
    }

    /// RFC 3339 in UTC without its fraction and `Z`, and the nanoseconds that belong after it.
    pub fn rfc3339(&mut self, boot_ns: u64) -> (&str, u32) {
        let unix = (boot_ns as i64).saturating_add(self.offset);
        let text = self.utc.text(unix.div_euclid(1_000_000_000), |t| {
            let text = t.to_rfc3339_opts(SecondsFormat::Secs, true);
            text.trim_end_matches('Z').to_owned()
        });
        (text, unix.rem_euclid(1_000_000_000) as u32)
    }

    /// `HH:MM:SS` in the local time zone.
    pub fn local_time(&mut self, boot_ns: u64) -> &str {
        let unix = (boot_ns as i64)
            .saturating_add(self.offset)
            .div_euclid(1_000_000_000);
        self.local.text(unix, |t| {
            t.with_timezone(&Local).format("%H:%M:%S").to_string()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_becomes_rfc3339() {
        let mut clock = Clock {
            offset: 1_700_000_000_000_000_000,
            ..Clock::default()
        };
        assert_eq!(clock.rfc3339(5), ("2023-11-14T22:13:20", 5));
        assert_eq!(clock.rfc3339(999_999_999).1, 999_999_999);
        assert_eq!(
            clock.rfc3339(1_000_000_001),
            ("2023-11-14T22:13:21", 1),
            "the cached second must not outlive itself"
        );
    }

    /// A record that is not what it seems may hold any number.
    #[test]
    fn no_time_is_too_far_away() {
        let mut clock = Clock {
            offset: i64::MAX,
            ..Clock::default()
        };
        for boot_ns in [0, 1, u64::MAX, 1 << 63] {
            assert!(!clock.rfc3339(boot_ns).0.is_empty() && !clock.local_time(boot_ns).is_empty());
        }
    }

    #[test]
    fn a_jiffy_is_that_of_a_known_configuration() {
        assert!(
            [1000, 3333, 4000, 10_000].contains(&jiffy_us()),
            "{}",
            jiffy_us()
        );
    }

    #[test]
    fn a_coarse_clock_advances_by_whole_jiffies() {
        let coarse = || now(ClockId::CLOCK_MONOTONIC_COARSE);
        let (first, mut next) = (coarse(), coarse());
        while next == first {
            next = coarse();
        }
        let ticks = (next - first) as f64 / 1e3 / jiffy_us() as f64;
        let off = (ticks - ticks.round()).abs();
        assert!(ticks > 0.9 && off < 0.01, "{ticks}");
    }

    #[test]
    fn a_row_of_now_carries_the_time_of_now() {
        let mut clock = Clock::default();
        let (text, _) = clock.rfc3339(boot_ns());
        let then = DateTime::parse_from_rfc3339(&format!("{text}Z")).unwrap();
        let apart = chrono::Utc::now().timestamp() - then.timestamp();
        assert!((0..=1).contains(&apart), "{apart} s apart");
    }
}
