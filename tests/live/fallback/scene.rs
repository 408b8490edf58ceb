// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client in namespace `a`, a server in `b`, at addresses that no other test has, and the two runs of a command.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::unknown::may_be_unknown;
use crate::{missing, net::Net, peer::Agent, tool::Tool};

/// Client's and server's descriptors of a session.
#[derive(Clone, Copy)]
pub struct Session {
    pub c: u64,
    pub s: u64,
}

pub struct Scene {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
    /// What is done without.
    pub without: &'static str,
    networks: [String; 2],
}

/// The command with type information, and without.
pub struct Both {
    pub with_btf: Tool,
    pub without_btf: Tool,
}

impl Scene {
    pub fn new(without: &'static str) -> Result<Self> {
        let net = Net::new()?;
        let networks = net.own_networks()?;
        for ns in [&net.a, &net.b] {
            // Built in everywhere.
            ns.sysctl("ipv4/tcp_congestion_control", "reno")?;
        }
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        Ok(Self {
            net,
            c,
            s,
            without,
            networks,
        })
    }

    /// Where servers listen, and how clients reach them: IPv4, IPv6, and IPv4 to a dual-stack listener.
    pub fn hosts(&self) -> [(String, String); 3] {
        let [v4, v6] = &self.networks;
        [
            (format!("{v4}2:0"), format!("{v4}2")),
            (format!("[{v6}2]:0"), format!("[{v6}2]")),
            ("[::]:0".into(), format!("{v4}2")),
        ]
    }

    /// The filter for this scene's addresses.
    pub fn addresses(&self) -> String {
        let [v4, v6] = &self.networks;
        format!("{v4}0/24,{v6}/64")
    }

    pub fn watch(&self, name: &str, args: &[&str]) -> Result<Both> {
        let addresses = self.addresses();
        let args = [&["--json", "--addr", &addresses], args].concat();
        Ok(Both {
            with_btf: Tool::start(name, &args)?,
            without_btf: Tool::start_reduced(self.without, name, &args)?,
        })
    }

    /// A listener, and the address to connect to.
    pub fn listen(&mut self, host: &(String, String)) -> Result<(u64, String)> {
        let (fd, at) = self.s.listen(&host.0)?;
        let port = at.rsplit_once(':').context("no port")?.1;
        Ok((fd, format!("{}:{port}", host.1)))
    }

    pub fn connect(&mut self, listener: u64, to: &str) -> Result<Session> {
        let c = self.c.open(to)?;
        self.c.run(&format!("connect {c} {to}"))?;
        let s = self.s.number(&format!("accept {listener}"))?;
        Ok(Session { c, s })
    }

    /// A session, and its listener's end.
    pub fn session(&mut self, host: &(String, String)) -> Result<Session> {
        let (listener, to) = self.listen(host)?;
        let session = self.connect(listener, &to)?;
        self.s.run(&format!("close {listener}"))?;
        Ok(session)
    }

    /// The client closes, then the server.
    pub fn close(&mut self, session: Session) -> Result<()> {
        self.c.run(&format!("close {}", session.c))?;
        self.s.run(&format!("eof {}", session.s))?;
        self.s.run(&format!("close {}", session.s)).map(drop)
    }

    /// Bytes to the server and back.
    pub fn exchange(&mut self, Session { c, s }: Session, bytes: u64) -> Result<()> {
        self.c.begin(&format!("send {c} {bytes}"))?;
        self.s.run(&format!("recv {s} {bytes}"))?;
        ensure!(self.c.finish()?.is_ok(), "send");
        self.s.begin(&format!("send {s} {bytes}"))?;
        self.c.run(&format!("recv {c} {bytes}"))?;
        ensure!(self.s.finish()?.is_ok(), "send");
        self.c.run(&format!("drained {c}"))?;
        self.s.run(&format!("drained {s}")).map(drop)
    }
}

