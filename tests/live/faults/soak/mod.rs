// SPDX-License-Identifier: MIT OR Apache-2.0
//! All commands at once for a long time, on mixed traffic with loss, in namespaces that come and go. What is expected: at
//! the end of each minute rows are as many as the kernel has counted, nothing is lost, and descriptors and what is in the
//! kernel are as many as at the start; at the end memory has not grown.
//!
//! `TCPTOOLS_SOAK=MINUTES cargo test --test live -- --ignored faults::soak`, or `scripts/soak.sh MINUTES`.

mod measure;
mod traffic;
mod watcher;

use std::{
    env,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use self::{measure::Usage, traffic::Counted, watcher::Watcher};
use crate::{
    missing, tools, trial, unseen,
    wait::{self, PATIENCE},
};

pub fn alone() -> Vec<Trial> {
    // What is not right is not tried again: it took long.
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let once = || {
        missing::needs_programs()?;
        let done = DONE.get_or_init(|| soak().map_err(|error| format!("{error:#}")));
        done.clone().map_err(anyhow::Error::msg)
    };
    vec![trial("faults::soak", once).with_ignored_flag(true)]
}

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What more of each command is started besides its rows.
const MORE: [(&str, &[&str]); 6] = [
    ("tcpstates", &["--active=5s"]),
    ("tcplife", &["--active=5s"]),
    ("tcpaccept", &["--listeners=5s"]),
    ("tcpretrans", &["--summary=5s", "--by", "flow"]),
    ("tcpconnect", &["--count=5s", "--by", "comm,netns"]),
    ("sockbuf", &["--summary=5s"]),
];

fn started(networks: &str) -> Result<Vec<Watcher>> {
    let usual = tools::here().map(|tool| match tool {
        "tcptop" => (tool, &["-i", "2s"][..]),
        _ => (tool, &[][..]),
    });
    let all = usual.chain(MORE);
    all.map(|(tool, args)| Watcher::start(tool, args, networks))
        .collect()
}

fn soak() -> Result<()> {
    let minutes = env::var("TCPTOOLS_SOAK").ok();
    let minutes: u64 = minutes
        .map_or(Ok(1), |n| n.parse())
        .context("TCPTOOLS_SOAK")?;
    let networks = traffic::networks();
    let begin_unseen = unseen::count();
    let mut watchers = started(&networks)?;
    let before: Vec<_> = watchers
        .iter()
        .map(Watcher::objects)
        .collect::<Result<_>>()?;
    // What this kernel lacks is said at the start.
    watchers.iter().for_each(|watcher| drop(watcher.said()));
    let mut usage: Vec<_> = watchers.iter().map(Usage::new).collect();
    let mut all = Counted::default();
    let begin = Instant::now();
    let (mut apart, mut complaints) = (Vec::new(), Vec::new());
    for minute in 1..=minutes {
        let end = begin + Duration::from_secs(60 * minute);
        let mut looked = Instant::now();
        while Instant::now() < end {
            all.add(&traffic::round()?);
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                for (usage, watcher) in usage.iter_mut().zip(&watchers) {
                    usage.look(begin.elapsed(), watcher)?;
                }
            }
        }
        let unseen = unseen::count() - begin_unseen;
        let found = compare(&watchers, &all, unseen);
        let said = match &found[..] {
            [] => String::from("rows agree"),
            found => format!("{found:?}"),
        };
        println!(
            "minute {minute}: {} rounds, {all}, {unseen} unseen; {said}",
            all.rounds
        );
        apart.extend(found.into_iter().map(|found| (minute, found)));
        for watcher in &watchers {
            if let Some(said) = watcher.said() {
                complaints.push(format!("minute {minute}: {said}"));
            }
        }
    }
    println!("{}", measure::HEADER);
    for ((usage, watcher), before) in usage.iter_mut().zip(&watchers).zip(&before) {
        usage.look(begin.elapsed(), watcher)?;
        let (line, fine) = usage.line(before, &watcher.objects()?);
        println!("{line}");
        if !fine {
            complaints.push(line);
        }
    }
    for watcher in watchers.drain(..) {
        let (tool, rows_only) = (watcher.tool, watcher.args.is_empty());
        let ended = watcher.end()?;
        complaints.extend(ended.complaint);
        let own = apart.iter().filter(|(_, apart)| apart.tool == tool);
        for (minute, apart) in own.filter(|_| rows_only) {
            // What the kernel has run no program for, the command has said.
            if !apart.is_short_by(ended.skipped) {
                let skipped = ended.skipped;
                complaints.push(format!("minute {minute}: {apart:?}, {skipped} skipped"));
            }
        }
    }
    ensure!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    Ok(())
}

/// A command whose rows are not as many as the kernel has counted.
#[derive(Debug)]
struct Apart {
    tool: &'static str,
    rows: u64,
    of: u64,
}

impl Apart {
    /// Whether there are too few, and so many events that no program was run for explain it. An event of tcpretrans is
    /// a packet of up to 64 KiB, which is counted in segments of 1448 bytes.
    fn is_short_by(&self, events: u64) -> bool {
        let most = if self.tool == "tcpretrans" { 45 } else { 1 };
        self.rows <= self.of && self.rows + events * most >= self.of
    }
}

/// Waits until rows are as many as counted; which are not, after a while.
fn compare(watchers: &[Watcher], all: &Counted, unseen: u64) -> Vec<Apart> {
    let own = || watchers.iter().filter(|watcher| watcher.args.is_empty());
    let found = || -> Vec<_> {
        let apart = |watcher: &Watcher| {
            let (tool, rows) = (watcher.tool, watcher.counted());
            let of = all.of(tool)?;
            (rows != of && !all.is_of_v4(tool, rows)).then_some(Apart { tool, rows, of })
        };
        own().filter_map(apart).collect()
    };
    let agree = || Ok(found().is_empty().then_some(()));
    if wait::until("rows", PATIENCE, agree).is_ok() {
        return Vec::new();
    }
    // What the kernel has shown to no program is in no row.
    let apart = found().into_iter();
    apart.filter(|apart| !apart.is_short_by(unseen)).collect()
}
