// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--peer`: rows that name the process at the other end, which the test has put there.

mod redirected;
mod translated;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    missing,
    net::{Net, Netns},
    peer::Agent,
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let mut all = vec![
        trial("peers::loopback_v4", || loopback("127.0.0.1:0")),
        trial("peers::loopback_v6", || loopback("[::1]:0")),
        trial("peers::namespaces_v4", || namespaces("10.9.0.2:0")),
        trial("peers::namespaces_v6", || namespaces("[fd09::2]:0")),
        trial("peers::same_addresses_twice", same_addresses_twice),
        trial("peers::open_at_start", open_at_start),
        trial("peers::not_accepted_at_start", not_accepted_at_start),
        trial("peers::reader_takes_over", reader_takes_over),
        trial("peers::connect_waits_for_the_other_end", connects),
        trial("peers::nobody_there", nobody_there),
        trial("peers::table", table),
        trial("peers::visited_by_tcpstates", || {
            visited("tcpstates", &["--active=200ms"])
        }),
        trial("peers::visited_by_tcptop", || {
            visited("tcptop", &["--all", "--interval", "200ms"])
        }),
        trial("peers::more_than_room_is_counted", more_than_room),
        trial("peers::refused_with_sums", refused),
        trial("peers::blank_without_programs", blank_without_programs),
    ];
    all.extend(redirected::tests());
    all.extend(translated::tests());
    all
}

/// A session's two ends, in processes of their own.
pub struct Session {
    pub c: Agent,
    pub s: Agent,
    /// Descriptors: the client's, and the server's.
    pub ends: [u64; 2],
}