impl Both {
    /// The rows of both, which agree; `by` names a socket, `same` are the fields that must be told by both or by none.
    pub fn agree(self, by: &[&str], same: &[&str]) -> Result<Vec<Value>> {
        let (with_btf, without_btf) = (self.with_btf.stop()?, self.without_btf.stop()?);
        ensure!(
            without_btf.has_only_records(),
            "it says so: {}",
            without_btf.stderr
        );
        ensure!(
            with_btf.has_only_records() != missing::programs(),
            "{}",
            with_btf.stderr
        );
        let (with_btf, without_btf) = (with_btf.rows()?, without_btf.rows()?);
        let (left, right) = (by_socket(&with_btf, by), by_socket(&without_btf, by));
        let sockets = |rows: &BTreeMap<String, Vec<&Value>>| -> BTreeSet<_> {
            rows.iter().map(|(k, r)| (k.clone(), r.len())).collect()
        };
        let (of_first, of_second) = (sockets(&left), sockets(&right));
        ensure!(
            of_first == of_second,
            "rows per socket: {:?}\nwithout BTF: {:?}",
            of_first.difference(&of_second).collect::<Vec<_>>(),
            of_second.difference(&of_first).collect::<Vec<_>>()
        );
        for (with_btf, without_btf) in left.values().flatten().zip(right.values().flatten()) {
            compare(with_btf, without_btf, same)?;
        }
        Ok(without_btf)
    }
}

/// Rows in their order, by what names a socket.
fn by_socket<'r>(rows: &'r [Value], by: &[&str]) -> BTreeMap<String, Vec<&'r Value>> {
    let mut sockets = BTreeMap::<_, Vec<_>>::new();
    for row in rows {
        let name: Vec<_> = by.iter().map(|key| row[*key].to_string()).collect();
        sockets.entry(name.join(" ")).or_default().push(row);
    }
    sockets
}

/// What is measured anew, or known in another way, by each run.
const OWN: [&str; 5] = [
    "ts",
    "boot_ns",
    "interval_us",
    "close_boot_ns",
    "pid_source",
];

/// What the owner's files in `/proc` say, if it is known and still runs.
const WHOSE: [&str; 6] = [
    "cgroup",
    "unit",
    "container",
    "container_name",
    "runtime",
    "pod",
];

fn compare(with_btf: &Value, without_btf: &Value, same: &[&str]) -> Result<()> {
    let (with_btf, without_btf) = (with_btf.as_object(), without_btf.as_object());
    let (with_btf, without_btf) = (
        with_btf.context("an object")?,
        without_btf.context("an object")?,
    );
    ensure!(
        with_btf.keys().eq(without_btf.keys()),
        "{with_btf:?}\n{without_btf:?}"
    );
    for (key, value) in without_btf
        .iter()
        .filter(|(key, _)| !OWN.contains(&key.as_str()))
    {
        let told = &with_btf[key];
        let may_be_blank = value.is_null()
            && !same.contains(&key.as_str())
            && may_be_unknown(without_btf["tool"].as_str().unwrap_or_default(), key);
        let good = match key.as_str() {
            // The same two events, timed twice.
            "latency_us" | "duration_us" if looked(without_btf) => told.is_u64() && value.is_u64(),
            // Some records have it, and the command's own programs may not ask for it before 5.12.
            "cookie" if told.is_null() && !value.is_null() => !missing::cookies(),
            // At least since the start, which each run has of its own.
            "age_us" if with_btf["partial"] == true => told.is_u64() && value.is_u64(),
            key if WHOSE.contains(&key) && value.is_null() => true,
            // The record of udp_fail_queue_rcv_skb has it since 6.10: then the test says that it is told.
            "socket_family" => {
                told == value || (value.is_null() && !same.contains(&"socket_family"))
            }
            // A measurement ends where the two runs have their own clocks.
            "measured" => value.is_null() || (told.is_boolean() && value.is_boolean()),
            "in_state_us" | "measure_us" | "latency_us" | "duration_us" | "age_us"
            | "closed_us" => near(told, value) || may_be_blank,
            _ => told == value || may_be_blank,
        };
        ensure!(
            good,
            "{key} is {told}, not {value}:\n{with_btf:?}\n{without_btf:?}"
        );
    }
    Ok(())
}

/// A time until each run's own look, or since its start: not between two events that both see.
fn looked(row: &serde_json::Map<String, Value>) -> bool {
    row["event"] == "pending" || row.get("partial") == Some(&Value::Bool(true))
}

/// Both programs run for one event, but one may be interrupted meanwhile.
fn near(left: &Value, right: &Value) -> bool {
    match (left.as_u64(), right.as_u64()) {
        (Some(left), Some(right)) => left.abs_diff(right) < 100_000,
        (left, right) => left == right,
    }
}
