// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--stats`: the cost of a run, from the kernel's statistics of BPF programs and this process's CPU time.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libbpf_rs::libbpf_sys::{
    BPF_STATS_RUN_TIME, bpf_enable_stats, bpf_obj_get_info_by_fd, bpf_prog_info,
};
use libbpf_rs::{MapCore, Object, Program};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::abi::types::counters;
use crate::kernel::features;

/// The kernel's information on a loaded program; zeros if it is denied.
pub fn info(program: &OwnedFd) -> bpf_prog_info {
    let mut info = bpf_prog_info::default();
    let mut len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `len` bytes into a live struct of that size, and nothing where it says to read.
    let ret = unsafe {
        bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut len)
    };
    if ret == 0 {
        info
    } else {
        bpf_prog_info::default()
    }
}

/// A program that was loaded has a descriptor.
pub fn is_loaded(program: &Program<'_>) -> bool {
    program.as_fd().as_raw_fd() >= 0
}

/// Who makes the kernel count the runs of programs and their time.
enum Counting {
    /// This process does, by a descriptor (since 5.8).
    Held { _fd: OwnedFd },
    /// The administrator does: `kernel.bpf_stats_enabled`.
    Always,
    /// Nobody.
    No,
}

impl Counting {
    /// Reports why not, if it cannot.
    fn begin(tool: &str) -> Self {
        // SAFETY: takes a number and returns a descriptor or an error.
        let fd = unsafe { bpf_enable_stats(BPF_STATS_RUN_TIME) };
        if fd >= 0 {
            // SAFETY: the call has just given it to us.
            let _fd = unsafe { OwnedFd::from_raw_fd(fd) };
            return Self::Held { _fd };
        }
        let sysctl = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled");
        if sysctl.is_ok_and(|on| on.trim() == "1") {
            return Self::Always;
        }
        let why = match Errno::from_raw(-fd) {
            Errno::EPERM | Errno::EACCES => "CAP_SYS_ADMIN is missing",
            _ => "this kernel cannot measure it on demand (before 5.8)",
        };
        crate::message!(
            "{tool}: --stats: kernel time stays unknown: {why} (alternatively, sysctl kernel.bpf_stats_enabled=1)"
        );
        Self::No
    }
}

/// What a run has cost so far.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// Events that ran a program, and their time.
    kernel: Option<(u64, Duration)>,
    /// User and system time of this process.
    reader: Duration,
    wall: Duration,
}

/// Follows what a run costs, from just before its programs are attached.
pub struct Meter {
    tool: &'static str,
    counting: Counting,
    /// By tracepoint.
    programs: Vec<(String, OwnedFd)>,
    table: Option<Table>,
    begun: Instant,
    cpu_before: Duration,
}

/// The table of sockets (`bpf/common/owner/table.bpf.h`).
#[derive(Clone, Copy, Debug)]
struct Table {
    sockets: u64,
    bytes: u64,
}

impl Table {
    /// `None` if the command has none on this kernel.
    fn of(object: &Object) -> Option<Self> {
        if features::known().socket_table != 0 {
            return None;
        }
        let map = object.maps().find(|map| map.name() == "socket_table")?;
        let sockets = u64::from(map.max_entries());
        // The kernel keeps an array's values at multiples of 8 bytes.
        let bytes = sockets * u64::from(map.value_size().next_multiple_of(8));
        Some(Self { sockets, bytes })
    }
}

impl Meter {
    /// To be called with the privileges of loading.
    pub fn new(tool: &'static str, object: &Object) -> Self {
        let mut meter = Self {
            tool,
            counting: Counting::begin(tool),
            table: Table::of(object),
            programs: Vec::new(),
            begun: Instant::now(),
            cpu_before: cpu(),
        };
        meter.add(object);
        meter
    }