impl Session {
    /// From one namespace to the other; `from`: where the client is bound to, `to`: where it connects to, unless that is
    /// where the server listens.
    pub fn new(
        [a, b]: [&Netns; 2],
        host: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Self> {
        let (mut c, mut s) = (a.agent()?, b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        let (listener, at) = s.listen(host)?;
        let fd = c.open(&at)?;
        if let Some(from) = from {
            c.run(&format!("bind {fd} {from}"))?;
        }
        c.run(&format!("connect {fd} {}", to.unwrap_or(&at)))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        s.run(&format!("close {listener}"))?;
        let ends = [fd, accepted];
        Ok(Self { c, s, ends })
    }

    /// The client closes first, then the server.
    pub fn close(&mut self) -> Result<()> {
        let [c, s] = self.ends;
        self.c.run(&format!("close {c}"))?;
        self.s.run(&format!("eof {s}"))?;
        self.s.run(&format!("close {s}")).map(drop)
    }
}

/// A command that watches these namespaces.
pub fn watch(name: &str, args: &[&str], spaces: &[&Netns]) -> Result<Tool> {
    missing::needs_programs()?;
    let inodes: Vec<_> = spaces.iter().map(|ns| ns.inode.to_string()).collect();
    let own = ["--json", "--peer", "--netns", &inodes.join(",")];
    Tool::start(name, &[&own[..], args].concat())
}

/// Waits for a row.
pub fn row(tool: &Tool, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, PATIENCE, || {
        Ok(tool.seen()?.iter().find(|row| is_it(row)).cloned())
    })
}

/// Each of these keys has that value.
pub fn has(row: &Value, want: &Value) -> Result<()> {
    for (key, value) in want.as_object().context("an object")? {
        ensure!(row[key] == *value, "{key} is not {value}: {row}");
    }
    Ok(())
}

/// The two rows of a session that has ended: the client's, and the server's. Each names the other end.
fn mutual(rows: &[Value], pids: [u32; 2], spaces: [&Netns; 2]) -> Result<()> {
    let of = |pid: u32| rows.iter().find(|row| row["pid"] == pid);
    let [Some(client), Some(server)] = pids.map(of) else {
        anyhow::bail!("a row of each end: {rows:#?}");
    };
    let page = include_str!("../../../docs/json.md");
    for key in client.as_object().context("an object")?.keys() {
        let named = page.contains(&format!("`{key}`"));
        ensure!(
            named || !key.starts_with("peer_"),
            "docs/json.md lacks {key}"
        );
    }
    let names = ["client", "server"];
    for (own, other) in [(0, 1), (1, 0)] {
        let (row, there) = ([client, server][own], [client, server][other]);
        let want = json!({
            "peer_source": "socket", "peer_pid": pids[other], "peer_comm": names[other], "peer_netns": spaces[other].inode,
            "peer_laddr": row["raddr"], "peer_lport": row["rport"],
            "peer_raddr": row["laddr"], "peer_rport": row["lport"],
        });
        has(row, &want)?;
        // Where a socket has a cookie only once somebody asked for it, it may not have been asked for yet.
        let cookie = &row["peer_cookie"];
        ensure!(
            *cookie == there["cookie"] || (cookie.is_null() && !missing::cookies()),
            "{row}, not {there}"
        );
    }
    Ok(())
}

fn ends(spaces: [&Netns; 2], host: &str) -> Result<()> {
    let tool = watch("tcplife", &[], &spaces)?;
    let mut session = Session::new(spaces, host, None, None)?;
    let pids = [session.c.pid(), session.s.pid()];
    session.close()?;
    tool.wait_lines(2)?;
    mutual(&tool.stop()?.rows()?, pids, spaces)
}

fn loopback(host: &str) -> Result<()> {
    let ns = Netns::new()?;
    ends([&ns, &ns], host)
}

fn namespaces(host: &str) -> Result<()> {
    let net = Net::new()?;
    ends([&net.a, &net.b], host)
}

/// Two pairs of namespaces with the same addresses and ports: each row names the end that it talks to.
fn same_addresses_twice() -> Result<()> {
    let nets = [Net::new()?, Net::new()?];
    let spaces: Vec<_> = nets.iter().flat_map(|net| [&net.a, &net.b]).collect();
    let tool = watch("tcplife", &[], &spaces)?;
    let open = |net: &Net| {
        let ends = [&net.a, &net.b];
        Session::new(ends, "10.9.0.2:8080", Some("10.9.0.1:40000"), None)
    };
    let mut sessions = [open(&nets[0])?, open(&nets[1])?];
    let pids = sessions.each_ref().map(|s| [s.c.pid(), s.s.pid()]);
    for session in &mut sessions {
        session.close()?;
    }
    tool.wait_lines(4)?;
    let rows = tool.stop()?.rows()?;
    for (pids, net) in pids.into_iter().zip(&nets) {
        mutual(&rows, pids, [&net.a, &net.b])?;
    }
    Ok(())
}

/// Data has gone both ways before the command starts, so the numbers have moved.
fn open_at_start() -> Result<()> {
    let net = Net::new()?;
    let spaces = [&net.a, &net.b];
    let mut session = Session::new(spaces, "10.9.0.2:0", None, None)?;
    let [c, s] = session.ends;
    session.c.run(&format!("send {c} 100000"))?;
    session.s.run(&format!("recv {s} 100000"))?;
    session.s.run(&format!("send {s} 5000"))?;
    session.c.run(&format!("recv {c} 5000"))?;
    session.s.run(&format!("drained {s}"))?;
    let tool = watch("tcplife", &[], &spaces)?;
    let pids = [session.c.pid(), session.s.pid()];
    session.close()?;
    tool.wait_lines(2)?;
    mutual(&tool.stop()?.rows()?, pids, spaces)
}

/// Nobody has its file when the command starts: its first reader shows whose it is.
fn not_accepted_at_start() -> Result<()> {
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let fd = c.open(&at)?;
    c.run(&format!("connect {fd} {at}"))?;
    let tool = watch("tcpreset", &[], &[&net.a, &net.b])?;
    let accepted = s.number(&format!("accept {listener}"))?;
    c.run(&format!("send {fd} 10"))?;
    s.run(&format!("recv {accepted} 10"))?;
    s.run(&format!("linger0 {accepted}"))?;
    s.run(&format!("close {accepted}"))?;
    let reset = row(&tool, "the reset", |row| row["direction"] == "received")?;
    has(&reset, &json!({"pid": c.pid(), "peer_pid": s.pid()}))
}

/// A child of the server serves the connection.
fn reader_takes_over() -> Result<()> {
    let net = Net::new()?;
    let tool = watch("tcpreset", &[], &[&net.a, &net.b])?;
    let mut session = Session::new([&net.a, &net.b], "10.9.0.2:0", None, None)?;
    let [c, s] = session.ends;
    let worker = session.s.fork(&[s])?;
    session.s.comm("worker")?;
    session.c.run(&format!("send {c} 10"))?;
    session.s.run(&format!("recv {s} 10"))?;
    session.s.run(&format!("linger0 {s}"))?;
    session.s.run(&format!("close {s}"))?;
    let reset = row(&tool, "the reset", |row| row["direction"] == "received")?;
    let want = json!({"pid": session.c.pid(), "peer_pid": worker, "peer_comm": "worker"});
    has(&reset, &want)
}

/// The server's end exists only after the client's is established. A filter that hides one end hides it not from the
/// other's rows.
fn connects() -> Result<()> {
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    s.comm("server")?;
    let (_, at) = s.listen("10.9.0.2:0")?;
    let pid = c.pid().to_string();
    let tool = watch("tcpconnect", &["-p", &pid], &[&net.a])?;
    for _ in 0..20 {
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
    }
    tool.wait_lines(20)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 20, "{} rows", rows.len());
    let want = json!({"peer_pid": s.pid(), "peer_comm": "server", "peer_netns": net.b.inode});
    rows.iter().try_for_each(|row| has(row, &want))
}

