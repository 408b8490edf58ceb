// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client in namespace `a`, a server in `b`, at addresses that no other test has, and the two runs of a command.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
    pub full: Tool,
    pub bare: Tool,
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
            full: Tool::start(name, &args)?,
            bare: Tool::start_reduced(self.without, name, &args)?,
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
        let (full, bare) = (self.full.stop()?, self.bare.stop()?);
        ensure!(bare.has_only_records(), "it says so: {}", bare.stderr);
        ensure!(
            full.has_only_records() != missing::programs(),
            "{}",
            full.stderr
        );
        let (full, bare) = (full.rows()?, bare.rows()?);
        let (left, right) = (by_socket(&full, by), by_socket(&bare, by));
        let sockets = |rows: &BTreeMap<String, Vec<&Value>>| -> BTreeSet<_> {
            rows.iter().map(|(k, r)| (k.clone(), r.len())).collect()
        };
        let (of_full, of_bare) = (sockets(&left), sockets(&right));
        ensure!(
            of_full == of_bare,
            "rows per socket: {:?}\nwithout BTF: {:?}",
            of_full.difference(&of_bare).collect::<Vec<_>>(),
            of_bare.difference(&of_full).collect::<Vec<_>>()
        );
        for (full, bare) in left.values().flatten().zip(right.values().flatten()) {
            compare(full, bare, same)?;
        }
        Ok(bare)
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
const OWN: [&str; 4] = ["ts", "boot_ns", "close_boot_ns", "pid_source"];

fn compare(full: &Value, bare: &Value, same: &[&str]) -> Result<()> {
    let (full, bare) = (full.as_object(), bare.as_object());
    let (full, bare) = (full.context("an object")?, bare.context("an object")?);
    ensure!(full.keys().eq(bare.keys()), "{full:?}\n{bare:?}");
    for (key, value) in bare.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        let told = &full[key];
        let good = match key.as_str() {
            // The same two events, timed twice.
            "latency_us" | "duration_us" if looked(bare) => told.is_u64() && value.is_u64(),
            // Some records have it, and the command's own programs may not ask for it before 5.12.
            "cookie" if told.is_null() && !value.is_null() => !missing::cookies(),
            // At least since the start, which each run has of its own.
            "age_us" if full["partial"] == true => told.is_u64() && value.is_u64(),
            // A measurement ends where the two runs have their own clocks.
            "measured" => value.is_null() || (told.is_boolean() && value.is_boolean()),
            "in_state_us" | "measure_us" | "latency_us" | "duration_us" | "age_us"
            | "closed_us" => {
                near(told, value) || (value.is_null() && !same.contains(&key.as_str()))
            }
            _ => told == value || (value.is_null() && !same.contains(&key.as_str())),
        };
        ensure!(good, "{key} is {told}, not {value}:\n{full:?}\n{bare:?}");
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
