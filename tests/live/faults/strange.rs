// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets in strange states, and strange ways to call them. What is expected: rows are as many as the kernel counts, each
//! is of its process, and what one end has sent the other one has received. (What single commands show of TCP_REPAIR, Fast
//! Open, MPTCP and sockets that are connected anew is tested with them.)

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys as sys;
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use crate::{
    missing::{self, Missing},
    net::Net,
    peer::{Agent, Errno},
    tool::Tool,
    trial, unseen,
};

/// What is done, with a client and a server.
type Play = fn(&mut Scene, &str) -> Result<()>;

const PLAYS: [(&str, Play); 8] = [
    ("connected_anew", connected_anew),
    ("fast_open", fast_open),
    ("mptcp", mptcp),
    ("sockmap", sockmap),
    ("ktls", ktls),
    ("io_uring", |scene, host| by(scene, host, "uring ")),
    ("io_uring_thread", |scene, host| {
        by(scene, host, "uring_thread ")
    }),
    ("callers_of_32_bits", callers_of_32_bits),
];

pub fn tests() -> Vec<Trial> {
    let each = PLAYS.map(|(name, play)| {
        trial(format!("faults::strange::{name}"), move || {
            right(play, &HOSTS)
        })
    });
    let proxied = trial("faults::strange::transparent_proxy", transparent_proxy);
    each.into_iter().chain([proxied]).collect()
}

const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];
const COMMANDS: [&str; 5] = ["tcplife", "tcpconnect", "tcpaccept", "tcpinfo", "tcpstates"];

struct Scene {
    net: Net,
    c: Agent,
    s: Agent,
}

impl Scene {
    fn new() -> Result<Self> {
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        Ok(Self { net, c, s })
    }

    fn connected(&mut self, host: &str) -> Result<(u64, u64)> {
        let (listener, at) = self.s.listen(host)?;
        let fd = self.c.open(&at)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.s.number(&format!("accept {listener}"))?;
        self.s.run(&format!("close {listener}"))?;
        Ok((fd, accepted))
    }

    /// A question, an answer, and the end.
    fn talk(&mut self, c: u64, s: u64) -> Result<()> {
        self.c.run(&format!("send {c} 1000"))?;
        self.s.run(&format!("recv {s} 1000"))?;
        self.s.run(&format!("send {s} 30000"))?;
        self.c.run(&format!("recv {c} 30000"))?;
        self.end(c, s)
    }

    fn end(&mut self, c: u64, s: u64) -> Result<()> {
        self.c.run(&format!("close {c}"))?;
        self.s.run(&format!("eof {s}"))?;
        self.s.run(&format!("close {s}")).map(drop)
    }
}

fn sum<'a>(rows: impl Iterator<Item = &'a Value>, key: &str) -> u64 {
    rows.filter_map(|row| row[key].as_u64()).sum()
}

/// All commands at once, and what they show of it.
fn right(play: Play, hosts: &[&str]) -> Result<()> {
    let mut scene = Scene::new()?;
    let inodes = scene.net.inodes();
    let before = unseen::count();
    let start = |name| Tool::start(name, &["--json", "--netns", &inodes]);
    let tools = COMMANDS
        .map(start)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for host in hosts {
        play(&mut scene, host).with_context(|| (*host).to_owned())?;
    }
    scene.net.quiet()?;
    let rows = tools.into_iter().map(|tool| tool.stop()?.rows());
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let unseen = unseen::count() - before;
    let [lives, ..] = &rows[..] else {
        unreachable!("as many as commands");
    };
    let sides = [(&scene.net.a, scene.c.pid()), (&scene.net.b, scene.s.pid())];
    let mut bytes = [0; 4];
    for (side, (ns, pid)) in sides.into_iter().enumerate() {
        let counters = ns.counters()?;
        let (active, passive) = (counters["Tcp.ActiveOpens"], counters["Tcp.PassiveOpens"]);
        let wanted = [active + passive, active, passive, active + passive, active];
        for ((name, rows), wanted) in COMMANDS.into_iter().zip(&rows).zip(wanted) {
            let of = || rows.iter().filter(|row| row["netns"] == ns.inode);
            for row in of() {
                ensure!(row["pid"] == pid || row["pid"].is_null(), "{pid}: {row}");
                ensure!(row["pid"] == pid || name != "tcplife", "{pid}: {row}");
            }
            // Not a row per connection, but per socket: this one has several.
            if name == "tcpinfo" && ptr::fn_addr_eq(play, connected_anew as Play) {
                continue;
            }
            let found = match name {
                "tcpstates" => of().filter(|row| row["new_state"] == "SYN_SENT").count(),
                // A socket that was never connected, or listened, is destroyed, too.
                "tcpinfo" => of().filter(|row| row["rport"] != 0).count(),
                _ => of().count(),
            };
            let found = found as u64;
            ensure!(
                found <= wanted && found + unseen >= wanted,
                "{name}: {found} rows of {wanted}, {unseen} unseen: {rows:#?}"
            );
        }
        let of = || lives.iter().filter(|row| row["netns"] == ns.inode);
        bytes[side] = sum(of(), "tx_bytes");
        bytes[3 - side] = sum(of(), "rx_bytes");
    }
    ensure!(bytes[0] == bytes[2] && bytes[1] == bytes[3], "{bytes:?}");
    ensure!(bytes[0] > 0, "{lives:#?}");
    Ok(())
}