/// A refused open has no other end, whatever was between these addresses before.
fn nobody_there() -> Result<()> {
    let net = Net::new()?;
    let spaces = [&net.a, &net.b];
    let tool = watch("tcpconnect", &[], &spaces)?;
    let mut session = Session::new(spaces, "10.9.0.2:8080", Some("10.9.0.1:40000"), None)?;
    let [c, s] = session.ends;
    session.c.run(&format!("linger0 {c}"))?;
    session.c.run(&format!("close {c}"))?;
    session.s.run(&format!("close {s}"))?;
    let fd = session.c.open("10.9.0.2:0")?;
    session.c.run(&format!("bind {fd} 10.9.0.1:40000"))?;
    session.c.fails(
        &format!("connect {fd} 10.9.0.2:8080"),
        nix::libc::ECONNREFUSED,
    )?;
    tool.wait_lines(2)?;
    let rows = tool.stop()?.rows()?;
    has(
        &rows[0],
        &json!({"outcome": "established", "peer_pid": session.s.pid()}),
    )?;
    let nobody =
        json!({"outcome": "refused", "peer_pid": null, "peer_netns": null, "peer_laddr": null});
    has(&rows[1], &nobody)
}

/// Tables have the column, and a name cannot draw.
fn table() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let inodes = net.inodes();
    let start = |args: &[&str]| {
        Tool::start(
            "tcpreset",
            &[&["--peer", "--netns", &inodes], args].concat(),
        )
    };
    let tools = [start(&[])?, start(&["--wide"])?];
    let mut session = Session::new([&net.a, &net.b], "10.9.0.2:0", None, None)?;
    let [c, s] = session.ends;
    session.s.comm("a\u{1b}[2J,b")?;
    session.c.run(&format!("send {c} 10"))?;
    session.s.run(&format!("recv {s} 10"))?;
    session.s.run(&format!("linger0 {s}"))?;
    session.s.run(&format!("close {s}"))?;
    for tool in tools {
        tool.wait_lines(3)?;
        let run = tool.stop()?;
        ensure!(run.lines[0].contains("PEER"), "{:?}", run.lines);
        let received = run.lines.iter().find(|line| line.contains("<-"));
        let process = format!(" {}/a\\x1b[2J", session.s.pid());
        let shown = received.is_some_and(|line| line.contains(&process));
        ensure!(shown, "{:?}", run.lines);
    }
    Ok(())
}

