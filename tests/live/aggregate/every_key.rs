// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every count and every sum, by every key: each adds up to the rows of the same command that saw the same traffic, and by name
//! to what the traffic was.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::by::sums;
use super::keys::{KEYS, Summed, Watch};
use crate::{
    net::Net,
    pair::{filter, pass},
    peer::Agent,
    sockbuf::{flood, meminfo, sink, udp_turn},
    tool::Tool,
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("sums::by_every_key::tcpconnect_counts", connects),
        trial("sums::by_every_key::tcpconnect_histograms", latencies),
        trial("sums::by_every_key::tcpprobe_histograms", round_trips),
        trial("sums::by_every_key::tcpaccept", accepts),
        trial("sums::by_every_key::tcpstates", states),
        trial("sums::by_every_key::tcpreset", resets),
        trial("sums::by_every_key::tcpretrans_counts", || {
            retransmissions(&["-c"], "count", "count")
        }),
        trial("sums::by_every_key::tcpretrans_totals", || {
            retransmissions(&["--summary"], "total", "retrans_segs")
        }),
        trial("sums::by_every_key::tcptop", bytes),
        trial("sums::by_every_key::sockbuf", overflows),
    ]
}

const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

/// Two clients in one namespace, a server in the other.
struct Scene {
    net: Net,
    clients: [Agent; 2],
    server: Agent,
}

/// How many sessions each client has with each listener.
const SESSIONS: [u64; 2] = [3, 2];
const BYTES: u64 = 1000;

impl Scene {
    fn new() -> Result<Self> {
        let net = Net::new()?;
        let mut clients = [net.a.agent()?, net.a.agent()?];
        for (client, name) in clients.iter_mut().zip(["one", "two, three"]) {
            client.comm(name)?;
        }
        let mut server = net.b.agent()?;
        server.comm("server")?;
        Ok(Self {
            net,
            clients,
            server,
        })
    }

    fn watch(&self, how: Summed) -> Result<Watch> {
        Watch::start(how, &self.net.inodes())
    }

    /// Sessions of both families, each with a message; `end` closes one: client, its descriptor, server, its descriptor.
    fn sessions(&mut self, end: fn(&mut Agent, u64, &mut Agent, u64) -> Result<()>) -> Result<()> {
        for host in HOSTS {
            let (listener, at) = self.server.listen(host)?;
            for (client, number) in self.clients.iter_mut().zip(SESSIONS) {
                for _ in 0..number {
                    let fd = client.open(&at)?;
                    client.run(&format!("connect {fd} {at}"))?;
                    let accepted = self.server.number(&format!("accept {listener}"))?;
                    client.run(&format!("send {fd} {BYTES}"))?;
                    client.run(&format!("drained {fd}"))?;
                    self.server.run(&format!("recv {accepted} {BYTES}"))?;
                    end(client, fd, &mut self.server, accepted)?;
                }
            }
            self.server.run(&format!("close {listener}"))?;
        }
        Ok(())
    }

    /// An open that is refused, of each family.
    fn refused(&mut self) -> Result<()> {
        for host in HOSTS {
            let (listener, at) = self.server.listen(host)?;
            self.server.run(&format!("close {listener}"))?;
            let fd = self.clients[0].open(&at)?;
            self.clients[0].fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)?;
            self.clients[0].run(&format!("close {fd}"))?;
        }
        Ok(())
    }
}

fn both_close(client: &mut Agent, fd: u64, server: &mut Agent, accepted: u64) -> Result<()> {
    client.run(&format!("close {fd}"))?;
    server.run(&format!("eof {accepted}"))?;
    server.run(&format!("close {accepted}")).map(drop)
}

fn abort(client: &mut Agent, fd: u64, server: &mut Agent, accepted: u64) -> Result<()> {
    server.run(&format!("linger0 {accepted}"))?;
    server.run(&format!("close {accepted}"))?;
    client.run(&format!("close {fd}")).map(drop)
}

/// By name: `each` for each session of either client, and what the server has.
fn truth(each: u64, server: u64) -> BTreeMap<String, u64> {
    let names = ["one", r"two\x2c three", "server"];
    let families = HOSTS.len() as u64;
    let counts = [
        SESSIONS[0] * families * each,
        SESSIONS[1] * families * each,
        server,
    ];
    let all = names.into_iter().map(str::to_owned).zip(counts);
    all.filter(|(_, count)| *count != 0).collect()
}

/// Sessions of both clients.
fn all() -> u64 {
    SESSIONS.iter().sum::<u64>() * HOSTS.len() as u64
}

fn one(_: &Value) -> u64 {
    1
}

fn connects() -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcpconnect",
        rows: &["--no-pending"],
        counts: one,
        sums: &["-c"],
        event: "count",
        figure: "count",
    })?;
    scene.sessions(both_close)?;
    scene.refused()?;
    let mut truth = truth(1, 0);
    *truth.entry("one".into()).or_default() += HOSTS.len() as u64;
    watch.check(&truth)
}

/// A refused open is in no histogram of established ones.
fn latencies() -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcpconnect",
        rows: &["--no-pending"],
        counts: |row| u64::from(row["outcome"] == "established"),
        sums: &["--hist"],
        event: "histogram",
        figure: "count",
    })?;
    scene.sessions(both_close)?;
    scene.refused()?;
    watch.check(&truth(1, 0))
}