    /// The programs of one more object. An event that runs programs of several counts once.
    pub fn add(&mut self, object: &Object) {
        let traces =
            |p: &Program<'_>| is_loaded(p) && !p.section().to_string_lossy().starts_with("iter/");
        let own = |p: Program<'_>| {
            let fd = p.as_fd().try_clone_to_owned().ok()?;
            Some((p.section().to_string_lossy().into_owned(), fd))
        };
        let programs = object.progs().filter(traces).filter_map(own);
        self.programs.extend(programs);
    }

    fn read(&self) -> Spent {
        let counted = !matches!(self.counting, Counting::No);
        Spent {
            kernel: counted.then(|| self.kernel()),
            reader: cpu().saturating_sub(self.cpu_before),
            wall: self.begun.elapsed(),
        }
    }

    /// An event that runs a program and its backup programs (`bpf/common/owner/nested.bpf.h`) counts once.
    fn kernel(&self) -> (u64, Duration) {
        let mut events = HashMap::<&str, u64>::new();
        let mut ns = 0;
        for (tracepoint, program) in &self.programs {
            let info = info(program);
            let runs = events.entry(tracepoint).or_default();
            *runs = info.run_cnt.max(*runs);
            ns += info.run_time_ns;
        }
        (events.values().sum(), Duration::from_nanos(ns))
    }

    /// Prints the cost of the run on standard error, and returns it for JSON.
    pub fn report(&self, rows: u64, gone: &counters) -> [(&'static str, Option<u64>); 7] {
        let spent = self.read();
        let tool = self.tool;
        crate::message!("{tool}: cost: {}", sentence(&spent, rows, gone));
        let table = self.table;
        if let Some(Table { sockets, bytes }) = table {
            let (mib, stored) = (bytes as f64 / f64::from(1 << 20), gone.stored);
            crate::message!(
                "{tool}: table of {sockets} sockets, {mib:.1} MiB; {stored} found no room in it"
            );
        }
        [
            ("runs", spent.kernel.map(|(events, _)| events)),
            ("filtered", Some(gone.filtered)),
            ("kernel_ns_avg", spent.kernel.and_then(average_ns)),
            ("reader_cpu_us", Some(spent.reader.as_micros() as u64)),
            ("table_sockets", table.map(|table| table.sockets)),
            ("table_bytes", table.map(|table| table.bytes)),
            ("table_missed", table.map(|_| gone.stored)),
        ]
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    // It fails for wrong arguments only.
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let both = usage.user_time() + usage.system_time();
        Duration::from_micros(both.num_microseconds().unsigned_abs())
    })
}

/// `None` without an event. Rounded to the nearest.
fn average_ns((events, time): (u64, Duration)) -> Option<u64> {
    let ns = time.as_nanos() as u64;
    (events > 0).then(|| (ns + events / 2) / events)
}

/// For people.
fn sentence(spent: &Spent, rows: u64, gone: &counters) -> String {
    let share = |time: Duration| {
        let percent = time.as_secs_f64() / spent.wall.as_secs_f64().max(1e-9) * 100.0;
        format!("{percent:.2} %")
    };
    let kernel = match (spent.kernel, spent.kernel.and_then(average_ns)) {
        (Some((events, time)), Some(ns)) => {
            let share = share(time);
            format!("{events} events in the kernel, {ns} ns each ({share} of one CPU)")
        }
        (Some(_), None) => "0 events in the kernel".into(),
        (None, _) => "kernel events and time unknown".into(),
    };
    let reader = spent.reader.as_secs_f64();
    let per_row = match rows {
        0 => String::new(),
        rows => format!(", {:.1} us per row", reader * 1e6 / rows as f64),
    };
    let (filtered, lost) = (gone.filtered, gone.lost);
    let (ms, of_cpu) = (reader * 1e3, share(spent.reader));
    format!(
        "{kernel}; {filtered} filtered, {rows} rows, {lost} lost; reader {ms:.1} ms of CPU ({of_cpu}){per_row}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: counters = counters {
        lost: 1,
        untracked: 0,
        uncounted: 0,
        filtered: 30,
        stored: 0,
        asks: 1,
        pad: 0,
    };

    #[test]
    fn cost_sentence_has_every_number() {
        let spent = Spent {
            kernel: Some((40, Duration::from_nanos(5999))),
            reader: Duration::from_micros(4500),
            wall: Duration::from_secs(1),
        };
        assert_eq!(
            sentence(&spent, 10, &GONE),
            "40 events in the kernel, 150 ns each (0.00 % of one CPU); 30 filtered, 10 rows, 1 lost; \
             reader 4.5 ms of CPU (0.45 %), 450.0 us per row"
        );
    }

    #[test]
    fn unknown_costs_and_zero_events() {
        let none = Spent::default();
        let text = sentence(&none, 0, &GONE);
        assert!(
            text.starts_with("kernel events and time unknown; 30 filtered, 0 rows"),
            "{text}"
        );
        assert!(!text.contains("per row"), "{text}");
        let idle = Spent {
            kernel: Some((0, Duration::ZERO)),
            ..none
        };
        assert!(sentence(&idle, 0, &GONE).starts_with("0 events in the kernel; "));
    }

    #[test]
    fn own_cpu_time_is_counted() {
        let before = cpu();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(cpu() > before);
    }
}
