// SPDX-License-Identifier: MIT OR Apache-2.0
//! On a kernel without type information inet_diag is asked: the same bytes and reasons, of what is there at each look.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{
    is, rows_of,
    stalled::{fill, words},
    sum,
};
use crate::{
    net::Net,
    peer::Agent,
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let hosts = [("v4", "10.9.0.2:0"), ("v6", "[fd09::2]:0")];
    let mut all: Vec<_> = hosts
        .map(|(name, host)| {
            trial(format!("tcptop::without_btf::moves_{name}"), move || {
                moves(host)
            })
        })
        .into();
    all.push(trial("tcptop::without_btf::refused", refused));
    all
}

struct Scene {
    net: Net,
    c: Agent,
    s: Agent,
}

impl Scene {
    /// A session that is there before the command is: both descriptors and cookies.
    fn session(&mut self, at: &str, listener: u64) -> Result<([u64; 2], [String; 2])> {
        let fd = self.c.open(at)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.s.number(&format!("accept {listener}"))?;
        let cookies = [
            self.c.run(&format!("cookie {fd}"))?,
            self.s.run(&format!("cookie {accepted}"))?,
        ];
        Ok(([fd, accepted], cookies))
    }

    fn transfer(&mut self, [fd, accepted]: [u64; 2], tx: u64, rx: u64) -> Result<()> {
        self.c.begin(&format!("send {fd} {tx}"))?;
        self.s.run(&format!("recv {accepted} {tx}"))?;
        self.c.finish()?.ok();
        self.s.run(&format!("send {accepted} {rx}"))?;
        self.c.run(&format!("recv {fd} {rx}"))?;
        self.c.run(&format!("drained {fd}"))?;
        self.s.run(&format!("drained {accepted}")).map(drop)
    }
}

fn row(tool: &Tool, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, PATIENCE, || {
        Ok(tool.seen()?.iter().find(|row| is_it(row)).cloned())
    })
}

/// Bytes of a connection from before and of a later one, who has them, and why they stop.
fn moves(host: &str) -> Result<()> {
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    c.comm("client")?;
    s.comm("server")?;
    let mut scene = Scene { net, c, s };
    let (listener, at) = scene.s.listen(host)?;
    let (old, old_cookies) = scene.session(&at, listener)?;
    scene.transfer(old, 5000, 300)?;
    let inodes = scene.net.inodes();
    let args = ["--json", "--all", "-i", "50ms", "--netns", &inodes];
    let tool = Tool::start_reduced("btf", "tcptop", &args)?;
    let (new, new_cookies) = scene.session(&at, listener)?;
    scene.transfer(old, 70_000, 11)?;
    scene.transfer(new, 123_456, 4321)?;
    for (cookies, (tx, rx)) in [
        (&old_cookies, (70_000, 11)),
        (&new_cookies, (123_456, 4321)),
    ] {
        let pids = [scene.c.pid(), scene.s.pid()];
        for (n, cookie) in cookies.iter().enumerate() {
            let moved = if n == 0 { (tx, rx) } else { (rx, tx) };
            wait::until("all bytes", PATIENCE, || {
                let seen = tool.seen()?;
                let of = || rows_of(&seen, cookie);
                let found = (sum(of(), "tx_bytes")?, sum(of(), "rx_bytes")?);
                ensure!(found <= moved, "{found:?}, not {moved:?}");
                Ok((found == moved).then_some(()))
            })?;
            // Owners are looked for every half second.
            let own = row(&tool, "the owner", |row| {
                is(row, cookie) && row["pid"] == pids[n]
            })?;
            ensure!(own["active_open"] == (n == 0), "{own}");
            ensure!(
                own["rcvbuf_bytes"].is_null() && own["partial"] == true,
                "{own}"
            );
        }
    }
    let info = scene.c.info(new[0])?;
    let mine = |row: &Value| {
        let bytes = ["bytes_acked", "bytes_received"];
        is(row, &new_cookies[0]) && bytes.iter().all(|key| row[*key] == info[*key])
    };
    let told = row(&tool, "TCP_INFO", mine)?;
    for (key, name) in [
        ("snd_cwnd", "snd_cwnd"),
        ("snd_wnd_bytes", "snd_wnd"),
        ("srtt_us", "srtt_us"),
        ("min_rtt_us", "min_rtt_us"),
        ("bytes_sent", "bytes_sent"),
        ("total_retrans", "total_retrans"),
    ] {
        ensure!(told[key] == info[name], "{name}: {info:?}: {told}");
    }
    stops(&mut scene, &tool, new, &new_cookies)?;
    let run = tool.stop()?;
    ensure!(run.stderr.contains("between two looks"), "{}", run.stderr);
    run.rows().map(drop)
}

/// The server does not read; it is asked to go on, then to close, and does not.
fn stops(
    scene: &mut Scene,
    tool: &Tool,
    [fd, accepted]: [u64; 2],
    cookies: &[String; 2],
) -> Result<()> {
    let [client, server] = cookies;
    let told = |cookie: &str, reason: &str| {
        row(tool, reason, |row| {
            is(row, cookie) && words(row).contains(&reason)
        })
    };
    fill(&mut scene.c, fd)?;
    let stuck = told(client, "zero_window")?;
    ensure!(
        stuck["timer"] == "persist" || stuck["packets_out"] == 0,
        "{stuck}"
    );
    told(server, "unread")?;
    scene.c.run(&format!("shutdown {fd} wr"))?;
    scene.s.begin(&format!("eof {accepted}"))?;
    scene.s.finish()?.ok();
    let left = told(server, "close_wait")?;
    ensure!(left["state"] == "CLOSE_WAIT", "{left}");
    scene.c.run(&format!("close {fd}"))?;
    Ok(())
}

/// What inet_diag does not tell is refused in a sentence; a table fits, and says what it lacks.
fn refused() -> Result<()> {
    let refused = tool::run_without("btf", "tcptop", &["--unit", "x.service", "-d", "1"])?;
    ensure!(
        refused.status.code() == Some(2) && refused.stderr.starts_with("tcptop: --unit: "),
        "{refused:?}"
    );
    let run = tool::run_without("btf", "tcptop", &["-b", "--stalled", "-d", "200ms"])?;
    ensure!(run.status.success(), "{run:?}");
    let wide = run.lines.iter().find(|line| line.chars().count() > 80);
    ensure!(wide.is_none(), "{wide:?}");
    Ok(())
}
