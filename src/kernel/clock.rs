// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the kernel's boot-time clock to the wall clock.
//!
//! The kernel half reads the host's clocks. In a time namespace (since 5.6) this process would read others, which are
//! ahead or behind by an offset: it is taken away, so that all are the host's.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;

use chrono::{DateTime, Local, SecondsFormat};
use nix::time::{ClockId, clock_getres, clock_gettime};

const SECOND: i64 = 1_000_000_000;

/// Nanoseconds of a clock.
fn now(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |t| nanoseconds(t.tv_sec(), t.tv_nsec()))
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(SECOND).saturating_add(nanoseconds)
}

/// Nanoseconds since boot, suspend included: the clock of every record (`bpf_ktime_get_boot_ns`).
pub fn boot_ns() -> u64 {
    host(ClockId::CLOCK_BOOTTIME) as u64
}

/// Nanoseconds since boot, suspend not included.
pub fn monotonic_ns() -> u64 {
    host(ClockId::CLOCK_MONOTONIC) as u64
}

/// Nanoseconds since 1970.
pub fn unix_ns() -> i64 {
    now(ClockId::CLOCK_REALTIME)
}

/// Nanoseconds of one of the host's clocks that count from its boot.
fn host(clock: ClockId) -> i64 {
    let ahead = match clock {
        ClockId::CLOCK_BOOTTIME => OFFSETS.boottime,
        _ => OFFSETS.monotonic,
    };
    now(clock).saturating_sub(ahead)
}

/// How far the clocks of this time namespace are ahead of the host's, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offsets {
    monotonic: i64,
    boottime: i64,
}

/// They cannot change any more once a process is in the namespace.
static OFFSETS: LazyLock<Offsets> = LazyLock::new(Offsets::own);

impl Offsets {
    fn own() -> Self {
        /// `PROC_TIME_INIT_INO` of include/linux/proc_ns.h.
        const INITIAL: u64 = 0xEFFF_FFFA;
        let inode = |name| fs::metadata(format!("/proc/self/ns/{name}")).map(|m| m.ino());
        let Ok(own) = inode("time") else {
            return Self::default();
        };
        let text = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        match own {
            INITIAL => Self::default(),
            // The file has those of the namespace that children will be in.
            _ if inode("time_for_children").ok() == Some(own) => Self::parse(&text),
            _ => Self::default(),
        }
    }

    /// Lines of a clock's name, seconds and nanoseconds (Documentation of time_namespaces(7)).
    fn parse(text: &str) -> Self {
        let offset = |clock: &str| {
            let mut lines = text.lines().map(str::split_whitespace);
            let mut fields = lines.find_map(|mut f| (f.next() == Some(clock)).then_some(f))?;
            let seconds = fields.next()?.parse().ok()?;
            Some(nanoseconds(seconds, fields.next()?.parse().ok()?))
        };
        Self {
            monotonic: offset("monotonic").unwrap_or(0),
            boottime: offset("boottime").unwrap_or(0),
        }
    }
}

/// Microseconds in a jiffy, the unit of the kernel's own timers (`icsk_rto`).
///
/// The coarse clocks advance once per tick, so their resolution tells it on every kernel (TICK_NSEC in
/// `kernel/time/posix-timers.c`), without its configuration.
pub fn jiffy_us() -> u64 {
    static JIFFY: LazyLock<u64> = LazyLock::new(|| {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
        // Every kernel since 2.6.32 has that clock; 250 Hz is the most common.
        tick.map_or(4000, |t| t.tv_nsec().unsigned_abs() / 1000)
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
    /// It is another boot's, and stays.
    fixed: bool,
    utc: Second,
    local: Second,
}

impl Default for Clock {
    fn default() -> Self {
        let mut clock = Self {
            offset: 0,
            fixed: false,
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
        if self.fixed {
            return;
        }
        self.offset = now(ClockId::CLOCK_REALTIME).saturating_sub(host(ClockId::CLOCK_BOOTTIME));
    }

    /// From now on `boot_ns` is this time (nanoseconds since 1970): of records of another host, or another boot.
    pub fn fix(&mut self, boot_ns: u64, unix_ns: i64) {
        self.offset = unix_ns.saturating_sub(boot_ns as i64);
        self.fixed = true;
    }

    /// Nanoseconds since 1970.
    pub fn unix_ns(&self, boot_ns: u64) -> i64 {
        (boot_ns as i64).saturating_add(self.offset)
    }

    /// RFC 3339 in UTC without its fraction and `Z`, and the nanoseconds that belong after it.
    pub fn rfc3339(&mut self, boot_ns: u64) -> (&str, u32) {
        let unix = self.unix_ns(boot_ns);
        let text = self.utc.text(unix.div_euclid(SECOND), |t| {
            let text = t.to_rfc3339_opts(SecondsFormat::Secs, true);
            text.trim_end_matches('Z').to_owned()
        });
        (text, unix.rem_euclid(SECOND) as u32)
    }

    /// `HH:MM:SS` in the local time zone.
    pub fn local_time(&mut self, boot_ns: u64) -> &str {
        let unix = self.unix_ns(boot_ns).div_euclid(SECOND);
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
    fn distant_times_do_not_overflow() {
        let mut clock = Clock {
            offset: i64::MAX,
            ..Clock::default()
        };
        for boot_ns in [0, 1, u64::MAX, 1 << 63] {
            assert!(!clock.rfc3339(boot_ns).0.is_empty() && !clock.local_time(boot_ns).is_empty());
        }
    }

    #[test]
    fn time_namespace_offsets_are_read() {
        let text = "monotonic           0         0\nboottime        86400 500000000\n";
        let offsets = Offsets::parse(text);
        assert_eq!(
            (offsets.monotonic, offsets.boottime),
            (0, 86_400_500_000_000)
        );
        // Seconds may be negative; nanoseconds are added.
        let text = "monotonic -5 250000000\nboottime x 1\n";
        let offsets = Offsets::parse(text);
        assert_eq!((offsets.monotonic, offsets.boottime), (-4_750_000_000, 0));
        assert_eq!(Offsets::parse(""), Offsets::default());
        crate::abi::noise::damage(text.as_bytes(), 2000, |bytes| {
            Offsets::parse(&String::from_utf8_lossy(bytes));
        });
    }

    #[test]
    fn jiffy_matches_known_hz() {
        assert!(
            [1000, 3333, 4000, 10_000].contains(&jiffy_us()),
            "{}",
            jiffy_us()
        );
    }

    #[test]
    fn coarse_clock_advances_by_jiffies() {
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
    fn current_row_has_current_time() {
        let mut clock = Clock::default();
        let (text, _) = clock.rfc3339(boot_ns());
        let then = DateTime::parse_from_rfc3339(&format!("{text}Z")).unwrap();
        let apart = chrono::Utc::now().timestamp() - then.timestamp();
        assert!((0..=1).contains(&apart), "{apart} s apart");
    }
}
