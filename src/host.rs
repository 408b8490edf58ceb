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

use crate::preflight::{self, Trouble};
use crate::{iter, lacks, pids, record, suite, tracepoints};

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
    No,
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

    fn bad(name: &'static str, status: Status, trouble: Trouble) -> Self {
        Self {
            name,
            status,
            detail: trouble.why,
            remedy: Some(trouble.remedy),
        }
    }

    fn of(name: &'static str, status: Status, trouble: Option<Trouble>, fine: &str) -> Self {
        match trouble {
            Some(trouble) => Self::bad(name, status, trouble),
            None => Self::ok(name, fine),
        }
    }

    fn note(name: &'static str, why: impl Into<String>, remedy: &str) -> Self {
        Self::bad(name, Status::Note, Trouble::new(why, remedy))
    }
}

/// Everything, what prevents tracing first.
pub fn checks() -> Vec<Check> {
    // libbpf's own words about a refusal are longer than ours.
    libbpf_rs::set_print(None);
    // What a command asks only when it is refused.
    let _ = lacks::explains_refusal();
    let mut all = vec![
        kernel(),
        match preflight::sys() {
            Some(trouble) => Check::bad("btf", Status::No, trouble),
            None => Check::of("btf", Status::Note, only_records(), preflight::KERNEL_BTF),
        },
        Check::of(
            "capabilities",
            Status::No,
            preflight::capabilities(),
            "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN",
        ),
        Check::of(
            "user_namespace",
            Status::No,
            preflight::user_namespace(),
            "the initial one",
        ),
        Check::of(
            "lockdown",
            Status::No,
            preflight::lockdown(),
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
    match preflight::all_missing(&all).as_deref() {
        Some([]) => {
            let fine = format!("all {} that the commands use are there", all.len());
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
            preflight::tracepoint(&missing.join(", ")),
        ),
    }
}

/// A program of check.bpf.c, and what the commands need it for.
const PROGRAMS: [(&str, Status, &str); 5] = [
    ("trace", Status::No, "a program was loaded and attached"),
    ("ring_buffer", Status::No, "rows reach the commands"),
    (
        "socket_storage",
        Status::No,
        "sockets have state and owners",
    ),
    (
        "map_elements",
        Status::Note,
        "all sockets that are followed can be visited at once",
    ),
    (
        "open_files",
        Status::Note,
        "sockets that are open at the start have owners",
    ),
];

/// That the commands have to do with less.
fn only_records() -> Option<Trouble> {
    let kernel = record::lacking().map(|_| record::this_kernel())?;
    Some(Trouble::new(
        format!(
            "{kernel}: the commands read tracepoints' records, and columns that these lack stay blank"
        ),
        "use a kernel from 5.10 on with CONFIG_DEBUG_INFO_BTF=y, as distributions have",
    ))
}

/// Loads and attaches each program by itself; none, where the commands have to do without them.
fn programs() -> impl Iterator<Item = Check> {
    let asked = match record::is_needed() {
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
        if name == "map_elements" {
            return Check::note(
                name,
                "this kernel refuses BPF iterators over map elements, so --active and --summary visit one network namespace after another",
                "none needed; they miss sockets in CLOSE, and in namespaces that are made after the start",
            );
        }
        let remedy = preflight::reason(&error, &["sock:inet_sock_set_state"]);
        let remedy = remedy.unwrap_or_else(|| "please report this".into());
        let said = format!("the kernel refused: {said}");
        Check::bad(name, status, Trouble::new(said, remedy))
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
            "BPF programs are interpreted, and cost several times as much",
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
    let detail = format!("{limit} bytes (of consequence before Linux 5.11 only)");
    Some(Check::ok("memlock", detail))
}

/// Of no consequence, and asked all the same by everybody who reads about BPF.
fn unprivileged() -> Option<Check> {
    let value = read("/proc/sys/kernel/unprivileged_bpf_disabled")?;
    let detail = format!("unprivileged_bpf_disabled={value} (of no consequence here)");
    Some(Check::ok("unprivileged_bpf", detail))
}

fn tracefs() -> Check {
    match tracepoints::tracefs_events() {
        Ok(path) => Check::ok("tracefs", format!("{}, for tplist only", path.display())),
        Err(error) => {
            let (why, remedy) = tracepoints::tracefs_remedy(error.kind());
            let why = format!("{why}; only tplist would show more with it");
            Check::note("tracefs", why, remedy)
        }
    }
}

fn own_pid_namespace() -> Check {
    let name = "pid_namespace";
    if let Some(trouble) = pids::blank(record::is_needed()) {
        return Check::bad(name, Status::Note, trouble);
    }
    match pids::namespace() {
        pids::Namespace::Initial => Check::ok(name, "the initial one"),
        _ => Check::note(
            name,
            "not the host's: rows and -p use its process ids, and processes outside it have none",
            "run it on the host (docker run --pid=host) to see the ids of all processes",
        ),
    }
}

fn cgroup2() -> Check {
    match crate::filter::cgroup_mount() {
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
    fn what_is_wrong_has_a_remedy() {
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
        let programs = usize::from(!record::is_needed());
        assert_eq!(all.iter().filter(|c| c.name == "trace").count(), programs);
    }

    /// The kernel agrees with what we say about capabilities: a program loads exactly where we say that it may.
    #[test]
    fn the_kernel_and_the_checks_agree() {
        if record::is_needed() {
            return; // nothing is loaded
        }
        let all = checks();
        let status = |name: &str| all.iter().find(|c| c.name == name).unwrap().status;
        let prevented = ["capabilities", "user_namespace", "lockdown"];
        let prevented = prevented.iter().any(|name| status(name) == Status::No);
        assert_eq!(status("trace") == Status::No, prevented, "{all:#?}");
    }
}
