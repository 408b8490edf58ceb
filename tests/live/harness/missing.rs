// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a kernel or a host may lack that a test needs: then the test is reported as ignored, and why.

use std::{fmt, sync::LazyLock};

use anyhow::Result;
use libbpf_rs::btf::{Btf, types::Struct};

use tcptools::kernel::tracepoints::arguments;

use crate::{tool, tools};

/// What is not there.
#[derive(Debug)]
pub enum Missing {
    /// A feature of the kernel, by the name of its configuration option.
    Feature(&'static str),
    /// A package of Debian's.
    Package(&'static str),
    /// An option of a program: guests have small ones.
    Option(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Feature(name) => write!(f, "this kernel lacks {name}"),
            Self::Package(name) => write!(f, "the package {name} is not installed"),
            Self::Option(name) => write!(f, "there is no {name} here"),
        }
    }
}

impl std::error::Error for Missing {}

/// `unshare` can make a cgroup namespace.
pub fn needs_unshare_cgroup() -> Result<()> {
    let tried = std::process::Command::new("unshare")
        .args(["--cgroup", "--", "true"])
        .output()?;
    match tried.status.success() {
        true => Ok(()),
        false => Err(Missing::Option("unshare --cgroup").into()),
    }
}

/// MPTCP sockets can be made.
///
/// The sysctl is there exactly when the protocol is (net/mptcp/ctrl.c).
pub fn needs_mptcp() -> Result<()> {
    needs(
        "CONFIG_MPTCP",
        std::path::Path::new("/proc/sys/net/mptcp/enabled").exists(),
    )
}

/// The commands can give a socket its cookie; otherwise it has one only once its process has asked for it.
pub fn cookies() -> bool {
    static LACKS: LazyLock<bool> = LazyLock::new(|| {
        let run = tool::run("tcplife", &["--verbose", "--duration", "1ms"]);
        run.is_ok_and(|run| run.stderr.contains("socket_cookie: 1"))
    });
    !*LACKS
}

/// As [`cookies`], for tests that know a socket by nothing else.
pub fn needs_cookies() -> Result<()> {
    needs(
        "bpf_get_socket_cookie for tracing programs (since 5.12)",
        cookies(),
    )
}

/// There is type information.
pub fn btf() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// A summary's `table_sockets` is null without it.
pub fn needs_table(summary: &serde_json::Value) -> Result<()> {
    needs(
        "bpf_spin_lock for tracing programs (since about 5.16)",
        !summary["table_sockets"].is_null(),
    )
}

/// As [`btf`].
pub fn needs_btf() -> Result<()> {
    needs("CONFIG_DEBUG_INFO_BTF", btf())
}

/// The commands have programs of their own here, not only tracepoints' records: `records` has the tests for those.
pub fn programs() -> bool {
    static RING: LazyLock<bool> =
        LazyLock::new(|| !tcptools::kernel::features::lacks_ring_buffer());
    btf() && *RING
}

/// As [`programs`], for tests of what the commands know with them.
pub fn needs_programs() -> Result<()> {
    needs_btf()?;
    needs("a ring buffer (since 5.8)", programs())
}

/// Lockdown's confidentiality mode, in which the commands refuse to run.
pub fn needs_confidentiality() -> Result<()> {
    needs("lockdown in confidentiality mode", confidential())
}

/// As every other test does.
pub fn needs_no_confidentiality() -> Result<()> {
    needs(
        "memory that BPF may read: it is in lockdown's confidentiality mode",
        !confidential(),
    )
}

fn confidential() -> bool {
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown");
    modes.is_ok_and(|modes| modes.contains("[confidentiality]"))
}

/// An MPTCP connection counts its bytes.
pub fn needs_mptcp_bytes() -> Result<()> {
    let found = has_field("mptcp_sock", "bytes_acked");
    needs("mptcp_sock.bytes_acked (since 6.5)", found)
}

/// The kernel reports the receive window that it has advertised (since 6.2).
pub fn tells_receive_window() -> bool {
    has_field("tcp_info", "tcpi_rcv_wnd")
}

/// The record of tcp:tcp_probe names its socket (since 6.10).
pub fn probe_tells_socket() -> bool {
    has_field("trace_event_raw_tcp_probe", "skaddr")
}

/// The kernel counts what a program of a classic tracepoint was not run for (since 6.7, as it has this field).
pub fn counts_missed() -> bool {
    has_field("tcp_sock", "total_rto")
}

/// The kernel gives reasons for drops.
pub fn needs_drop_reasons() -> Result<()> {
    let reported = arguments::arguments("kfree_skb") > 2;
    needs("reasons of drops (since 5.17)", reported)
}

/// The kernel says which socket a segment that is thrown away was for.
pub fn needs_drop_sockets() -> Result<()> {
    let reported = arguments::arguments("kfree_skb") > 3;
    needs("the socket of a drop (since 6.11)", reported)
}

/// The kernel says how many instructions the verifier went through.
pub fn needs_verified_instructions() -> Result<()> {
    let found = has_field("bpf_prog_aux", "verified_insns");
    needs("bpf_prog_aux.verified_insns (since 5.16)", found)
}

/// The kernel's type has this field; false without type information.
fn has_field(structure: &str, field: &str) -> bool {
    let Ok(btf) = Btf::from_vmlinux() else {
        return false;
    };
    let found = btf.type_by_name::<Struct<'_>>(structure);
    found.is_some_and(|s| s.iter().any(|m| m.name == Some(field.as_ref())))
}

/// The kernel reports retransmissions that it could not send.
pub fn needs_failed_retransmissions() -> Result<()> {
    let reported = arguments::arguments("tcp_retransmit_skb") > 2;
    needs("the error of a retransmission (since 6.16)", reported)
}

/// The kernel reports that a receive buffer is to grow.
pub fn needs_growth_steps() -> Result<()> {
    let reported = arguments::arguments("tcp_rcvbuf_grow") > 0;
    needs("tcp:tcp_rcvbuf_grow (since 6.16)", reported)
}

/// The kernel has reset reasons, and reports resets without a socket.
pub fn needs_reset_reasons() -> Result<()> {
    let reported = arguments::arguments("tcp_send_reset") > 2;
    needs("resets without a socket (since 6.10)", reported)
}

/// Sockets have storage for the commands' programs (since 5.11).
pub fn stores() -> bool {
    static LACKS: LazyLock<bool> = LazyLock::new(|| {
        let run = tool::run("tcplife", &["--verbose", "--duration", "1ms"]);
        run.is_ok_and(|run| run.stderr.contains("sk_storage: 1"))
    });
    !*LACKS
}

/// As [`stores`].
pub fn needs_storage() -> Result<()> {
    needs(
        "sockets' storage for tracing programs (since 5.11)",
        stores(),
    )
}

/// Every socket is visited at once, in namespaces that nobody can enter too.
pub fn needs_map_elements() -> Result<()> {
    let visits = !tcptools::kernel::features::refuses_map_elements();
    needs("BPF iterators over map elements", visits)
}

/// Connections are tracked, once a rule asks for it.
pub fn needs_conntrack() -> Result<()> {
    let tracked = std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists();
    needs("CONFIG_NF_CONNTRACK", tracked)
}

/// A task can be preempted while a tracepoint's programs run.
pub fn needs_preemptible_tracepoints() -> Result<()> {
    let found = arguments::can_be_preempted();
    needs("tracepoints that can be preempted (since 7.0)", found)
}

/// Clocks of a process's own, and a program that makes them (busybox has none).
pub fn needs_time_namespaces() -> Result<()> {
    let found = std::path::Path::new("/proc/self/ns/time").exists();
    needs("time namespaces (since 5.6)", found)?;
    let help = std::process::Command::new("unshare")
        .arg("--help")
        .output()?;
    match String::from_utf8_lossy(&help.stdout).contains("--boottime") {
        true => Ok(()),
        false => Err(Missing::Package("util-linux").into()),
    }
}

/// The tracepoint that a command's rows are of.
pub fn needs_tracepoint_of(tool: &str) -> Result<()> {
    let mut needed = tools::NEED_TRACEPOINT.iter();
    match needed.find(|(name, ..)| *name == tool) {
        Some((_, event, feature)) => needs(feature, arguments::arguments(event) > 0),
        None => Ok(()),
    }
}

fn needs(feature: &'static str, present: bool) -> Result<()> {
    if present {
        return Ok(());
    }
    Err(Missing::Feature(feature).into())
}
