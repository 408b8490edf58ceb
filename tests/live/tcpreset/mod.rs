// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpreset against resets that the test provokes, and the kernel's OutRsts.

mod data;
mod hints;
mod sums;

use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::{
    pair::{Pair, Side, filter, pass, trials},
    tcpretrans::busy,
    trace::record_has,
};

/// `setsockopt` numbers that libc has no name for.
const TCP_REPAIR: i32 = 19;

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpreset", &[], name, play);
    [
        all("closed_port", closed_port),
        all("linger_0", linger_0),
        all("unread_data", data::unread_data),
        all("data_after_shutdown", data::data_after_shutdown),
        all("data_after_close", data::data_after_close),
        all("real_reset_after_shutdown", data::real_reset_after_shutdown),
        all("not_accepted", not_accepted),
        all("killed_by_ss", killed_by_ss),
        all("injected_by_firewall", injected_by_firewall),
        all("listener_handed_over", listener_handed_over),
        all("lost_client", lost_client),
        trials("tcpreset", &["--summary"], "sums", sums::sums),
        trials("tcpreset", &["--stack"], "stacks", sums::stacks),
        hints::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a row has to say: `end` 0 is the client's, 1 the server's.
struct Want(usize, Value);

fn sent(end: usize, state: &str, reason: &str) -> Want {
    Want(
        end,
        json!({"direction": "sent", "state": state, "reason": self::reason(reason), "after_shutdown": false}),
    )
}

fn received(end: usize, state: &str) -> Want {
    Want(
        end,
        json!({"direction": "received", "state": state, "reason": null, "trigger_flags": null}),
    )
}

impl Want {
    fn and(mut self, fields: Value) -> Self {
        if let (Some(row), Value::Object(more)) = (self.1.as_object_mut(), fields) {
            row.extend(more);
        }
        self
    }

    /// No socket, or none that has an owner any more.
    fn without_socket(self, flags: &str) -> Self {
        self.and(
            json!({"pid": null, "comm": null, "uid": null, "pid_source": null, "age_us": null,
            "trigger_flags": flags}),
        )
    }
}

/// Whether the kernel says why it sends a reset (since 6.10). Before, it also reports none of those that no full socket
/// sends: where nobody listens, and after TIME_WAIT (net/ipv4/tcp_ipv4.c: tcp_v4_send_reset).
pub fn reasons() -> bool {
    static REASONS: LazyLock<bool> =
        LazyLock::new(|| record_has("tcp/tcp_send_reset", "reason").expect("tracefs is there"));
    *REASONS
}

/// A reason in a row that is expected.
fn reason(name: &str) -> Value {
    if reasons() { json!(name) } else { Value::Null }
}

/// Exactly these rows (in any order: two sides can be two CPUs), and as many as the kernel sent.
fn finish(pair: Pair, ports: (u64, u64), wants: &[Want]) -> Result<Vec<Value>> {
    let (wants, untold): (Vec<_>, Vec<_>) = wants
        .iter()
        .partition(|Want(_, want)| reasons() || want.get("pid") != Some(&Value::Null));
    pair.tool.wait_lines(wants.len())?;
    let (rows, sides) = pair.finish()?;
    let untold = [0, 1].map(|end| untold.iter().filter(|want| want.0 == end).count() as u64);
    outrsts(&rows, &sides, untold)?;
    let mut left = rows.clone();
    for Want(end, want) in wants {
        let (lport, rport) = if *end == 0 { ports } else { (ports.1, ports.0) };
        let pid = want
            .get("pid")
            .cloned()
            .unwrap_or_else(|| json!(sides[*end].pid));
        let fits = |row: &Value| {
            let fields = want.as_object().into_iter().flatten();
            let right = fields.into_iter().all(|(key, value)| row[key] == *value);
            right
                && sides[*end].is(row)
                && row["lport"] == lport
                && row["rport"] == rport
                && row["pid"] == pid
        };
        let index = left.iter().position(fits);
        left.remove(
            index.with_context(|| format!("no row is {want}, {lport} {rport} {pid}: {rows:#?}"))?,
        );
    }
    ensure!(left.is_empty(), "rows too many: {left:#?}");
    Ok(rows)
}

/// As many rows as the kernel sent, but for those that it does not report.
fn outrsts(rows: &[Value], sides: &[Side; 2], untold: [u64; 2]) -> Result<()> {
    // Two CPUs may take the time in another order than they take their places in the buffer.
    let boot = |row: &Value| row["boot_ns"].as_u64().unwrap_or_default() / 1_000_000;
    ensure!(
        rows.is_sorted_by_key(boot),
        "not in the order of their time: {rows:#?}"
    );
    for (side, untold) in sides.iter().zip(untold) {
        let sent = rows
            .iter()
            .filter(|row| side.is(row) && row["direction"] == "sent");
        let (sent, kernel) = (sent.count() as u64, side.counter("Tcp.OutRsts")?);
        ensure!(
            sent + untold == kernel,
            "OutRsts is {kernel}, the rows have {sent}, {untold} are not reported: {rows:#?}"
        );
    }
    Ok(())
}

/// A session after 1000 bytes from the client and 30000 back.
fn talk(pair: &mut Pair, host: &str) -> Result<(u64, u64, (u64, u64))> {
    let (c, s) = pair.session(host)?;
    for (from, to, bytes) in [(0, 1, 1000), (1, 0, 30_000)] {
        let ends = [c, s];
        let (sender, receiver) = if from == 0 {
            (&mut pair.c, &mut pair.s)
        } else {
            (&mut pair.s, &mut pair.c)
        };
        sender.run(&format!("send {} {bytes}", ends[from]))?;
        receiver.run(&format!("recv {} {bytes}", ends[to]))?;
        sender.run(&format!("drained {}", ends[from]))?;
    }
    let ports = pair.ports(c)?;
    Ok((c, s, ports))
}

const CLIENT: [u64; 2] = [1000, 30_000];

fn bytes(tx: u64, rx: u64) -> Value {
    json!({"tx_bytes": tx, "rx_bytes": rx, "partial": false})
}

fn closed_port(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    pair.s.run(&format!("close {listener}"))?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!(
        "bind {fd} {}",
        host.replace("0.2", "0.1").replace("::2", "::1")
    ))?;
    let local = pair.c.run(&format!("local {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)?;
    let port = |at: &str| -> Result<u64> { Ok(at.rsplit_once(':').context("a port")?.1.parse()?) };
    let nobody = Want(
        1,
        json!({"direction": "sent", "state": null, "reason": reason("NO_SOCKET"), "cookie": null,
        "after_shutdown": false, "raddr": local.rsplit_once(':').map(|(ip, _)| ip.trim_matches(['[', ']']))}),
    );
    let wants = [
        nobody.without_socket("SYN"),
        received(0, "SYN_SENT").and(json!({"age_us": null, "pid_source": "socket"})),
    ];
    finish(pair, (port(&local)?, port(&at)?), &wants).map(drop)
}

fn linger_0(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    pair.c.run(&format!("linger0 {c}"))?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    let [tx, rx] = CLIENT;
    let wants = [
        sent(0, "ESTABLISHED", "TCP_STATE")
            .and(bytes(tx, rx))
            .and(json!({"trigger_flags": null})),
        received(1, "ESTABLISHED").and(bytes(rx, tx)),
    ];
    let rows = finish(pair, ports, &wants)?;
    // The kernel reports such a reset after it has left; the close before it tells how long.
    let mine = rows
        .iter()
        .find(|row| row["direction"] == "sent")
        .context("sent")?;
    let other = rows
        .iter()
        .find(|row| row["direction"] == "received")
        .context("received")?;
    let ns = |row: &Value, key: &str| row[key].as_u64().unwrap_or_default();
    let close = ns(mine, "close_boot_ns");
    ensure!(
        close > 0 && close < ns(mine, "boot_ns") && close < ns(other, "boot_ns"),
        "{rows:#?}"
    );
    Ok(())
}

/// Connections that wait when their listener is closed: their owner is the listener's.
fn not_accepted(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("connect {fd} {at}"))?;
    let ports = pair.ports(fd)?;
    pair.c.run(&format!("send {fd} 10"))?;
    pair.c.run(&format!("drained {fd}"))?;
    pair.s.run(&format!("close {listener}"))?;
    pair.c.fails(&format!("recv {fd} 1"), libc::ECONNRESET)?;
    let wants = [
        sent(1, "ESTABLISHED", "TCP_STATE")
            .and(json!({"pid_source": "listener"}))
            .and(bytes(0, 10)),
        received(0, "ESTABLISHED").and(bytes(10, 0)),
    ];
    finish(pair, ports, &wants).map(drop)
}

/// `ss` is not the owner.
fn killed_by_ss(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    pair.net
        .a
        .feed(&["ss", "-K", "-t", &format!("sport = :{}", ports.0)], "")?;
    pair.c.fails(&format!("recv {c} 1"), libc::ECONNABORTED)?;
    pair.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    let wants = [
        sent(0, "ESTABLISHED", "TCP_STATE").and(json!({"comm": "client"})),
        received(1, "ESTABLISHED"),
    ];
    finish(pair, ports, &wants).map(drop)
}

/// A firewall answers in the server's name: received by the client, sent by no socket of the server's.
fn injected_by_firewall(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _, ports) = talk(&mut pair, host)?;
    filter(
        &pair.net.b,
        "input",
        "meta l4proto tcp reject with tcp reset",
    )?;
    pair.c.run(&format!("send {c} 10"))?;
    pair.c.fails(&format!("recv {c} 1"), libc::ECONNRESET)?;
    pass(&pair.net.b)?;
    finish(pair, ports, &[received(0, "ESTABLISHED")]).map(drop)
}

