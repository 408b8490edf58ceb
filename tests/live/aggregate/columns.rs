// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--columns` of every command and every kind of row, and the order of lists.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::{
    net::Netns,
    pair::{Pair, trials},
    tool::{self, Tool},
    trial,
};

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        trial("columns::of_every_command", of_every_command),
        trial("columns::unknown", unknown),
        trial("columns::sorted_list", sorted_list),
    ];
    tests.extend(trials("tcplife", &[], "idle", idle));
    tests
}

/// Rows, sums and lists, each with a column taken away and another one added; and the header that they have then.
const KINDS: [(&str, &[&str], &str, &str); 15] = [
    ("tcplife", &["--columns=-comm,+idle_us"], "COMM", "IDLE"),
    (
        "tcplife",
        &["--columns", "-rport,+state", "--active"],
        "RPORT",
        "STATE",
    ),
    ("tcpconnect", &["--columns=+uid,-ip"], "IP", "UID"),
    (
        "tcpconnect",
        &["-c", "--columns=-laddr,+netns"],
        "LADDR",
        "netns",
    ),
    (
        "tcpconnect",
        &["-c", "--by", "comm", "--columns=-outcome"],
        "OUTCOME",
        "COMM",
    ),
    ("tcpaccept", &["--columns=-pid,+uid"], "PID", "uid"),
    (
        "tcpaccept",
        &["--listeners=1s", "--columns=-pid,+syn_queue_max"],
        "PID",
        "SYNMAX",
    ),
    (
        "tcpaccept",
        &["--summary=1s", "--columns=-pid,+verdict"],
        "PID",
        "VERDICT",
    ),
    (
        "tcpretrans",
        &["--columns=-state,+rto_us"],
        "STATE",
        "RTO_MS",
    ),
    (
        "tcpretrans",
        &["--summary=1s", "--columns=-syn,+other"],
        "SYN ",
        "other",
    ),
    ("tcpreset", &["--columns=-lport,+age_us"], "LPORT", "AGE_MS"),
    (
        "tcpreset",
        &["--summary=1s", "--by", "laddr,lport", "--columns=-lport"],
        "LPORT",
        "LADDR",
    ),
    ("tcpprobe", &["--columns=-len,+mss"], "LEN", "mss"),
    ("tcptop", &["-b", "--columns=-why,+laddr"], "WHY", "LADDR"),
    (
        "tcptop",
        &["-b", "--by", "comm,rport", "--columns=-closed"],
        "CLOSED",
        "RPORT",
    ),
];

fn of_every_command() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    for (tool, args, gone, there) in KINDS {
        let args = [&["--netns", &inode], args].concat();
        let run = Tool::start(tool, &args)?.stop()?;
        let header = run.lines.first().map_or("", String::as_str);
        ensure!(
            !format!("{header} ").contains(gone),
            "{tool} {args:?}: {header}"
        );
        ensure!(header.contains(there), "{tool} {args:?}: {header}");
        ensure!(run.status.success(), "{tool}: {}", run.stderr);
    }
    Ok(())
}

/// A name that no column has ends the command before it begins, and the sentence lists those that there are.
fn unknown() -> Result<()> {
    for (tool, args) in [
        ("tcplife", &["--columns", "cwnd,nonsense"][..]),
        ("tcpconnect", &["-c", "--columns", "+latency_us"]),
        ("tcpconnect", &["-c", "--sort", "latency_us"]),
        ("tcpconnect", &["--hist", "--columns", "count"]),
        ("tcpretrans", &["--summary", "--sort", "seq"]),
        ("tcpaccept", &["--listeners", "--sort", "rport,nonsense"]),
        ("tcpreset", &["--summary", "--columns", "raddr"]),
        ("tcpprobe", &["--live", "--columns", "cwnd"]),
        ("tcptop", &["-b", "--by", "comm", "--columns", "raddr"]),
    ] {
        let run = tool::run(tool, args)?;
        ensure!(run.status.code() == Some(2), "{tool} {args:?}: {run:?}");
        ensure!(run.stderr.lines().count() == 1, "{tool} {args:?}: {run:?}");
    }
    Ok(())
}

/// Sessions that are open, by a column that was named.
fn sorted_list() -> Result<()> {
    let ns = Netns::new()?;
    let (mut c, mut s) = (ns.agent()?, ns.agent()?);
    let (listener, at) = s.listen("127.0.0.1:0")?;
    let mut ends = Vec::new();
    for bytes in [500, 9000, 20] {
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        let end = s.number(&format!("accept {listener}"))?;
        c.run(&format!("send {fd} {bytes}"))?;
        s.run(&format!("recv {end} {bytes}"))?;
        c.run(&format!("drained {fd}"))?;
        ends.push((fd, end));
    }
    let inode = ns.inode.to_string();
    let port = at.rsplit(':').next().unwrap_or_default();
    for (sort, want) in [("tx_bytes", [9000, 500, 20]), ("+tx_kb", [20, 500, 9000])] {
        let args = [
            "--json", "--active", "--sort", sort, "--netns", &inode, "-D", port,
        ];
        let rows = Tool::start("tcplife", &args)?.stop()?.rows()?;
        let told: Vec<_> = rows
            .iter()
            .filter_map(|row| row["tx_bytes"].as_u64())
            .collect();
        ensure!(told == want, "{sort}: {rows:?}");
    }
    Ok(())
}

/// The time since the last data, in either direction, is that of the socket itself.
fn idle(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.c.run(&format!("send {c} 100"))?;
    pair.s.run(&format!("recv {s} 100"))?;
    pair.c.run(&format!("drained {c}"))?;
    let (quiet, other) = pair.session(host)?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = pair.c.info(c)?["last_data_sent"];
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.c.run(&format!("close {quiet}"))?;
    pair.s.run(&format!("close {other}"))?;
    pair.net.quiet()?;
    let (rows, _) = pair.finish()?;
    ensure!(rows.len() == 4, "{rows:?}");
    let idle = |moved: bool| {
        let of = rows
            .iter()
            .filter(move |row| (row["tx_bytes"] == 100 || row["rx_bytes"] == 100) == moved);
        of.map(|row| row["idle_us"].as_u64()).collect::<Vec<_>>()
    };
    // Nothing was ever sent.
    ensure!(idle(false) == [None, None], "{rows:?}");
    for us in idle(true) {
        let us = us.unwrap_or(0);
        // The other end received it a moment later than it was sent.
        ensure!(
            us + 50_000 >= before * 1000 && before >= 250,
            "{before} ms: {rows:?}"
        );
    }
    Ok(())
}
