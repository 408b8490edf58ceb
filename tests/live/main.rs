// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live tests: the built commands watch real traffic, whose truth the test knows, in network namespaces of its own.
//! They need the privileges of the commands themselves, and say so where these are missing; they never pass unrun.
//!
//! `net` makes namespaces, `peer` the processes that talk in them, `tool` runs a command and reads its rows; one
//! module per command holds its tests. A filter may have alternatives: `tcplife::owners|tcpreset`.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

mod agent;
mod attached;
mod capabilities;
mod cgroups;
mod config;
mod errors;
mod failed_retransmissions;
mod foreign;
mod formats;
mod front;
mod links;
mod manners;
mod missing;
mod namespaces;
mod net;
mod opens;
mod owners;
mod pair;
mod peer;
mod pids;
mod records;
mod refusals;
mod reset_hints;
mod scratch;
mod servers;
mod sockbuf;
mod stats;
mod sums;
mod tcpaccept;
mod tcpconnect;
mod tcpinfo;
mod tcplife;
mod tcpprobe;
mod tcprcvspace;
mod tcpreset;
mod tcpretrans;
mod tcpstates;
mod tool;
#[path = "../tools/mod.rs"]
mod tools;
mod trace;
mod unseen;
mod wait;

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use missing::Missing;

/// The bits in CapEff that BPF programs and namespaces need.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

fn main() -> ExitCode {
    let argv: Vec<String> = env::args().skip(1).collect();
    if argv.first().is_some_and(|verb| verb == "agent") {
        agent::main(&argv);
        return ExitCode::SUCCESS;
    }
    if argv.first().is_some_and(|verb| verb == namespaces::INSIDE) {
        return match namespaces::inside(&argv[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if argv.first().is_some_and(|verb| verb == pids::INSIDE) {
        return match pids::inside(&argv[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut trials = [
        attached::tests(),
        capabilities::tests(),
        config::tests(),
        errors::tests(),
        failed_retransmissions::tests(),
        foreign::tests(),
        formats::tests(),
        front::tests(),
        links::tests(),
        manners::tests(),
        namespaces::tests(),
        opens::tests(),
        pids::tests(),
        owners::tests(),
        records::tests(),
        reset_hints::tests(),
        refusals::tests(),
        servers::tests(),
        sockbuf::tests(),
        stats::tests(),
        sums::tests(),
        tcpaccept::tests(),
        tcpconnect::tests(),
        tcpinfo::tests(),
        tcplife::tests(),
        tcpprobe::tests(),
        tcprcvspace::tests(),
        tcpreset::tests(),
        tcpretrans::tests(),
        tcpstates::tests(),
        unseen::tests(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    let mut alone: Vec<_> = sockbuf::alone()
        .into_iter()
        .chain(records::alone())
        .chain(manners::alone())
        .collect();
    if let Some(missing) = missing_capability() {
        eprintln!(
            "live tests NOT RUN: {missing} is missing; run them with `./check.sh`, or as root"
        );
        if env::var_os("TCPTOOLS_REQUIRE_LIVE").is_some_and(|v| v == "1") {
            return ExitCode::FAILURE;
        }
        let ignored = |trial: Trial| trial.with_ignored_flag(true);
        trials = trials.into_iter().map(ignored).collect();
        alone = alone.into_iter().map(ignored).collect();
    }
    let mut arguments = Arguments::from_args();
    if let Some(filters) = arguments.filter.take_if(|f| f.contains('|')) {
        let wanted = |trial: &Trial| filters.split('|').any(|part| trial.name().contains(part));
        trials.retain(wanted);
        alone.retain(wanted);
    }
    let together = libtest_mimic::run(&arguments, trials);
    // What is set for the whole host while they run would disturb the others, and one another.
    let one_by_one = Arguments {
        test_threads: Some(1),
        ..arguments
    };
    let alone = libtest_mimic::run(&one_by_one, alone);
    if together.has_failed() {
        together.exit_code()
    } else {
        alone.exit_code()
    }
}

/// The first capability that this process does not have.
fn missing_capability() -> Option<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    // What a kernel does not know yet (before 5.8), is within CAP_SYS_ADMIN there.
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
    let last = last.and_then(|text| text.trim().parse().ok()).unwrap_or(63);
    CAPABILITIES
        .iter()
        .filter(|(_, bit)| *bit <= last)
        .find(|(_, bit)| effective >> bit & 1 == 0)
        .map(|(name, _)| *name)
}

/// How often a test is tried where the kernel does not show some events to a program.
const TRIES: u32 = 4;

/// A test as a plain function that returns its reason for failing; or, as [`Missing`], for not running on this kernel.
fn trial(name: impl Into<String>, test: impl Fn() -> anyhow::Result<()> + Send + 'static) -> Trial {
    let name = name.into();
    Trial::ignorable_test(name.clone(), move || {
        for left in (0..TRIES).rev() {
            let unseen = unseen::count();
            let started = Instant::now();
            let outcome = runs_here(&name).and_then(|()| test());
            note(&name, started.elapsed(), outcome.as_ref().err());
            let error = match outcome {
                Ok(()) => return Ok(Completion::Completed),
                Err(error) => error,
            };
            if let Some(missing) = error.downcast_ref::<Missing>() {
                return Ok(Completion::ignored_with(missing));
            }
            let unseen = unseen::count() - unseen;
            if unseen == 0 || left == 0 {
                return Err(Failed::from(format!("{error:#}")));
            }
            eprintln!(
                "{name} is tried again: meanwhile the kernel ran no program for {unseen} events; it failed: {error:#}"
            );
        }
        unreachable!("the last try returns")
    })
}

/// Without type information, or a ring buffer, only the tests of what the commands do then; and none but that they say
/// so where BPF may not read the kernel's memory.
fn runs_here(name: &str) -> anyhow::Result<()> {
    if name == "records::lockdown" {
        return missing::needs_confidentiality();
    }
    missing::needs_no_confidentiality()?;
    match name.starts_with("records::") {
        true => Ok(()),
        false => missing::needs_programs(),
    }
}

/// Adds to the file `TCPTOOLS_NOTES`, if that is set, how long a test took, and at once why it did not pass: the
/// test library tells that when all is over, which a run that is ended before its time never reaches.
fn note(name: &str, took: Duration, error: Option<&anyhow::Error>) {
    let Some(path) = env::var_os("TCPTOOLS_NOTES") else {
        return;
    };
    let why = error.map_or_else(String::new, |error| format!(" {error:#}"));
    let line = format!("{:.1} {name}{why}\n", took.as_secs_f32());
    let file = OpenOptions::new().create(true).append(true).open(path);
    // Only a help for whoever looks on.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