/// One socket, a connection after the other.
fn connected_anew(scene: &mut Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let fd = scene.c.open(&at)?;
    for _ in 0..5 {
        scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        scene.c.run(&format!("send {fd} 100"))?;
        scene.s.run(&format!("recv {accepted} 100"))?;
        scene.c.run(&format!("shutdown {fd} wr"))?;
        scene.s.run(&format!("eof {accepted}"))?;
        scene.s.run(&format!("close {accepted}"))?;
        scene.c.run(&format!("eof {fd}"))?;
        scene.c.run(&format!("disconnect {fd}"))?;
    }
    scene.c.run(&format!("close {fd}"))?;
    scene.s.run(&format!("close {listener}")).map(drop)
}

fn fast_open(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.a.sysctl("ipv4/tcp_fastopen", "5")?; // data in the SYN without a cookie
    scene.net.b.sysctl("ipv4/tcp_fastopen", "1538")?; // and taken without one, by any listener
    let (listener, at) = scene.s.listen(host)?;
    for _ in 0..5 {
        let fd = scene.c.open(&at)?;
        scene.c.run(&format!("fastopen {fd} {at} 300"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        scene.s.run(&format!("recv {accepted} 300"))?;
        scene.talk(fd, accepted)?;
    }
    scene.s.run(&format!("close {listener}")).map(drop)
}

/// Their subflows are TCP's sockets.
fn mptcp(scene: &mut Scene, host: &str) -> Result<()> {
    missing::needs_mptcp()?;
    let family = if host.starts_with('[') { 6 } else { 4 };
    let listener = scene.s.number(&format!("socket {family} mptcp"))?;
    scene.s.run(&format!("bind {listener} {host}"))?;
    scene.s.run(&format!("listen {listener} 8"))?;
    let at = scene.s.run(&format!("local {listener}"))?;
    for _ in 0..3 {
        let fd = scene.c.number(&format!("socket {family} mptcp"))?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        scene.talk(fd, accepted)?;
    }
    scene.s.run(&format!("close {listener}")).map(drop)
}

/// A copy of a process's descriptor.
fn copy(agent: &Agent, fd: u64) -> Result<OwnedFd> {
    let owned = |fd: i64| -> Result<OwnedFd> {
        let fd = nix::errno::Errno::result(fd)? as i32;
        // SAFETY: a new descriptor, which nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    // SAFETY: takes integers only.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, agent.pid(), 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd as i32, 0) })
}

/// Both ends in a map, by which the kernel gives them other functions (net/ipv4/tcp_bpf.c).
fn sockmap(scene: &mut Scene, host: &str) -> Result<()> {
    // SAFETY: reads a name; no options.
    let map = unsafe {
        let kind = sys::BPF_MAP_TYPE_SOCKHASH;
        sys::bpf_map_create(kind, c"strange".as_ptr(), 4, 4, 16, ptr::null())
    };
    if map < 0 {
        return Err(Missing::Feature("CONFIG_BPF_STREAM_PARSER").into());
    }
    // SAFETY: a new descriptor, which nobody else has.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    for key in 0..5u32 {
        let (c, s) = scene.connected(host)?;
        for (key, copy) in [(key, copy(&scene.c, c)?), (key + 8, copy(&scene.s, s)?)] {
            let value = copy.as_raw_fd();
            // SAFETY: the kernel reads a key and a value of four bytes each.
            let put = unsafe {
                let (key, value) = ((&raw const key).cast(), (&raw const value).cast());
                sys::bpf_map_update_elem(map.as_raw_fd(), key, value, 0)
            };
            ensure!(put == 0, "{}", nix::errno::Errno::last());
        }
        scene.talk(c, s)?;
    }
    Ok(())
}

/// Records of TLS, made by the kernel.
fn ktls(scene: &mut Scene, host: &str) -> Result<()> {
    const SOL_TLS: i32 = 282;
    const TCP_ULP: i32 = 31;
    // struct tls12_crypto_info_aes_gcm_128: TLS 1.2, the cipher, and keys of zeros.
    let keys = format!("03033300{}", "00".repeat(36));
    let (c, s) = scene.connected(host)?;
    for (agent, fd) in [(&mut scene.c, c), (&mut scene.s, s)] {
        match agent.attempt(&format!("optionhex {fd} 6 {TCP_ULP} 746c73"))? {
            Err(Errno(libc::ENOENT)) => return Err(Missing::Feature("CONFIG_TLS").into()),
            done => ensure!(done.is_ok(), "{done:?}"),
        }
        for way in [1, 2] {
            agent.run(&format!("optionhex {fd} {SOL_TLS} {way} {keys}"))?;
        }
    }
    scene.c.run(&format!("send {c} 1000"))?;
    scene.s.run(&format!("recv {s} 1000"))?;
    scene.end(c, s)
}

/// All calls of a connection with this before the command of the agent.
fn by(scene: &mut Scene, host: &str, how: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    for _ in 0..3 {
        let c = scene.c.open(&at)?;
        match scene.c.attempt(&format!("{how}connect {c} {at}"))? {
            Err(Errno(libc::ENOSYS | libc::EPERM)) => {
                return Err(Missing::Feature("CONFIG_IO_URING, or leave to use it").into());
            }
            done => ensure!(done.is_ok(), "{done:?}"),
        }
        let s = scene.s.number(&format!("{how}accept {listener}"))?;
        scene.c.run(&format!("{how}send {c} 1000"))?;
        scene.s.run(&format!("{how}recv {s} 1000"))?;
        scene.s.run(&format!("{how}send {s} 3000"))?;
        scene.c.run(&format!("{how}recv {c} 3000"))?;
        scene.c.run(&format!("{how}close {c}"))?;
        scene.s.run(&format!("eof {s}"))?;
        scene.s.run(&format!("{how}close {s}"))?;
    }
    scene.s.run(&format!("close {listener}")).map(drop)
}

fn callers_of_32_bits(scene: &mut Scene, host: &str) -> Result<()> {
    // A kernel that takes no such calls kills who makes one.
    let mut probe = scene.net.a.agent()?;
    if probe.attempt("compat getpid").is_ok_and(|pid| pid.is_ok()) {
        return by(scene, host, "compat ");
    }
    Err(Missing::Feature("CONFIG_IA32_EMULATION").into())
}

/// Connections to an address that is nobody's go to a server that says it is everybody's.
fn transparent_proxy() -> Result<()> {
    const IP_TRANSPARENT: i32 = 19;
    let mut scene = Scene::new()?;
    scene.net.a.ip("route add 198.51.100.0/24 via 10.9.0.2")?;
    scene
        .net
        .b
        .ip("rule add fwmark 1 lookup 100\nroute add local 0.0.0.0/0 dev lo table 100")?;
    let rules = "table ip proxy {\n chain c {\n type filter hook prerouting priority mangle;\n \
                 ip daddr 198.51.100.0/24 tcp dport 80 tproxy to :4949 meta mark set 1 accept\n }\n}\n";
    if scene.net.b.nft(rules).is_err() {
        return Err(Missing::Feature("CONFIG_NFT_TPROXY").into());
    }
    let inodes = scene.net.inodes();
    let start = |name| Tool::start(name, &["--json", "--netns", &inodes]);
    let tools = ["tcplife", "tcpaccept", "tcpinfo"].map(start);
    let tools = tools.into_iter().collect::<Result<Vec<_>>>()?;
    let listener = scene.s.open("0.0.0.0:0")?;
    scene.s.option(listener, libc::SOL_IP, IP_TRANSPARENT, 1)?;
    scene.s.run(&format!("bind {listener} 0.0.0.0:4949"))?;
    scene.s.run(&format!("listen {listener} 8"))?;
    for host in 1..=5 {
        let fd = scene.c.open("0.0.0.0:0")?;
        scene.c.run(&format!("connect {fd} 198.51.100.{host}:80"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        scene.talk(fd, accepted)?;
    }
    scene.s.run(&format!("close {listener}"))?;
    scene.net.quiet()?;
    let passive = scene.net.b.counters()?["Tcp.PassiveOpens"];
    ensure!(passive == 5, "{passive}");
    for tool in tools {
        let rows = tool.stop()?.rows()?;
        let here = |row: &&Value| row["netns"] == scene.net.b.inode && row["rport"] != 0;
        let rows: Vec<_> = rows.iter().filter(here).collect();
        ensure!(rows.len() == 5, "{rows:#?}");
        for (host, row) in (1..).zip(rows) {
            let right = row["laddr"] == format!("198.51.100.{host}") && row["lport"] == 80;
            ensure!(right && row["pid"] == scene.s.pid(), "{row}");
        }
    }
    Ok(())
}
