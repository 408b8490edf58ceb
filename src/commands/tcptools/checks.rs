// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of this host the commands depend on, for `tcptools check`.
//!
//! What prevents them is in [`preflight`], which explains failures with it; here it is asked beforehand, and the
//! kernel's own answer to small programs is added.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle};

use crate::kernel::{diagnose, features, iter, mounts, pids, problem::Problem, tracepoints};
use crate::suite;

crate::skeleton!("check");

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Commands run, but something is less than it could be.
    Note,
    /// Commands cannot run, or not all of them.
    #[serde(rename = "no")]
    Fail,
}

/// One line of `tcptools check`.
#[derive(Debug, serde::Serialize)]
pub struct Check {
    /// What was looked at, in snake_case.
    pub name: &'static str,
    /// What it came to.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What would help.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn bad(name: &'static str, status: Status, problem: Problem) -> Self {
        Self {
            name,
            status,
            detail: problem.why,
            remedy: Some(problem.remedy),
        }
    }

    fn of(name: &'static str, status: Status, problem: Option<Problem>, fine: &str) -> Self {
        match problem {
            Some(problem) => Self::bad(name, status, problem),
            None => Self::ok(name, fine),
        }
    }

    fn note(name: &'static str, why: impl Into<String>, remedy: &str) -> Self {
        Self::bad(name, Status::Note, Problem::new(why, remedy))
    }
}

