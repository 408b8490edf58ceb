// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows: each begins in the state that the one before it ended in, and there are as many as the kernel has counted.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{ca_state, close, entered, lossy, number, recover, reno, time_out, trials, until};
use crate::{
    pair::{Pair, Side, filter, pass},
    tool::Tool,
};

pub fn tests() -> Vec<Trial> {
    [
        trials(&[], "lost_segments", lost_segments),
        trials(&[], "timeout", timeout),
        trials(&[], "probe", probe),
        trials(&[], "congestion_notified", congestion_notified),
        trials(&[], "unanswered_syn", unanswered_syn),
        trials(&[], "closed_in_loss", closed_in_loss),
        trials(&[], "reused_socket", reused_socket),
        trials(&[], "before_the_trace", before_the_trace),
        trials(&["--new", "loss,closed"], "into_states", into_states),
        trials(
            &["--old", "loss", "--min-ms", "1000"],
            "long_ones",
            long_ones,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The rows of one end, in order, of one connection.
fn of<'r>(rows: &'r [Value], side: &Side) -> Vec<&'r Value> {
    rows.iter().filter(|row| side.is(row)).collect()
}

fn states(rows: &[&Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let pair = |row: &&Value| (text(&row["old_ca_state"]), text(&row["new_ca_state"]));
    rows.iter().map(pair).collect()
}

/// Each row goes on where the one before it has ended, and its time is that between both.
fn chained(rows: &[&Value]) -> Result<()> {
    let first = rows.first().context("no row")?;
    ensure!(first["old_ca_state"] == "open", "{first}");
    for pair in rows.windows(2) {
        let [before, after] = pair else { continue };
        ensure!(
            before["new_ca_state"] == after["old_ca_state"] && before["cookie"] == after["cookie"],
            "{pair:#?}"
        );
        let between = (number(after, "boot_ns")? - number(before, "boot_ns")?) / 1000;
        ensure!(
            number(after, "in_state_us")? == between && after["in_state_at_least"] == false,
            "{between} us: {after}"
        );
    }
    Ok(())
}

/// As many changes to a state as the kernel has counted there; a timeout in Loss is no change.
fn counted(rows: &[&Value], side: &Side) -> Result<()> {
    let entered = entered(side)?;
    let to = |state: &str| {
        rows.iter()
            .filter(|row| row["new_ca_state"] == state)
            .count() as u64
    };
    ensure!(
        to("recovery") == entered["recovery"] && to("loss") <= entered["loss"],
        "{entered:?}: {rows:#?}"
    );
    Ok(())
}

fn lost_segments(mut pair: Pair, host: &str) -> Result<()> {
    reno(&pair)?;
    let ends = pair.session(host)?;
    lossy(&mut pair, ends)?;
    let state = ca_state(&mut pair, ends.0)?;
    let cookie = pair.c.number(&format!("cookie {}", ends.0))?;
    close(&mut pair, ends)?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    chained(&mine)?;
    counted(&mine, &sides[0])?;
    ensure!(
        mine.iter().any(|row| row["new_ca_state"] == "recovery"),
        "{mine:#?}"
    );
    let last = mine.last().context("no row")?;
    ensure!(last["new_ca_state"] == state, "it is in {state}: {last}");
    for row in &mine {
        ensure!(
            row["cookie"] == cookie
                && row["pid"] == sides[0].pid
                && row["event"] == "ca_state_change",
            "{row}"
        );
        ensure!(
            number(row, "snd_cwnd")? > 0 && number(row, "srtt_us")? > 0,
            "{row}"
        );
        // Whatever is left of Open has set a threshold.
        let reduced = ["cwr", "recovery", "loss"].map(Value::from);
        let known = row["ssthresh"].is_u64();
        ensure!(row["ca_name"] == "reno", "{row}");
        ensure!(known || !reduced.contains(&row["new_ca_state"]), "{row}");
        let left = number(row, "sacked_out")? + number(row, "lost_out")?;
        let flight = number(row, "packets_out")? + number(row, "retrans_out")?;
        ensure!(row["packets_in_flight"] == flight - left, "{row}");
    }
    Ok(())
}

/// Two timeouts in a row are one change to Loss, which lasts until an answer comes.
fn timeout(mut pair: Pair, host: &str) -> Result<()> {
    let ends = pair.session(host)?;
    time_out(&mut pair, ends, 1)?;
    let entered = Instant::now();
    let row = pair.row("loss", |row| row["new_ca_state"] == "loss")?;
    ensure!(ca_state(&mut pair, ends.0)? == "loss");
    until(&pair, "TcpExt.TCPTimeouts", 2)?;
    let at_least = entered.elapsed();
    recover(&mut pair, ends)?;
    let (cookie, state) = (
        pair.c.number(&format!("cookie {}", ends.0))?,
        ca_state(&mut pair, ends.0)?,
    );
    ensure!(
        row["old_ca_state"] == "open" && row["snd_cwnd"] == 1 && row["state"] == "ESTABLISHED",
        "{row}"
    );
    ensure!(row["lost_out"] == 1 && row["cookie"] == cookie, "{row}");
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    chained(&mine)?;
    counted(&mine, &sides[0])?;
    let [_, after, ..] = &mine[..] else {
        anyhow::bail!("{mine:#?}")
    };
    ensure!(
        u128::from(number(after, "in_state_us")?) >= at_least.as_micros(),
        "{at_least:?}: {after}"
    );
    ensure!(mine[mine.len() - 1]["new_ca_state"] == state, "{mine:#?}");
    Ok(())
}

/// The last segment alone is lost, and a probe repairs it: no timeout, but the window is reduced.
fn probe(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.c.run(&format!("send {c} 300"))?;
    pair.s.run(&format!("recv {s} 300"))?;
    pair.c.run(&format!("drained {c}"))?;
    // Of the segments with data the first one only.
    filter(
        &pair.net.b,
        "prerouting",
        "meta l4proto tcp meta length > 500 numgen inc mod 1000000 == 0 drop",
    )?;
    // That the probe has repaired something, the next acknowledgement shows (net/ipv4/tcp_input.c: tcp_process_tlp_ack).
    for _ in 0..2 {
        pair.c.run(&format!("send {c} 700"))?;
        pair.s.run(&format!("recv {s} 700"))?;
        pair.c.run(&format!("drained {c}"))?;
    }
    pass(&pair.net.b)?;
    let state = ca_state(&mut pair, c)?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    let probes = (
        sides[0].counter("TcpExt.TCPLossProbes")?,
        sides[0].counter("TcpExt.TCPLossProbeRecovery")?,
    );
    // On a busy host the answer to the probe may come after the timer.
    let timeouts = sides[0].counter("TcpExt.TCPTimeouts")?;
    let to_cwr = mine.iter().filter(|row| row["new_ca_state"] == "cwr");
    ensure!(
        timeouts > 0 || (probes == (1, 1) && to_cwr.count() == 1),
        "{probes:?}: {mine:#?}"
    );
    chained(&mine)?;
    ensure!(mine[mine.len() - 1]["new_ca_state"] == state, "{mine:#?}");
    Ok(())
}

/// A router marks a segment, and the sender reduces its window without a loss.
fn congestion_notified(mut pair: Pair, host: &str) -> Result<()> {
    for ns in [&pair.net.a, &pair.net.b] {
        ns.sysctl("ipv4/tcp_ecn", "1")?;
    }
    reno(&pair)?;
    let ends = pair.session(host)?;
    let rule = match host.starts_with('[') {
        true => "ip6 ecn ect0 meta length > 500 ip6 ecn set ce",
        false => "ip ecn ect0 meta length > 500 ip ecn set ce",
    };
    filter(&pair.net.b, "prerouting", rule)?;
    for _ in 0..3 {
        pair.c.run(&format!("send {} 1000", ends.0))?;
        pair.s.run(&format!("recv {} 1000", ends.1))?;
        pair.c.run(&format!("drained {}", ends.0))?;
    }
    pass(&pair.net.b)?;
    let row = pair.row("cwr", |row| row["new_ca_state"] == "cwr")?;
    ensure!(
        row["old_ca_state"] == "open" && row["total_retrans"] == 0,
        "{row}"
    );
    close(&mut pair, ends)?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    chained(&mine)?;
    // The last reduction may end with the connection.
    let fine = |(_, new): &(String, String)| ["cwr", "open", "-"].contains(&&**new);
    ensure!(states(&mine).iter().all(fine), "{mine:#?}");
    Ok(())
}

/// A SYN that is sent again is a timeout, too.
fn unanswered_syn(mut pair: Pair, host: &str) -> Result<()> {
    let (_listener, at) = pair.s.listen(host)?;
    filter(&pair.net.b, "prerouting", "meta l4proto tcp drop")?;
    let fd = pair.c.open(&at)?;
    pair.c.begin(&format!("connect {fd} {at}"))?;
    let row = pair.row("loss", |row| row["new_ca_state"] == "loss")?;
    pass(&pair.net.b)?;
    ensure!(pair.c.finish()?.is_ok());
    let (rows, sides) = pair.finish()?;
    ensure!(
        row["state"] == "SYN_SENT" && row["pid"] == sides[0].pid && row["old_ca_state"] == "open",
        "{row}"
    );
    let waited = number(&row, "in_state_us")?;
    ensure!(
        (900_000..5_000_000).contains(&waited) && row["in_state_at_least"] == false,
        "{row}"
    );
    let mine = of(&rows, &sides[0]);
    chained(&mine)?;
    ensure!(mine[mine.len() - 1]["new_ca_state"] == "open", "{mine:#?}");
    Ok(())
}

/// The end of a connection that nobody answers has a row; that of the other end, which was always open, has none.
fn closed_in_loss(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    time_out(&mut pair, (c, s), 1)?;
    pair.row("loss", |row| row["new_ca_state"] == "loss")?;
    for (agent, fd) in [(&mut pair.c, c), (&mut pair.s, s)] {
        agent.run(&format!("linger0 {fd}"))?;
        agent.run(&format!("close {fd}"))?;
    }
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    chained(&mine)?;
    ensure!(
        states(&mine) == [("open".into(), "loss".into()), ("loss".into(), "-".into())],
        "{mine:#?}"
    );
    ensure!(
        mine[1]["event"] == "closed" && mine[1]["pid"] == sides[0].pid,
        "{mine:#?}"
    );
    ensure!(of(&rows, &sides[1]).is_empty(), "{rows:#?}");
    Ok(())
}

/// A socket that connects again begins in Open.
fn reused_socket(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    let (c, s) = pair.connect(&at, listener)?;
    time_out(&mut pair, (c, s), 1)?;
    pair.c.run(&format!("disconnect {c}"))?;
    pair.c.run(&format!("connect {c} {at}"))?;
    let again = pair.s.number(&format!("accept {listener}"))?;
    let timeouts = pair.net.a.counters()?["TcpExt.TCPTimeouts"];
    time_out(&mut pair, (c, again), timeouts + 1)?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    let loss = ("open".to_owned(), "loss".to_owned());
    ensure!(
        states(&mine) == [loss.clone(), ("loss".into(), "-".into()), loss],
        "{mine:#?}"
    );
    let began = number(mine[1], "boot_ns")?;
    let since = (number(mine[2], "boot_ns")? - began) / 1000;
    ensure!(number(mine[2], "in_state_us")? < since, "{mine:#?}");
    Ok(())
}

/// A connection that was there at the start was in its state for at least the time since then; what follows is exact.
fn before_the_trace(mut pair: Pair, host: &str) -> Result<()> {
    let ends = pair.session(host)?;
    let inode = pair.net.a.inode.to_string();
    let before = Instant::now();
    let late = Tool::start("tcpcong", &["--json", "--netns", &inode])?;
    let unscanned = Tool::start("tcpcong", &["--json", "--no-scan", "--netns", &inode])?;
    let started = Instant::now();
    time_out(&mut pair, ends, 1)?;
    let least = started.elapsed();
    recover(&mut pair, ends)?;
    let most = before.elapsed();
    let rows = late.stop()?.rows()?;
    let others = unscanned.stop()?.rows()?;
    let time = u128::from(number(rows.first().context("no row")?, "in_state_us")?);
    ensure!(
        rows[0]["in_state_at_least"] == true && rows[0]["new_ca_state"] == "loss",
        "{rows:#?}"
    );
    ensure!(
        (1..=most.as_micros()).contains(&time) && time + 1_000_000 > least.as_micros(),
        "{least:?} to {most:?}: {}",
        rows[0]
    );
    let later = rows.get(1).context("a second row")?;
    ensure!(later["in_state_at_least"] == false, "{later}");
    // Of what was never seen nothing is known.
    ensure!(
        others[0]["in_state_us"] == json!(null) && others[0]["old_ca_state"] == "open",
        "{others:#?}"
    );
    Ok(())
}

fn into_states(mut pair: Pair, host: &str) -> Result<()> {
    let ends = pair.session(host)?;
    time_out(&mut pair, ends, 1)?;
    recover(&mut pair, ends)?;
    close(&mut pair, ends)?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    ensure!(
        mine.iter().all(|row| row["new_ca_state"] == "loss") && !mine.is_empty(),
        "{mine:#?}"
    );
    Ok(())
}

/// One was in Loss for a moment, the other for seconds.
fn long_ones(mut pair: Pair, host: &str) -> Result<()> {
    let short = pair.session(host)?;
    time_out(&mut pair, short, 1)?;
    let timeouts = pair.net.a.counters()?["TcpExt.TCPTimeouts"];
    recover(&mut pair, short)?;
    let long = pair.session(host)?;
    time_out(&mut pair, long, timeouts + 1)?;
    let cookie = pair.c.number(&format!("cookie {}", long.0))?;
    let entered = Instant::now();
    until(&pair, "TcpExt.TCPTimeouts", timeouts + 4)?;
    ensure!(entered.elapsed().as_millis() > 1000, "timers of a second");
    recover(&mut pair, long)?;
    let (rows, sides) = pair.finish()?;
    let mine = of(&rows, &sides[0]);
    ensure!(
        mine.iter().any(|row| row["cookie"] == cookie),
        "{cookie}: {mine:#?}"
    );
    for row in mine {
        ensure!(
            row["old_ca_state"] == "loss" && number(row, "in_state_us")? >= 1_000_000,
            "{row}"
        );
    }
    Ok(())
}
