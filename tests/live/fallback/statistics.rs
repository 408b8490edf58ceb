// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics of destroyed sockets that arrive when the buffer is full.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
        },
    },
};

use crate::{
    net::Netns,
    procfs,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![trial("fallback::statistics_lost", lost)]
}

/// While two commands stand still, root of their namespace fills their sockets' room. What the kernel tells then is
/// lost, which the summary says, and not only stderr; what root has sent is nobody's statistics.
fn lost() -> Result<()> {
    let ns = Netns::new()?;
    let _inside = ns.agent()?;
    let start = |tool: &&str| Tool::start_reduced("btf", tool, &["--json"]);
    let tools = ["tcplife", "tcpinfo"].iter().map(start);
    let tools = tools.collect::<Result<Vec<_>>>()?;
    let stop = |tool: &Tool| tool.signal(Signal::SIGSTOP);
    tools.iter().try_for_each(stop)?;
    let sockets = tools.iter().map(|tool| sockets_of(tool.child.id()));
    let sockets = sockets.collect::<Result<Vec<_>>>()?.concat();
    ns.inside(|| {
        for (port, _) in watching(&sockets)? {
            fill(port)?;
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        for _ in 0..10 {
            drop((
                TcpStream::connect(listener.local_addr()?)?,
                listener.accept()?,
            ));
        }
        wait::until("losses", PATIENCE, || {
            let watching = watching(&sockets)?;
            let all = watching.len() == 2 && watching.iter().all(|(_, drops)| *drops > 0);
            Ok(all.then_some(()))
        })
    })?;
    for tool in tools {
        tool.signal(Signal::SIGCONT)?;
        let run = tool.stop()?;
        let summary = run.records()?.pop().context("no record")?;
        let lost = summary["statistics_lost"].as_u64().unwrap_or(0);
        ensure!(lost > 0 && summary["unvisited"] == 0, "{summary}");
        ensure!(
            run.stderr.contains(&lost.to_string()),
            "{lost}: {}",
            run.stderr
        );
    }
    Ok(())
}

/// The inode numbers of a process's sockets.
fn sockets_of(pid: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let read = |descriptor: &Path| fs::read_link(descriptor);
    for target in procfs::each(&format!("/proc/{pid}/fd"), read)? {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[");
        found.extend(inode.map(|inode| inode.trim_end_matches(']').to_owned()));
    }
    Ok(found)
}

/// Those in this namespace that are told of destroyed sockets: their ports, and what there was no room for.
fn watching(sockets: &[String]) -> Result<Vec<(u32, u64)>> {
    let table = fs::read_to_string("/proc/thread-self/net/netlink")?;
    let mut found = Vec::new();
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        // NETLINK_SOCK_DIAG, and the groups of both families.
        if let [_, "4", port, "00000005", .., drops, inode] = fields[..]
            && sockets.iter().any(|own| own == inode)
        {
            found.push((port.parse()?, drops.parse()?));
        }
    }
    Ok(found)
}

fn fill(port: u32) -> Result<()> {
    let forger = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let to = NetlinkAddr::new(port, 0);
    let mut size = 60_000;
    while size > 0 {
        match sendto(
            forger.as_raw_fd(),
            &vec![0; size],
            &to,
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => size /= 4,
            Err(error) => return Err(error).context("cannot send to the command"),
        }
    }
    Ok(())
}
