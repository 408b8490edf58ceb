// SPDX-License-Identifier: MIT OR Apache-2.0
//! A proxy that connections to elsewhere are redirected to, as a sidecar has it.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{Session, has, row, watch};
use crate::{net::Netns, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("peers::redirected_v4", || redirected(&V4)),
        trial("peers::redirected_v6", || redirected(&V6)),
        trial("peers::reset_by_sidecar_v4", || reset_by_sidecar(&V4)),
        trial("peers::reset_by_sidecar_v6", || reset_by_sidecar(&V6)),
    ]
}

/// Where the client connects to, and where it gets to.
struct Way {
    family: &'static str,
    route: &'static str,
    /// The server that the client means, and its port.
    meant: (&'static str, u16),
    proxy: &'static str,
    local: &'static str,
}

const V4: Way = Way {
    family: "ip",
    route: "route add 192.0.2.0/24 dev lo src 127.0.0.1",
    meant: ("192.0.2.7", 80),
    proxy: "0.0.0.0:15001",
    local: "127.0.0.1",
};

const V6: Way = Way {
    family: "ip6",
    route: "route add 2001:db8::/64 dev lo src ::1",
    meant: ("2001:db8::7", 80),
    proxy: "[::]:15001",
    local: "::1",
};

impl Way {
    /// A namespace, as a pod's, whose connections to that server are redirected.
    fn pod(&self) -> Result<Netns> {
        let pod = Netns::new()?;
        pod.ip(self.route)?;
        let Self { family, meant, .. } = self;
        let (server, port) = meant;
        pod.nft(&format!(
            "table {family} sidecar {{\n chain out {{\n type nat hook output priority -100;\n \
             {family} daddr {server} tcp dport {port} redirect to :15001\n }}\n}}\n"
        ))?;
        Ok(pod)
    }

    fn session(&self, pod: &Netns) -> Result<Session> {
        let (server, port) = self.meant;
        let to = match server.contains(':') {
            true => format!("[{server}]:{port}"),
            false => format!("{server}:{port}"),
        };
        let mut session = Session::new([pod, pod], self.proxy, None, Some(&to))?;
        session.s.comm("sidecar")?;
        let [c, s] = session.ends;
        session.c.run(&format!("send {c} 10"))?;
        session.s.run(&format!("recv {s} 10"))?;
        Ok(session)
    }
}

/// The client's row names the proxy and where that listens; the proxy's names the client, and whom it meant.
fn redirected(way: &Way) -> Result<()> {
    let pod = way.pod()?;
    let tool = watch("tcplife", &[], &[&pod])?;
    let mut session = way.session(&pod)?;
    session.close()?;
    tool.wait_lines(2)?;
    let rows = tool.stop()?.rows()?;
    let of = |pid: u32| rows.iter().find(|row| row["pid"] == pid);
    let (Some(client), Some(proxy)) = (of(session.c.pid()), of(session.s.pid())) else {
        anyhow::bail!("a row of each: {rows:#?}");
    };
    let (server, port) = way.meant;
    has(
        client,
        &json!({"raddr": server, "rport": port, "peer_pid": session.s.pid(), "peer_comm": "sidecar",
            "peer_laddr": way.local, "peer_lport": 15001, "peer_netns": pod.inode}),
    )?;
    has(
        proxy,
        &json!({"lport": 15001, "peer_pid": session.c.pid(), "peer_comm": "client",
            "peer_raddr": server, "peer_rport": port}),
    )
}

/// The client sees a reset from the server: the sidecar has sent it.
fn reset_by_sidecar(way: &Way) -> Result<()> {
    let pod = way.pod()?;
    let tool = watch("tcpreset", &[], &[&pod])?;
    let mut session = way.session(&pod)?;
    let [_, s] = session.ends;
    session.s.run(&format!("linger0 {s}"))?;
    session.s.run(&format!("close {s}"))?;
    let received = |row: &Value| row["direction"] == "received";
    let reset = row(&tool, "the reset", received)?;
    let (server, port) = way.meant;
    has(
        &reset,
        &json!({"pid": session.c.pid(), "raddr": server, "rport": port, "peer_pid": session.s.pid(),
            "peer_comm": "sidecar", "peer_lport": 15001}),
    )?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "sent and received: {rows:#?}");
    Ok(())
}
