// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels that are configured without a feature: their type information lacks its fields. Here the running kernel's,
//! with the fields renamed, stands in for theirs.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::{missing, scratch::Scratch, tool, tools, trial, unseen};

/// A feature, and fields that only kernels with it have.
const FEATURES: [(&str, &[&str]); 4] = [
    ("ipv6", &["skc_v6_daddr", "skc_v6_rcv_saddr"]),
    ("cgroups", &["sk_cgrp_data"]),
    // The field is there, and empty.
    ("cgroup_data", &["cgroup"]),
    ("mptcp", &["is_mptcp", "mptcp_sock"]),
];

pub fn tests() -> Vec<Trial> {
    let features = FEATURES
        .map(|(name, fields)| trial(format!("config::no_{name}"), move || starts_without(fields)));
    let mut all = Vec::from(features);
    all.push(trial("config::refused_iterator", starts_once));
    all.push(trial("config::without_tracepoint", without_tracepoint));
    all
}

/// A kernel that refuses to visit the elements of a map is asked before: no command starts twice for that.
fn starts_once() -> Result<()> {
    missing::needs_storage()?;
    let btf = Scratch::path("btf");
    fs::write(&*btf, renamed(&["bpf_iter_bpf_sk_storage_map"])?)?;
    let commands = [
        ("tcpconnect", "--no-header"),
        ("tcplife", "--active"),
        ("tcpstates", "--summary"),
        ("tcpretrans", "--summary"),
        ("tcprcvspace", "--summary"),
    ];
    for (name, flag) in commands {
        let script = "mount --bind \"$1\" /sys/kernel/btf/vmlinux && exec \"$2\" \"$3\" --no-scan --duration 1ms -v";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-ec", script, "sh", btf.text()])
            .arg(tool::path(name))
            .arg(flag)
            .output()
            .context("unshare")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let starts = stderr.matches("missing kernel features").count();
        ensure!(
            output.status.success() && starts == 1,
            "{name}: {starts}: {stderr}"
        );
        let variant = stderr.contains("_by_namespace': skipped loading");
        ensure!(!variant, "{name}: {stderr}");
    }
    Ok(())
}

/// A kernel that is too old for a command's tracepoint: it says since when there is one.
fn without_tracepoint() -> Result<()> {
    let btf = Scratch::path("btf");
    let events = ["btf_trace_tcp_cong_state_set", "btf_trace_tcp_rcvbuf_grow"];
    fs::write(&*btf, renamed(&events)?)?;
    for (name, flag, code, said) in [
        (
            "tcpcong",
            "--json",
            1,
            "tcp:tcp_cong_state_set (since Linux 5.19)",
        ),
        (
            "tcpcong",
            "--summary",
            1,
            "tcp:tcp_cong_state_set (since Linux 5.19)",
        ),
        (
            "tcprcvspace",
            "--grow",
            2,
            "tcp:tcp_rcvbuf_grow (since Linux 6.16)",
        ),
    ] {
        let script = "mount --bind \"$1\" /sys/kernel/btf/vmlinux && exec \"$2\" \"$3\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-ec", script, "sh", btf.text()])
            .arg(tool::path(name))
            .arg(flag)
            .output()
            .context("unshare")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code) && stderr.lines().count() == 1,
            "{name}: {}: {stderr}",
            output.status
        );
        ensure!(stderr.contains(said), "{name}: {stderr}");
    }
    Ok(())
}

/// The running kernel's type information, with other names for some fields.
pub fn renamed(fields: &[&str]) -> Result<Vec<u8>> {
    let mut btf = fs::read("/sys/kernel/btf/vmlinux")?;
    for field in fields {
        let name = [b"\0", field.as_bytes(), b"\0"].concat();
        let found = |(at, window): (usize, &[u8])| (window == name).then_some(at + 1);
        let places: Vec<_> = btf
            .windows(name.len())
            .enumerate()
            .filter_map(found)
            .collect();
        places.into_iter().for_each(|at| btf[at] = b'_');
    }
    Ok(btf)
}

/// Every command loads and attaches, and `--cgroup` finds no socket rather than a wrong one; with programs of its own,
/// and with those of tracepoints' records, which read sockets by the same types.
fn starts_without(fields: &[&str]) -> Result<()> {
    let btf = Scratch::path("btf");
    fs::write(&*btf, renamed(fields)?)?;
    let both = tools::here().flat_map(|n| [(n, ""), (n, "ringbuf")]);
    for (name, without) in both.filter(|(n, w)| w.is_empty() || !tools::NEED_BTF.contains(n)) {
        // Their records do not name the socket.
        let nameless = name == "sockbuf" || name == "tcpprobe" && !missing::probe_tells_socket();
        let filter = if nameless && !without.is_empty() {
            "--ipv4"
        } else {
            "--cgroup=id:1"
        };
        let script = "mount --bind \"$1\" /sys/kernel/btf/vmlinux && exec \"$2\" --json --duration 10ms \"$3\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-ec", script, "sh", btf.text()])
            .arg(tool::path(name))
            .arg(filter)
            .env("TCPTOOLS_WITHOUT", without)
            .output()
            .context("unshare")?;
        let stderr = unseen::said_else(&String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success() && (stderr.is_empty() == without.is_empty()),
            "{name} without {without:?}: {}: {stderr}",
            output.status
        );
    }
    Ok(())
}
