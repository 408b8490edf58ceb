// SPDX-License-Identifier: MIT OR Apache-2.0
//! Namespaces and cgroups that go while their sockets are there. What is expected: a row for each session all the same,
//! as many as the namespaces' own counters said before they went; a look at all sockets goes on meanwhile.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    libc,
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

use crate::{
    cgroups::{Tree, root},
    missing,
    net::Net,
    tool::Tool,
    trial, unseen,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("faults::gone::namespaces", namespaces),
        trial("faults::gone::cgroups", cgroups),
    ]
}

/// Namespaces, each of which has two sessions: one of either family.
const NAMESPACES: u64 = 300;

/// Where the servers listen, in all of them.
const PORT: u16 = 47_471;

/// `ip link set lo up`, without another process.
fn loopback_up() -> Result<()> {
    // SAFETY: integers and bytes only: zero is a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK) as i16;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the kernel reads such a struct, which lives.
    let ret = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw mut request) };
    ensure!(ret == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

/// Two sessions with data that nobody has read, in a namespace that is gone once this thread is: what is left of them
/// then (FIN_WAIT2, TIME_WAIT, an RST that is on its way) the kernel throws away with it. Its number, and its opens, active
/// and passive.
fn short_lived(number: u64) -> Result<(u64, u64)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    loopback_up()?;
    for host in ["127.0.0.1", "::1"] {
        let listener = TcpListener::bind((host, PORT))?;
        let mut client = TcpStream::connect((host, PORT))?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"question")?;
        match number % 3 {
            0 => server.read_exact(&mut [0; 8])?,
            1 => server.write_all(b"answer")?,
            _ => {}
        }
        if number.is_multiple_of(2) {
            drop(client);
            drop(server);
        } else {
            drop(server);
            drop(client);
        }
    }
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut tcp = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = tcp.next().zip(tcp.next()).context("Tcp")?;
    let fields = names.split(' ').zip(values.split(' '));
    let opens = fields.filter(|(name, _)| name.ends_with("Opens"));
    let opens = opens.map(|(_, value)| value.parse::<u64>());
    let opens = opens.sum::<Result<u64, _>>()?;
    Ok((fs::metadata("/proc/thread-self/ns/net")?.ino(), opens))
}

fn namespaces() -> Result<()> {
    missing::needs_programs()?;
    let before = unseen::count();
    let port = PORT.to_string();
    let args = ["--json", "--buffer", "16384", "--port", &port];
    let names = ["tcplife", "tcpstates", "tcpinfo"];
    let start = |name| Tool::start(name, &args);
    let tools = names.map(start).into_iter().collect::<Result<Vec<_>>>()?;
    let visitors = [
        ("tcpstates", "--active=100ms"),
        ("tcplife", "--active=50ms"),
        ("tcpaccept", "--listeners=50ms"),
    ];
    let start = |(name, flag)| Tool::start(name, &["--json", "--port", &port, flag]);
    let visitors = visitors
        .map(start)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    // An inode number may be used again: a number of one that has gone.
    let mut opens = HashMap::<u64, u64>::new();
    for number in 0..NAMESPACES {
        let one = thread::spawn(move || short_lived(number));
        let (inode, count) = one.join().expect("no panic")?;
        *opens.entry(inode).or_default() += count;
    }
    let wanted: u64 = opens.values().sum();
    ensure!(wanted == NAMESPACES * 4, "{wanted} opens");
    for tool in visitors {
        let run = tool.stop()?;
        ensure!(run.status.success(), "{run:?}");
        let last = run.records()?.pop().context("nothing")?;
        ensure!(last["event"] == "summary" && last["lost"] == 0, "{last}");
    }
    for (tool, name) in tools.into_iter().zip(names) {
        // What the kernel throws away with a namespace, it does by itself, a while later: only what the test has closed
        // counts here.
        let rows = tool.stop()?.rows()?;
        let unseen = unseen::count() - before;
        let mut found = HashMap::<u64, u64>::new();
        for row in rows.iter().filter(|row| is_opened(name, row)) {
            let inode = row["netns"].as_u64().context("netns")?;
            *found.entry(inode).or_default() += 1;
        }
        let all: u64 = found.values().sum();
        let few = opens
            .iter()
            .find(|(inode, count)| found.get(inode) != Some(count));
        ensure!(
            few.is_none() || all + unseen >= wanted && all <= wanted,
            "{name}: {all} rows of {wanted} opens, {unseen} unseen; {few:?}"
        );
    }
    Ok(())
}

/// Rows of which there is one for each open.
fn is_opened(name: &str, row: &Value) -> bool {
    match name {
        "tcpstates" => row["new_state"] == "ESTABLISHED",
        // A listener is none.
        _ => row["rport"] != 0,
    }
}

/// Cgroups with a session each.
const CGROUPS: usize = 60;

/// The session's cgroup has gone before the session does.
fn cgroups() -> Result<()> {
    missing::needs_programs()?;
    let (net, tree) = (Net::new()?, Tree::new()?);
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let below = tree.make("group")?;
    let netns = net.a.inode.to_string();
    let rows = Tool::start("tcplife", &["--json", "--netns", &netns])?;
    // By its number, which no later cgroup has.
    let id = format!("id:{}", fs::metadata(&below)?.ino());
    let filtered = Tool::start("tcplife", &["--json", "--netns", &netns, "--cgroup", &id])?;
    let mut open = Vec::new();
    for number in 0..CGROUPS {
        let cgroup = below.join(format!("g{number}"));
        fs::create_dir(&cgroup)?;
        c.run(&format!("cgroup {}", cgroup.display()))?;
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        let port: std::net::SocketAddr = c.run(&format!("local {fd}"))?.parse()?;
        open.push((fd, accepted, port.port(), cgroup));
    }
    c.run(&format!("cgroup {}", root()?))?;
    for (.., cgroup) in &open {
        tree.remove(cgroup)?;
    }
    tree.remove(&below)?;
    for (fd, accepted, ..) in &open {
        c.run(&format!("close {fd}"))?;
        s.run(&format!("close {accepted}"))?;
    }
    net.quiet()?;
    let (rows, filtered) = (rows.stop()?.rows()?, filtered.stop()?.rows()?);
    let opens = net.a.counters()?["Tcp.ActiveOpens"];
    ensure!(
        opens == CGROUPS as u64 && rows.len() as u64 == opens,
        "{}",
        rows.len()
    );
    ensure!(
        filtered.len() == rows.len(),
        "{} by --cgroup",
        filtered.len()
    );
    let top = PathBuf::from("/").join(&tree.name).join("group");
    for (_, _, port, cgroup) in &open {
        let row = rows.iter().find(|row| row["lport"] == *port);
        let row = row.with_context(|| format!("no row of {port}"))?;
        let name = cgroup.file_name().context("a name")?;
        let path = top.join(name);
        ensure!(row["cgroup"] == path.to_string_lossy().as_ref(), "{row}");
    }
    Ok(())
}