/// Everything, what prevents tracing first.
pub fn checks() -> Vec<Check> {
    // libbpf's own words about a refusal are longer than ours.
    libbpf_rs::set_print(None);
    // What a command asks only when it is refused.
    let _ = features::explains_refusal();
    let mut all = vec![
        kernel(),
        match mounts::sys() {
            Some(problem) => Check::bad("btf", Status::Fail, problem),
            None => Check::of(
                "btf",
                Status::Note,
                only_records(),
                crate::kernel::problem::KERNEL_BTF,
            ),
        },
        Check::of(
            "capabilities",
            Status::Fail,
            diagnose::capabilities(),
            "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN",
        ),
        Check::of(
            "user_namespace",
            Status::Fail,
            diagnose::user_namespace(),
            "the initial one",
        ),
        Check::of(
            "lockdown",
            Status::Fail,
            diagnose::lockdown(),
            "not in confidentiality mode",
        ),
        suite_tracepoints(),
    ];
    all.extend(programs());
    all.extend([jit(), memlock(), unprivileged()].into_iter().flatten());
    all.extend([tracefs(), own_pid_namespace(), cgroup2(), ipv6()]);
    all.extend(page_size());
    all
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel() -> Check {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    Check::ok("kernel", format!("{release} on {}", std::env::consts::ARCH))
}

fn suite_tracepoints() -> Check {
    let all = suite::tracepoints();
    // Whether a command can do without it, the command itself shows.
    match diagnose::all_missing(&all).as_deref() {
        Some([]) => {
            let fine = format!("all {} that the commands use exist", all.len());
            Check::ok("tracepoints", fine)
        }
        None => Check::note(
            "tracepoints",
            "unknown: BTF does not list them, and tracefs cannot be read",
            "as root, mount -t tracefs nodev /sys/kernel/tracing",
        ),
        Some(missing) => Check::bad(
            "tracepoints",
            Status::Note,
            diagnose::tracepoint(&missing.join(", ")),
        ),
    }
}

/// A program of check.bpf.c, and what the commands need it for.
const PROGRAMS: [(&str, Status, &str); 5] = [
    ("trace", Status::Fail, "programs load and attach"),
    ("ring_buffer", Status::Fail, "events reach the commands"),
    (
        "socket_storage",
        Status::Fail,
        "sockets keep state and owners",
    ),
    (
        "map_elements",
        Status::Note,
        "all tracked sockets can be visited at once",
    ),
    (
        "open_files",
        Status::Note,
        "sockets open at the start have owners",
    ),
];

/// That the commands have to do with less.
fn only_records() -> Option<Problem> {
    let kernel = features::lacking().map(|_| features::this_kernel())?;
    Some(Problem::new(
        format!(
            "{kernel}: commands read tracepoint records, and columns that these lack stay blank"
        ),
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have since about 5.10",
    ))
}

/// Loads and attaches each program by itself; none, where the commands have to do without them.
fn programs() -> impl Iterator<Item = Check> {
    let asked = match features::lacking().is_some() {
        true => &[][..],
        false => &PROGRAMS[..],
    };
    asked.iter().map(|&(name, status, fine)| {
        let Err(error) = program(name) else {
            return Check::ok(name, fine);
        };
        let said = format!("{error:#}");
        if said.contains("(os error 22)") && ["socket_storage", "open_files"].contains(&name) {
            return Check::note(
                name,
                "not available before Linux 5.11: a table of 131072 sockets is used instead",
                "none needed, unless more sockets are open at once",
            );
        }
        // Not allowed is another matter: that is the reason of the others, too.
        if name == "map_elements" && !said.contains("(os error 1)") {
            return Check::note(
                name,
                "this kernel rejects BPF iterators over map elements, so --active and --summary visit network namespaces one by one",
                "none needed; sockets in CLOSE are missed",
            );
        }
        let remedy = diagnose::reason(&error, &["sock:inet_sock_set_state"]);
        let remedy = remedy.unwrap_or_else(|| "please report this".into());
        let said = format!("the kernel rejected it: {said}");
        Check::bad(name, status, Problem::new(said, remedy))
    })
}

fn program(name: &str) -> Result<()> {
    let mut storage = MaybeUninit::uninit();
    let mut open = bpf::CheckSkelBuilder::default().open(&mut storage)?;
    for mut program in open.open_object_mut().progs_mut() {
        let chosen = program.name() == name;
        program.set_autoload(chosen);
    }
    for mut map in open.open_object_mut().maps_mut() {
        let wanted = match map.name().to_str() {
            Some("ring") => name == "ring_buffer",
            Some("storage") => ["socket_storage", "map_elements"].contains(&name),
            _ => true,
        };
        map.set_autocreate(wanted)?;
    }
    let mut skel = open.load()?;
    let storage = skel.object().maps().find(|m| m.name() == "storage");
    let elements = storage.filter(|_| name == "map_elements");
    let elements = elements.map(|m| MapHandle::try_from(&m)).transpose()?;
    let mut programs = skel.object_mut().progs_mut();
    let program = programs
        .find(|p| p.name() == name)
        .context("no such program")?;
    match program.section().to_string_lossy().contains("iter/") {
        true => drop(iter::run(&iter::attach(
            &program,
            elements.as_ref().map(AsFd::as_fd),
        )?)?),
        false => drop(program.attach().context("cannot attach")?),
    }
    Ok(())
}

/// The interpreter is right but slow; the setting is for root's eyes and the initial network namespace.
fn jit() -> Option<Check> {
    Some(match read("/proc/sys/net/core/bpf_jit_enable")?.as_str() {
        "0" => Check::note(
            "jit",
            "BPF programs are interpreted, which costs several times as much",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        _ => Check::ok("jit", "BPF programs are compiled"),
    })
}

fn memlock() -> Option<Check> {
    let limits = read("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|l| l.starts_with("Max locked memory"))?;
    let limit = line.split_whitespace().nth(3)?;
    let detail = format!("{limit} bytes (matters only before Linux 5.11)");
    Some(Check::ok("memlock", detail))
}

/// Of no consequence, and asked all the same by everybody who reads about BPF.
fn unprivileged() -> Option<Check> {
    let value = read("/proc/sys/kernel/unprivileged_bpf_disabled")?;
    let detail = format!("unprivileged_bpf_disabled={value} (does not matter here)");
    Some(Check::ok("unprivileged_bpf", detail))
}

fn tracefs() -> Check {
    match tracepoints::tracefs_events() {
        Ok(path) => Check::ok("tracefs", format!("{}, for tplist only", path.display())),
        Err(error) => {
            let (why, remedy) = tracepoints::tracefs_remedy(error.kind());
            let why = format!("{why}; with it, tplist shows more");
            Check::note("tracefs", why, remedy)
        }
    }
}

fn own_pid_namespace() -> Check {
    let name = "pid_namespace";
    if let Some(problem) = pids::blank(features::lacking().is_some()) {
        return Check::bad(name, Status::Note, problem);
    }
    match pids::namespace() {
        pids::Namespace::Initial => Check::ok(name, "the initial one"),
        _ => Check::note(
            name,
            "not the host's: rows and -p use its PIDs, and processes outside have none",
            "run it on the host (docker run --pid=host) to see the PIDs of all processes",
        ),
    }
}

fn cgroup2() -> Check {
    match crate::cli::filter::cgroup_mount() {
        Ok(path) => Check::ok("cgroup_v2", format!("mounted at {}", path.display())),
        Err(_) => Check::note(
            "cgroup_v2",
            "no cgroup v2 hierarchy is mounted: --cgroup takes id:NUMBER only",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
    }
}

fn ipv6() -> Check {
    match fs::exists("/proc/net/if_inet6") {
        Ok(true) => Check::ok("ipv6", "on"),
        _ => Check::note(
            "ipv6",
            "off, so all rows are IPv4",
            "none needed, unless you expect IPv6",
        ),
    }
}

fn page_size() -> Option<Check> {
    let size =
        usize::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??).ok()?;
    Some(Check::ok("page_size", format!("{size} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_remedy() {
        let all = checks();
        for check in &all {
            assert_eq!(
                check.remedy.is_none(),
                check.status == Status::Ok,
                "{check:?}"
            );
        }
        for name in ["kernel", "btf", "capabilities", "pid_namespace"] {
            assert_eq!(all.iter().filter(|c| c.name == name).count(), 1, "{name}");
        }
        // Without type information there are none to load.
        let programs = usize::from(features::lacking().is_none());
        assert_eq!(all.iter().filter(|c| c.name == "trace").count(), programs);
    }

    /// The kernel agrees with what we say about capabilities: a program loads exactly where we say that it may.
    #[test]
    fn checks_agree_with_kernel() {
        if features::lacking().is_some() {
            return; // nothing is loaded
        }
        let all = checks();
        let status = |name: &str| all.iter().find(|c| c.name == name).unwrap().status;
        let prevented = ["capabilities", "user_namespace", "lockdown"];
        let prevented = prevented.iter().any(|name| status(name) == Status::Fail);
        assert_eq!(status("trace") == Status::Fail, prevented, "{all:#?}");
    }
}