/// Sockets that are shown without an event: a connection that nobody closes, by who forgot it at either end.
fn visited(name: &str, args: &[&str]) -> Result<()> {
    let net = Net::new()?;
    let mut session = Session::new([&net.a, &net.b], "10.9.0.2:0", None, None)?;
    let tool = watch(name, args, &[&net.a, &net.b])?;
    let [c, s] = session.ends;
    session.c.run(&format!("shutdown {c} wr"))?;
    session.s.run(&format!("eof {s}"))?;
    for (own, other) in [
        (session.c.pid(), session.s.pid()),
        (session.s.pid(), session.c.pid()),
    ] {
        let open = |row: &Value| row["pid"] == own && row["peer_pid"] == other;
        row(&tool, "a row of each end", open)?;
    }
    Ok(())
}

/// What has no room among the ends that are open is counted, and known all the same as long as little else comes.
fn more_than_room() -> Result<()> {
    // Where the state of sockets has no more room either, there are no rows.
    missing::needs_storage()?;
    let net = Net::new()?;
    let tool = watch("tcplife", &["--sockets", "1"], &[&net.a, &net.b])?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let mut all = Vec::new();
    for _ in 0..40 {
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        all.push((fd, s.number(&format!("accept {listener}"))?));
    }
    for (client, server) in all {
        c.run(&format!("close {client}"))?;
        s.run(&format!("eof {server}"))?;
        s.run(&format!("close {server}"))?;
    }
    tool.wait_lines(80)?;
    let run = tool.stop()?;
    let rows = run.rows()?;
    let named = |row: &Value| row["peer_pid"] == c.pid() || row["peer_pid"] == s.pid();
    ensure!(rows.len() == 80 && rows.iter().all(named), "{rows:#?}");
    let records = run.records()?;
    let summary = records.last().context("a summary")?;
    ensure!(summary["peers_missed"].as_u64() > Some(0), "{summary}");
    ensure!(run.stderr.contains("were not noted"), "{}", run.stderr);
    Ok(())
}

fn refused() -> Result<()> {
    for (name, args) in [
        ("tcpreset", &["--peer", "--summary"][..]),
        ("tcpconnect", &["--peer", "-c"]),
        ("tcptop", &["--peer", "--by", "pid"]),
        ("tcpaccept", &["--peer", "--listeners"]),
    ] {
        let run = tool::run(name, &[args, &["--duration", "2"]].concat())?;
        ensure!(
            run.status.code() == Some(2) && run.stderr.contains("--peer") && run.lines.is_empty(),
            "{name} {args:?}: {run:?}"
        );
    }
    Ok(())
}

/// One sentence says so.
fn blank_without_programs() -> Result<()> {
    let net = Net::new()?;
    let tool = Tool::start_reduced("btf", "tcpreset", &["--json", "--peer"])?;
    let mut session = Session::new([&net.a, &net.b], "10.9.0.2:0", None, None)?;
    let [_, s] = session.ends;
    session.s.run(&format!("linger0 {s}"))?;
    session.s.run(&format!("close {s}"))?;
    let received = |row: &Value| row["direction"] == "received" && row["pid"] == session.c.pid();
    let reset = row(&tool, "the reset", received)?;
    ensure!(reset.get("peer_pid") == Some(&Value::Null), "{reset}");
    let run = tool.stop()?;
    ensure!(run.stderr.contains("--peer"), "{}", run.stderr);
    Ok(())
}