/// A segment without a connection, for a listener whose lock another process holds all the time.
fn listener_handed_over(mut pair: Pair, host: &str) -> Result<()> {
    const TIMES: usize = 30;
    let (listener, at) = pair.s.listen(host)?;
    let mut ports = Vec::new();
    let (client, net) = (&mut pair.c, &pair.net);
    busy(&mut pair.s, listener, |_| {
        for _ in 0..TIMES {
            let fd = client.open(&at)?;
            client.option(fd, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
            client.run(&format!("connect {fd} {at}"))?;
            client.option(fd, libc::IPPROTO_TCP, TCP_REPAIR, 0)?;
            let local = client.run(&format!("local {fd}"))?;
            ports.push(local.rsplit_once(':').context("a port")?.1.parse::<u64>()?);
            client.attempt(&format!("send {fd} 10"))?.ok();
            net.a.quiet()?;
        }
        Ok(())
    })?;
    let (rows, sides) = pair.finish()?;
    outrsts(&rows, &sides, [0, 0])?;
    let answers: Vec<_> = rows.iter().filter(|row| sides[1].is(row)).collect();
    ensure!(answers.len() == TIMES, "{} answers", answers.len());
    for (row, port) in answers.into_iter().zip(&ports) {
        ensure!(
            row["state"] == "LISTEN" && row["reason"] == reason("TCP_FLAGS"),
            "{row}"
        );
        ensure!(
            row["rport"] == *port && row["raddr"] != "0.0.0.0" && row["raddr"] != "::",
            "{row}"
        );
        ensure!(
            row["pid"] == sides[1].pid && row["pid_source"] == "listener",
            "{row}"
        );
    }
    Ok(())
}

/// The client's socket is gone without a trace: what the server sends to it is answered.
fn lost_client(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s, ports) = talk(&mut pair, host)?;
    filter(&pair.net.b, "prerouting", "meta l4proto tcp drop")?;
    pair.c.run(&format!("linger0 {c}"))?;
    pair.c.run(&format!("close {c}"))?;
    pass(&pair.net.b)?;
    pair.s.run(&format!("send {s} 10"))?;
    pair.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    let lost = Want(
        0,
        json!({"direction": "sent", "state": null, "reason": reason("NO_SOCKET")}),
    );
    let wants = [
        sent(0, "ESTABLISHED", "TCP_STATE"),
        lost.without_socket("PSH|ACK"),
        received(1, "ESTABLISHED"),
    ];
    finish(pair, ports, &wants).map(drop)
}
