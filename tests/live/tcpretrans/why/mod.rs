// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--why` against what the test has thrown away itself, on either side, and against losses that are no drops.

mod paths;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};
use tcptools::kernel::tracepoints::drops;

use crate::{
    missing,
    net::Netns,
    pair::{Pair, trials},
    tool::{self, Tool},
    wait::{self, PATIENCE},
};

/// Segments with payload, which the test counts. The headers take 60 bytes at the most, and those of IPv6 20 more.
const DATA: &str = "meta length > 120";

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpretrans", &["--why"], name, play);
    [
        all("why::own_output", own_output),
        all("why::other_input", other_input),
        all("why::own_queue", own_queue),
        all("why::router", paths::router),
        all("why::lost_syn", lost_syn),
        all("why::lost_synack", lost_synack),
        all("why::ack_lost", ack_lost),
        all("why::then_elsewhere", then_elsewhere),
        all("why::bulk", bulk),
        all("why::too_large", paths::too_large),
        all("why::translated", paths::translated),
        all("why::tunnel", paths::tunnel),
        trials("tcpretrans", &[], "why::before_start", before_start),
        trials("tcpretrans", &[], "why::not_asked", not_asked),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Throws away what the rule says, at a hook; returns what `found` ends it with.
fn lose(ns: &Netns, hook: &'static str, rule: &str) -> Result<&'static str> {
    let family = if hook.starts_with("egress") {
        "netdev"
    } else {
        "inet"
    };
    ns.nft(&format!(
        "table {family} loss {{\n counter lost {{ }}\n chain c {{\n type filter hook {hook} priority 0;\n \
         {rule} counter name lost drop\n }}\n}}\n"
    ))?;
    Ok(family)
}

/// What a rule has thrown away.
struct Lost {
    packets: u64,
    bytes: u64,
}

/// How much it is so far.
fn so_far(ns: &Netns, family: &str) -> Result<Lost> {
    let text = ns.feed(&["nft", "list", "counters", "table", family, "loss"], "")?;
    let number = |name: &str| -> Result<u64> {
        let (_, after) = text.split_once(name).context("a counter")?;
        Ok(after
            .split_whitespace()
            .next()
            .context("a number")?
            .parse()?)
    };
    Ok(Lost {
        packets: number("packets ")?,
        bytes: number("bytes ")?,
    })
}

/// Throws nothing away any more; how much it was. The counter outlives the rule.
fn found(ns: &Netns, family: &str) -> Result<Lost> {
    ns.nft(&format!("flush chain {family} loss c\n"))?;
    let lost = so_far(ns, family)?;
    ns.nft(&format!("delete table {family} loss\n"))?;
    Ok(lost)
}

/// Each of these fields.
fn agrees(row: &Value, want: &Value) -> Result<()> {
    for (key, value) in want.as_object().context("an object")? {
        ensure!(row[key] == *value, "{key} is not {value}: {row:#}");
    }
    Ok(())
}

/// So many retransmissions have found that this host dropped the segment.
fn dropped(pair: &Pair, count: usize) -> Result<()> {
    wait::until("drops", PATIENCE, || {
        let is = |row: &&Value| row["dropped_here"] == true;
        Ok((pair.tool.seen()?.iter().filter(is).count() >= count).then_some(()))
    })
}

/// Data goes through, and everything is acknowledged.
fn arrives(pair: &mut Pair, c: u64, s: u64, bytes: u64) -> Result<()> {
    pair.s.run(&format!("recv {s} {bytes}"))?;
    pair.c.run(&format!("drained {c}")).map(drop)
}

/// Headers of a segment with data: IP, TCP, and its timestamp.
fn headers(host: &str) -> u64 {
    if host.starts_with('[') { 72 } else { 52 }
}

/// What was dropped is sent again, once for each time, and says so: the bytes of all rows are those that the rule has
/// counted. `by`: what each says besides. Rows of `a` that say so for another reason are left out. What was sent again in
/// vain may have been dropped in turn, and is not sent once more, as it had arrived: on a busy host, whole flights are.
fn counted(pair: Pair, lost: u64, by: &Value) -> Result<()> {
    let inode = pair.net.a.inode;
    let (rows, _) = pair.finish()?;
    let mine = rows.iter().filter(|row| row["netns"] == inode);
    let (by_rule, rest): (Vec<&Value>, Vec<&Value>) =
        mine.partition(|row| row["drop_netns"] == by["drop_netns"]);
    let (mut bytes, mut in_vain) = (0, 0);
    for row in &rest {
        in_vain += row["len_bytes"].as_u64().unwrap_or(0);
    }
    for row in by_rule {
        agrees(row, by)?;
        ensure!(row["drop_where"].is_string(), "{row:#}");
        let all = row["drop_unknown"].is_null();
        ensure!(all || row["drop_unknown"] == "part", "{row:#}");
        ensure!(
            row["dropped_here"] == if all { json!(true) } else { Value::Null },
            "{row:#}"
        );
        let dropped = row["drop_bytes"].as_u64().context("bytes")?;
        bytes += dropped;
        in_vain += row["len_bytes"]
            .as_u64()
            .unwrap_or(0)
            .saturating_sub(dropped);
    }
    ensure!(
        bytes <= lost && lost - bytes <= in_vain,
        "the rule has dropped {lost} bytes: {rows:#?}"
    );
    for row in rest.iter().filter(|row| row["dropped_here"] != true) {
        let none = json!({"dropped_here": false, "drop_reason": null, "drop_where": null, "drop_netns": null,
            "drop_bytes": null, "drop_unknown": null});
        agrees(row, &none)?;
    }
    Ok(())
}

/// The payload of what was dropped.
fn payload(lost: &Lost, host: &str) -> u64 {
    lost.bytes - lost.packets * headers(host)
}

fn netfilter(ns: &Netns) -> Value {
    json!({"drop_reason": "NETFILTER_DROP", "drop_netns": ns.inode})
}

/// The first time, its receiver drops it: what is refused here at once was never sent.
fn sent_once(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    Ok((c, s))
}

/// So many retransmissions have found that the segment was dropped on its own side.
fn dropped_at_home(pair: &Pair, count: usize) -> Result<()> {
    wait::until("drops", PATIENCE, || {
        let is = |row: &&Value| row["drop_netns"] == pair.net.a.inode;
        Ok((pair.tool.seen()?.iter().filter(is).count() >= count).then_some(()))
    })
}

/// A rule of the sender's own: the drop is over before the kernel reports the retransmission that it becomes of.
fn own_output(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = sent_once(&mut pair, host)?;
    lose(&pair.net.a, "output", DATA)?;
    dropped_at_home(&pair, 2)?;
    pair.s.run(&format!("undrop {s}"))?;
    let met = found(&pair.net.a, "inet")?;
    arrives(&mut pair, c, s, 700)?;
    let by = netfilter(&pair.net.a);
    counted(pair, payload(&met, host), &by)
}

/// A rule in the namespace of the receiver.
fn other_input(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    lose(&pair.net.b, "input", DATA)?;
    pair.c.run(&format!("send {c} 700"))?;
    dropped(&pair, 2)?;
    let met = found(&pair.net.b, "inet")?;
    arrives(&mut pair, c, s, 700)?;
    let by = netfilter(&pair.net.b);
    counted(pair, payload(&met, host), &by)
}

/// The queue of the sender's interface, which takes nothing: net/core/dev.c hands it to the rules for what leaves.
fn own_queue(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = sent_once(&mut pair, host)?;
    let family = lose(&pair.net.a, "egress device v0", DATA)?;
    dropped_at_home(&pair, 2)?;
    pair.s.run(&format!("undrop {s}"))?;
    let met = found(&pair.net.a, family)?;
    arrives(&mut pair, c, s, 700)?;
    let by = json!({"drop_netns": pair.net.a.inode});
    // There the header of the link counts, too.
    counted(pair, payload(&met, host) - met.packets * 14, &by)
}

/// The first SYN does not leave.
fn lost_syn(mut pair: Pair, host: &str) -> Result<()> {
    let (_, at) = pair.s.listen(host)?;
    lose(&pair.net.b, "input", "tcp flags syn")?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    dropped(&pair, 2)?;
    let met = found(&pair.net.b, "inet")?;
    wait::until("the last row", PATIENCE, || {
        Ok((pair.tool.seen()?.len() as u64 >= met.packets).then_some(()))
    })?;
    let by = netfilter(&pair.net.b);
    counted(pair, met.packets, &by)
}

/// The listener's answer does not arrive: it repeats it, by itself and when the client repeats its SYN.
fn lost_synack(mut pair: Pair, host: &str) -> Result<()> {
    let (_, at) = pair.s.listen(host)?;
    lose(&pair.net.a, "input", "tcp flags & (syn|ack) == (syn|ack)")?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    dropped(&pair, 2)?;
    let (a, b) = (pair.net.a.inode, pair.net.b.inode);
    let (rows, _) = pair.finish()?;
    let mut last = 0;
    for row in &rows {
        let now = row["boot_ns"].as_u64().context("boot_ns")?;
        // Its timer may be due just when the client repeats its SYN, before the answer to that has arrived.
        let at_once = now - last < 10_000_000;
        match row["netns"] == b {
            true if row["dropped_here"] == false => ensure!(at_once, "{rows:#?}"),
            true => agrees(
                row,
                &json!({"kind": "synack", "dropped_here": true, "drop_reason": "NETFILTER_DROP", "drop_netns": a}),
            )?,
            // The SYNs have arrived.
            false => agrees(row, &json!({"kind": "syn", "dropped_here": false}))?,
        }
        if row["netns"] == b {
            last = now;
        }
    }
    Ok(())
}

/// The segment arrives, and its acknowledgement does not: this host dropped something, but not that segment.
fn ack_lost(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    lose(&pair.net.a, "input", "meta l4proto tcp")?;
    pair.c.run(&format!("send {c} 700"))?;
    let row = pair.row("two retransmissions", |row| row["attempt"] == 1)?;
    ensure!(found(&pair.net.a, "inet")?.packets >= 1);
    arrives(&mut pair, c, s, 700)?;
    agrees(&row, &json!({"dropped_here": false, "drop_unknown": null}))?;
    counted(pair, 0, &json!({"drop_netns": 0}))
}

/// Dropped by the receiver's rule, and when that is gone, the acknowledgement is lost: each row is of the last time it
/// was sent.
fn then_elsewhere(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    lose(&pair.net.b, "input", DATA)?;
    pair.c.run(&format!("send {c} 700"))?;
    dropped(&pair, 1)?;
    deafen(&pair.net.a)?;
    let met = found(&pair.net.b, "inet")?;
    pair.row("a retransmission of what has arrived", |row| {
        row["dropped_here"] == false
    })?;
    pair.net.a.nft("delete table inet deaf\n")?;
    arrives(&mut pair, c, s, 700)?;
    let by = netfilter(&pair.net.b);
    counted(pair, payload(&met, host), &by)
}

/// No acknowledgement comes in.
fn deafen(ns: &Netns) -> Result<()> {
    ns.nft("table inet deaf {\n chain c {\n type filter hook input priority 0;\n meta l4proto tcp drop\n }\n}\n")
}

/// Random losses of a transfer: each segment that is dropped is sent again once, and nothing else is.
fn bulk(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.net.a.ip("link set v0 gso_max_segs 1")?;
    let rule = format!("{DATA} numgen random mod 100 < 3");
    lose(&pair.net.b, "prerouting", &rule)?;
    pair.c.begin(&format!("send {c} 3000000"))?;
    pair.s.run(&format!("recv {s} 3000000"))?;
    ensure!(pair.c.finish()?.is_ok());
    pair.c.run(&format!("drained {c}"))?;
    let met = found(&pair.net.b, "inet")?;
    ensure!(met.packets > 20, "{} drops", met.packets);
    let by = netfilter(&pair.net.b);
    counted(pair, payload(&met, host), &by)
}

/// What was sent before the command was there is not known, and what is sent later is.
fn before_start(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_drop_reasons()?;
    let (c, s) = pair.session(host)?;
    pair.net.be_patient()?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    let inodes = pair.net.inodes();
    let late = Tool::start("tcpretrans", &["--json", "--why", "--netns", &inodes])?;
    let row = wait::until("a retransmission", PATIENCE, || {
        Ok(late.seen()?.first().cloned())
    })?;
    pair.s.run(&format!("undrop {s}"))?;
    arrives(&mut pair, c, s, 700)?;
    lose(&pair.net.a, "output", DATA)?;
    pair.c.run(&format!("send {c} 300"))?;
    wait::until("a drop", PATIENCE, || {
        let is = |row: &Value| row["dropped_here"] == true;
        Ok(late.seen()?.iter().any(is).then_some(()))
    })?;
    found(&pair.net.a, "inet")?;
    arrives(&mut pair, c, s, 300)?;
    ensure!(late.stop()?.rows()?.len() >= 2);
    agrees(
        &row,
        &json!({"dropped_here": null, "drop_unknown": "before_start"}),
    )
}

/// Nothing of it without the flag; nor is it accepted where nothing would come of it.
fn not_asked(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    let row = pair.row("a retransmission", |_| true)?;
    ensure!(row.get("dropped_here").is_none(), "{row}");
    let run = tool::run("tcpretrans", &["--why", "--count"])?;
    ensure!(
        run.status.code() == Some(2) && run.stderr.contains("--why"),
        "{}",
        run.stderr
    );
    if drops::has_reason() {
        let run = tool::run_without("btf", "tcpretrans", &["--why"])?;
        ensure!(
            run.status.code() == Some(2) && run.stderr.contains("--why"),
            "{}",
            run.stderr
        );
    }
    Ok(())
}
