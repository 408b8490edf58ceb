// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hundreds of sessions of mixed kinds at the same time, counted against the kernel's own counters.

use std::thread;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::scene::{End, HOSTS, end, merged};
use crate::{
    net::{Net, Netns},
    peer::Agent,
    tool::Tool,
    trial,
};

const WORKERS: u64 = 4;
const ROUNDS: u64 = 24;

/// The kinds of session in a round.
const KINDS: u64 = 6;

pub fn tests() -> Vec<Trial> {
    vec![trial("tcplife::many::mixed", mixed)]
}

fn mixed() -> Result<()> {
    let net = Net::new()?;
    let tool = Tool::start("tcplife", &["--json", "--netns", &net.inodes()])?;
    let wants: Vec<Value> = thread::scope(|scope| {
        let net = &net;
        let workers: Vec<_> = (0..WORKERS)
            .map(|seed| scope.spawn(move || work(net, seed)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .collect::<Result<Vec<_>>>()
    })?
    .concat();
    net.quiet()?;
    let rows = tool.stop()?.rows()?;
    for ns in [&net.a, &net.b] {
        count(&rows, ns)?;
    }
    let anonymous = rows.iter().filter(|row| row["pid"].is_null()).count();
    println!("many: {} rows, pid unknown in {anonymous}", rows.len());
    ensure!(
        anonymous * 100 <= rows.len(),
        "pid unknown in {anonymous} of {} rows",
        rows.len()
    );
    // A pid that is unknown is not wrong: take it as wanted.
    let wants: Vec<Value> = wants
        .into_iter()
        .map(|want| forgive_unknown(&rows, want))
        .collect();
    crate::scene::compare(&rows, &wants)
}

/// Every session of a namespace has a row, by the kernel's own count.
fn count(rows: &[Value], ns: &Netns) -> Result<()> {
    let counters = ns.counters()?;
    let opens = counters["Tcp.ActiveOpens"] + counters["Tcp.PassiveOpens"];
    let rows = rows.iter().filter(|row| row["netns"] == ns.inode).count() as u64;
    ensure!(
        rows == opens && opens >= WORKERS * ROUNDS * 2 * (KINDS - 1),
        "{rows} rows of {opens} opens"
    );
    Ok(())
}

fn forgive_unknown(rows: &[Value], want: Value) -> Value {
    let unknown = rows
        .iter()
        .any(|row| row["cookie"] == want["cookie"] && row["pid"].is_null());
    if unknown {
        merged(&want, json!({"pid": null, "comm": null}))
    } else {
        want
    }
}

/// A client and a server of their own, which go through all the kinds again and again.
fn work(net: &Net, seed: u64) -> Result<Vec<Value>> {
    let mut worker = Worker {
        net,
        c: net.a.agent()?,
        s: net.b.agent()?,
        wants: Vec::new(),
    };
    worker.c.comm(&format!("client{seed}"))?;
    worker.s.comm(&format!("server{seed}"))?;
    for host in HOSTS {
        let (listener, at) = worker.s.listen(host)?;
        for round in 0..ROUNDS {
            for kind in 0..KINDS {
                worker
                    .session(&at, listener, kind, seed * 1000 + round * 10)
                    .with_context(|| {
                        format!("worker {seed}, {host}, round {round}, kind {kind}")
                    })?;
            }
        }
    }
    Ok(worker.wants)
}

struct Worker<'a> {
    net: &'a Net,
    c: Agent,
    s: Agent,
    wants: Vec<Value>,
}

impl Worker<'_> {
    fn session(&mut self, at: &str, listener: u64, kind: u64, bytes: u64) -> Result<()> {
        if kind == 5 {
            return self.refused(at);
        }
        let fd = self.c.open(at)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.s.number(&format!("accept {listener}"))?;
        let c = end(&mut self.c, &self.net.a, fd)?;
        let s = end(&mut self.s, &self.net.b, accepted)?;
        let (request, answer) = (bytes + 1, bytes * 3);
        self.c.run(&format!("send {fd} {request}"))?;
        self.s.run(&format!("recv {accepted} {request}"))?;
        self.s.run(&format!("send {accepted} {answer}"))?;
        self.c.run(&format!("recv {fd} {answer}"))?;
        self.c.run(&format!("drained {fd}"))?;
        self.s.run(&format!("drained {accepted}"))?;
        let (c_reason, s_reason) = self.finish(&c, &s, kind)?;
        self.want(
            c,
            json!({"close_reason": c_reason, "tx_bytes": request, "rx_bytes": answer}),
        );
        self.want(
            s,
            json!({"close_reason": s_reason, "tx_bytes": answer, "rx_bytes": request}),
        );
        Ok(())
    }

    fn finish(&mut self, c: &End, s: &End, kind: u64) -> Result<(&'static str, &'static str)> {
        let (c_fd, s_fd) = (c.fd, s.fd);
        match kind {
            0 => {
                self.c.run(&format!("close {c_fd}"))?;
                self.s.run(&format!("eof {s_fd}"))?;
                self.s.run(&format!("close {s_fd}"))?;
                Ok(("fin_local", "fin_remote"))
            }
            1 => {
                self.s.in_thread("closer", &format!("close {s_fd}"))?;
                self.c.run(&format!("eof {c_fd}"))?;
                self.c.in_thread("closer", &format!("close {c_fd}"))?;
                Ok(("fin_remote", "fin_local"))
            }
            2 => {
                self.c.run(&format!("linger0 {c_fd}"))?;
                self.c.run(&format!("close {c_fd}"))?;
                self.s.fails(&format!("recv {s_fd} 1"), libc::ECONNRESET)?;
                self.s.run(&format!("close {s_fd}"))?;
                Ok(("rst_sent", "rst_received"))
            }
            3 => {
                self.s.run(&format!("linger0 {s_fd}"))?;
                self.s.run(&format!("close {s_fd}"))?;
                self.c.fails(&format!("recv {c_fd} 1"), libc::ECONNRESET)?;
                self.c.run(&format!("close {c_fd}"))?;
                Ok(("rst_received", "rst_sent"))
            }
            _ => {
                self.s.run(&format!("shutdown {s_fd} wr"))?;
                self.c.run(&format!("eof {c_fd}"))?;
                self.c.run(&format!("close {c_fd}"))?;
                self.s.run(&format!("eof {s_fd}"))?;
                self.s.run(&format!("close {s_fd}"))?;
                Ok(("fin_remote", "fin_local"))
            }
        }
    }

    /// Nobody listens on port 1.
    fn refused(&mut self, at: &str) -> Result<()> {
        let (host, _) = at.rsplit_once(':').context("a port")?;
        let fd = self.c.open(at)?;
        let cookie = self.c.number(&format!("cookie {fd}"))?;
        self.c
            .fails(&format!("connect {fd} {host}:1"), libc::ECONNREFUSED)?;
        self.c.run(&format!("close {fd}"))?;
        self.wants.push(json!({
            "event": "session", "netns": self.net.a.inode, "cookie": cookie, "rport": 1, "pid": self.c.pid(),
            "close_reason": "refused", "tx_bytes": 0, "rx_bytes": 0,
        }));
        Ok(())
    }

    fn want(&mut self, end: End, fields: Value) {
        self.wants.push(merged(&end.row, fields));
    }
}
