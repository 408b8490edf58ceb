// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live tests: the built commands watch real traffic, whose truth the test knows, in network namespaces of its own.
//! They need the privileges of the commands themselves, and say so where these are missing; they never pass unrun.
//!
//! `net` makes namespaces, `peer` the processes that talk in them, `tool` runs a command and reads its rows; one
//! module per command holds its tests. A filter may have alternatives: `tcplife::owners|tcpreset`.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

mod aggregate;
mod cli_contract;
mod environment;
mod fallback;
mod faults;
mod harness;
mod links;
mod logs;
mod memory;
mod metrics;
mod namespaces;
mod owners;
mod peers;
#[path = "../tools/schema.rs"]
mod schema;
mod servers;
mod sockbuf;
mod table;
mod tcpaccept;
mod tcpcong;
mod tcpconnect;
mod tcpdrop;
mod tcpinfo;
mod tcplat;
mod tcplife;
mod tcpprobe;
mod tcprcvspace;
mod tcpreset;
mod tcpretrans;
mod tcpstates;
mod tcptools;
mod tcptop;
#[path = "../tools/mod.rs"]
mod tools;
mod triage;

use std::{env, fs, process::ExitCode};

use harness::{
    agent, cgroups, missing, net, pair, peer, procfs, run, scene, scratch, seen, tool, trace,
    trial::{self, trial, trial_apart},
    unseen, wait,
};
use libtest_mimic::{Arguments, Trial};
use namespaces::{container, pids};

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
    let inside = match argv.first().map(String::as_str) {
        Some(container::INSIDE) => Some(container::inside(&argv[1..])),
        Some(pids::INSIDE) => Some(pids::inside(&argv[1..])),
        _ => None,
    };
    if let Some(done) = inside {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut trials = [
        aggregate::tests(),
        cli_contract::tests(),
        environment::tests(),
        fallback::tests(),
        faults::tests(),
        links::tests(),
        logs::tests(),
        memory::tests(),
        metrics::tests(),
        namespaces::tests(),
        owners::tests(),
        peers::tests(),
        servers::tests(),
        sockbuf::tests(),
        table::tests(),
        tcpaccept::tests(),
        tcpcong::tests(),
        tcpconnect::tests(),
        tcpdrop::tests(),
        tcpinfo::tests(),
        tcplat::tests(),
        tcplife::tests(),
        tcpprobe::tests(),
        tcprcvspace::tests(),
        tcpreset::tests(),
        tcpretrans::tests(),
        tcpstates::tests(),
        tcptools::tests(),
        tcptop::tests(),
        unseen::tests(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    // Each starts all commands.
    let mut many: Vec<_> = triage::tests()
        .into_iter()
        .chain(tcptools::many())
        .chain(logs::many())
        .collect();
    let mut alone: Vec<_> = sockbuf::alone()
        .into_iter()
        .chain(fallback::alone())
        .chain(cli_contract::alone())
        .chain(faults::alone())
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
        many = many.into_iter().map(ignored).collect();
        alone = alone.into_iter().map(ignored).collect();
    }
    let mut arguments = Arguments::from_args();
    if let Some(filters) = arguments.filter.take_if(|f| f.contains('|')) {
        let wanted = |trial: &Trial| filters.split('|').any(|part| trial.name().contains(part));
        trials.retain(wanted);
        many.retain(wanted);
        alone.retain(wanted);
    }
    let together = libtest_mimic::run(&arguments, trials);
    // A dozen commands that wait take time from the host, but none from one another.
    let arguments = Arguments {
        test_threads: arguments.test_threads.or(Some(4)),
        ..arguments
    };
    let many = libtest_mimic::run(&arguments, many);
    // What is set for the whole host while they run would disturb the others, and one another.
    let one_by_one = Arguments {
        test_threads: Some(1),
        ..arguments
    };
    let alone = libtest_mimic::run(&one_by_one, alone);
    trial::report();
    let all = [together, many, alone];
    let failed = all.into_iter().find(libtest_mimic::Conclusion::has_failed);
    failed.map_or(ExitCode::SUCCESS, |failed| failed.exit_code())
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