/// Rows have no samples of their own: those of all keys are the same, and each group is one that rows have.
fn round_trips() -> Result<()> {
    let mut scene = Scene::new()?;
    let netns = scene.net.inodes();
    let start = |args: &[&str]| {
        Tool::start(
            "tcpprobe",
            &[&["--json", "--netns", &netns][..], args].concat(),
        )
    };
    let (rows, whole) = (start(&[])?, start(&["--hist"])?);
    let by = |(key, _): &(&str, _)| start(&[&format!("--hist={key}")]);
    let tools = KEYS.iter().map(by).collect::<Result<Vec<_>>>()?;
    scene.sessions(both_close)?;
    let rows = rows.stop()?.rows()?;
    let whole = whole.stop()?.rows()?;
    ensure!(whole.len() == 1 && whole[0]["raddr"].is_null(), "{whole:?}");
    for ((key, fields), tool) in KEYS.iter().zip(tools) {
        let told = tool.stop()?.rows()?;
        for figure in ["count", "sum_us"] {
            let sum: u64 = told.iter().filter_map(|row| row[figure].as_u64()).sum();
            ensure!(whole[0][figure] == sum, "{key}: {told:#?} of {whole:?}");
        }
        let (told, known) = (sums(&told, fields, "count"), sums(&rows, fields, "count"));
        let is_known = |group: &String| known.contains_key(group);
        ensure!(told.keys().all(is_known), "{key}: {told:?} of {known:?}");
        if *key == "comm" {
            ensure!(told.len() == 3, "{told:?}");
        }
    }
    Ok(())
}

fn accepts() -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcpaccept",
        rows: &[],
        counts: one,
        sums: &["--summary"],
        event: "total",
        figure: "accepts",
    })?;
    scene.sessions(both_close)?;
    watch.check(&truth(0, all()))
}

/// A client leaves SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, and CLOSE before; the server's end SYN_RECV, ESTABLISHED,
/// CLOSE_WAIT and LAST_ACK; a listener CLOSE and LISTEN.
fn states() -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcpstates",
        rows: &[],
        counts: |row| {
            let child = row["old_state"] == "LISTEN" && row["new_state"] == "SYN_RECV";
            u64::from(!child)
        },
        sums: &["--summary"],
        event: "state",
        figure: "left",
    })?;
    scene.sessions(both_close)?;
    let listeners = 2 * HOSTS.len() as u64;
    watch.wait(9 * all() + listeners)?;
    watch.check(&truth(5, 4 * all() + listeners))
}

fn resets() -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcpreset",
        rows: &[],
        counts: one,
        sums: &["--summary"],
        event: "count",
        figure: "count",
    })?;
    scene.sessions(abort)?;
    watch.wait(2 * all())?;
    watch.check(&truth(1, all()))
}

/// A SYN that is dropped is sent again; once of each family.
fn retransmissions(
    sums: &'static [&'static str],
    event: &'static str,
    figure: &'static str,
) -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcpretrans",
        rows: &[],
        counts: |row| row["segs"].as_u64().unwrap_or(0),
        sums,
        event,
        figure,
    })?;
    filter(&scene.net.b, "prerouting", "meta l4proto tcp drop")?;
    let mut open = Vec::new();
    for host in HOSTS {
        let (_, at) = scene.server.listen(host)?;
        for client in &mut scene.clients {
            let fd = client.open(&at)?;
            client.run(&format!("nonblock {fd}"))?;
            client.fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
            open.push(fd);
        }
    }
    watch.wait(open.len() as u64)?;
    for (fd, client) in open.iter().zip([0, 1, 0, 1]) {
        scene.clients[client].run(&format!("close {fd}"))?;
    }
    pass(&scene.net.b)?;
    let again = scene.net.a.counters()?["Tcp.RetransSegs"];
    // Each was sent again as often as any other, or once more.
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    for row in watch.rows.seen()?.iter() {
        let name = row["comm"].as_str().unwrap_or("-").to_owned();
        *rows.entry(name).or_default() += row["segs"].as_u64().unwrap_or(0);
    }
    ensure!(
        rows.len() == 2 && rows.values().sum::<u64>() == again,
        "{again}: {rows:?}"
    );
    watch.check(&rows)
}

/// Every byte is sent by one end and received by the other; `tx_bytes` has what the other end has acknowledged.
fn bytes() -> Result<()> {
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "tcptop",
        rows: &["-b"],
        counts: |row| row["tx_bytes"].as_u64().unwrap_or(0),
        sums: &["-b"],
        event: "total",
        figure: "tx_bytes",
    })?;
    scene.sessions(both_close)?;
    watch.check(&truth(BYTES, 0))
}

fn overflows() -> Result<()> {
    crate::missing::needs_programs()?;
    let _turn = udp_turn();
    let mut scene = Scene::new()?;
    let watch = scene.watch(Summed {
        tool: "sockbuf",
        rows: &[],
        counts: one,
        sums: &["--summary"],
        event: "count",
        figure: "count",
    })?;
    let mut drops = 0;
    for (host, family) in [("127.0.0.1:0", libc::AF_INET), ("[::1]:0", libc::AF_INET6)] {
        let (fd, at) = sink(&mut scene.server, host, family)?;
        flood(&mut scene.server, family, &at, 900, 20)?;
        drops += meminfo(&mut scene.server, fd)?["drops"];
    }
    watch.wait(drops)?;
    watch.check(&truth(0, drops))
}
