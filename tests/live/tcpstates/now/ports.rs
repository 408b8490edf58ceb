// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: what is there now, and the ports that it takes.

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde_json::{Value, json};

use super::{HOSTS, proc_states, stages, stuck};
use crate::{net::Netns, scene::merged, tcpstates::fixture::Fixture, tool, tool::Tool};

fn look(inodes: &str, args: &[&str]) -> Result<Vec<Value>> {
    let all = ["--summary", "--json", "-d", "1ms", "--netns", inodes];
    tool::run("tcpstates", &[&all, args].concat())?.rows()
}

fn of<'a>(rows: &'a [Value], event: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["event"] == event).collect()
}

/// Local ports of a namespace's sockets to a remote port, as /proc/net/tcp has them.
fn taken(ns: &Netns, remote: &str) -> Result<usize> {
    let text = ns.feed(&["ss", "-HtanO", "dst", remote], "")?;
    Ok(text.lines().count())
}

/// Until connect() finds no port: of the range, without those that are reserved, for each destination anew.
pub fn exhausted() -> Result<()> {
    for host in HOSTS {
        let mut fixture = Fixture::new()?;
        fixture
            .net
            .a
            .sysctl("ipv4/ip_local_port_range", "40000 40019")?;
        fixture
            .net
            .a
            .sysctl("ipv4/ip_local_reserved_ports", "39990-40001,40010")?;
        fixture.net.a.sysctl("ipv4/tcp_tw_reuse", "0")?;
        let (listener, to) = fixture.listen(host)?;
        let (other, to_other) = fixture.listen(host)?;
        // In both, as the same addresses are in two namespaces.
        let inodes = fixture.net.inodes();
        for n in 0..17 {
            let session = fixture.connect(listener, &to)?;
            if n < 9 {
                fixture.close(session)?;
            }
        }
        let fd = fixture.c.open(&to)?;
        fixture
            .c
            .fails(&format!("connect {fd} {to}"), libc::EADDRNOTAVAIL)?;
        fixture.connect(other, &to_other)?;
        let rows = look(&inodes, &[])?;
        let ports = of(&rows, "ports");
        ensure!(ports.len() == 2, "{rows:#?}");
        ensure!(taken(&fixture.net.a, &to)? == 17, "the test itself");
        let (addr, port) = to.rsplit_once(':').context("a port")?;
        let addr = addr.trim_matches(['[', ']']);
        let laddr = if addr.contains(':') {
            "fd09::1"
        } else {
            "10.9.0.1"
        };
        let full = json!({
            "raddr": addr, "rport": port.parse::<u64>()?, "laddr": laddr, "netns": fixture.net.a.inode,
            "ports": 17, "ports_taken": 17, "time_wait": 9, "percent": 100,
        });
        let want = merged(ports[0], full);
        ensure!(
            number(ports[0]) == number(&want),
            "{:#}\nis not\n{want:#}",
            ports[0]
        );
        let one = json!({"ports_taken": 1, "time_wait": 0, "laddr": laddr});
        let want = merged(ports[1], one);
        ensure!(*ports[1] == want, "{:#}\nis not\n{want:#}", ports[1]);
        // Of fewer sockets nothing can be said about ports.
        for args in [
            &["--old", "established"][..],
            &["--min-ms", "1"],
            &["-p", "1"],
        ] {
            let rows = look(&inodes, args)?;
            ensure!(of(&rows, "ports").is_empty(), "{args:?}: {rows:#?}");
        }
        let run = tool::run("tcpstates", &["--summary", "-d", "1ms", "--netns", &inodes])?;
        let header = "RADDR           RPORT LADDR           NETNS      PORTS TAKEN TIME_WAIT     %";
        let at = run.lines.iter().position(|line| line == header);
        let at = at.with_context(|| format!("{run:?}"))?;
        ensure!(
            run.lines[at - 1].is_empty() && run.lines[at + 1].ends_with(" 100.0"),
            "{run:?}"
        );
        ensure!(
            run.lines.iter().all(|line| line.chars().count() <= 80),
            "{run:?}"
        );
        let run = tool::run(
            "tcpstates",
            &["--summary", "-s", "-d", "1ms", "--netns", &inodes],
        )?;
        ensure!(
            run.lines.iter().all(|line| !line.contains(",ports,")),
            "{run:?}"
        );
    }
    Ok(())
}

/// Numbers as JSON writes them are equal whether or not they have a point.
fn number(row: &Value) -> Vec<(String, String)> {
    let fields = row.as_object().into_iter().flatten();
    let text = |value: &Value| value.as_f64().map_or(value.to_string(), |n| n.to_string());
    fields
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

/// As many are in each state as /proc/net/tcp has, small sockets and those that nobody holds too, before and during a run.
pub fn summary() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let inodes = fixture.net.inodes();
    let tool = Tool::start("tcpstates", &["--summary", "--json", "--netns", &inodes])?;
    stages(&mut fixture)?;
    stuck(&mut fixture)?;
    let rows = tool.stop()?.rows()?;
    let late = look(&inodes, &[])?;
    let mut expected = proc_states(&fixture.net.a)?;
    for (state, count) in proc_states(&fixture.net.b)? {
        *expected.entry(state).or_default() += count;
    }
    for rows in [rows, late] {
        for (state, count) in &expected {
            let states = of(&rows, "state");
            let row = states.iter().find(|row| row["state"] == *state);
            let row = row.with_context(|| format!("{state}: {rows:#?}"))?;
            ensure!(row["now"] == *count, "{count}: {row:#}");
        }
    }
    Ok(())
}
