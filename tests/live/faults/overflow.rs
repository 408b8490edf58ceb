// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring buffer that is full before its reader has taken the first record. What is expected: rows + lost = events, for
//! every command that has a row per event, where the events are those of the same command with a reader that reads, and
//! where the kernel counts them, its counter; and a message that says how many were lost.

use std::{
    fs::File,
    io::Read,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cli_contract::{collect, command, kill_at_last, records, sessions, signal, until_exists},
    missing,
    net::Netns,
    pair,
    scratch::Scratch,
    tool::Tool,
    trial, unseen,
};

/// What makes rows of a command, and the kernel's counter of as many.
struct Case {
    tool: &'static str,
    args: &'static [&'static str],
    play: fn(&Netns) -> Result<()>,
    counter: Option<fn(&Netns) -> Result<u64>>,
}

const CASES: [Case; 10] = [
    case("tcplife", &[], opens, Some(both_opens)),
    case("tcpstates", &[], opens, None),
    case("tcpconnect", &[], opens, Some(active)),
    case("tcpaccept", &[], opens, Some(passive)),
    case("tcpinfo", &[], opens, None),
    case("tcplat", &[], turns, None),
    case("tcpprobe", &[], turns, None),
    case("tcpreset", &[], refused, None),
    case("tcpdrop", &["--all"], refused, None),
    case("sockbuf", &["-L", "4747"], datagrams, Some(overflows)),
];

const fn case(
    tool: &'static str,
    args: &'static [&'static str],
    play: fn(&Netns) -> Result<()>,
    counter: Option<fn(&Netns) -> Result<u64>>,
) -> Case {
    Case {
        tool,
        args,
        play,
        counter,
    }
}

pub fn tests() -> Vec<Trial> {
    let each = CASES
        .iter()
        .map(|case| trial(format!("faults::overflow::{}", case.tool), || full(case)));
    let lossy = trial("faults::overflow::tcpretrans", retransmissions);
    each.chain([lossy]).collect()
}

fn counter(ns: &Netns, names: &[&str]) -> Result<u64> {
    let all = ns.counters()?;
    let value = |name: &&str| all.get(*name).copied().with_context(|| (*name).to_owned());
    names.iter().map(value).sum()
}

fn active(ns: &Netns) -> Result<u64> {
    counter(ns, &["Tcp.ActiveOpens"])
}

fn passive(ns: &Netns) -> Result<u64> {
    counter(ns, &["Tcp.PassiveOpens"])
}

fn both_opens(ns: &Netns) -> Result<u64> {
    counter(ns, &["Tcp.ActiveOpens", "Tcp.PassiveOpens"])
}

fn overflows(ns: &Netns) -> Result<u64> {
    counter(ns, &["Udp.RcvbufErrors"])
}

fn opens(ns: &Netns) -> Result<()> {
    sessions(ns, 600)
}

/// A question and an answer, many times.
fn turns(ns: &Netns) -> Result<()> {
    ns.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        for _ in 0..800 {
            std::io::Write::write_all(&mut client, b"question")?;
            server.read_exact(&mut [0; 8])?;
            std::io::Write::write_all(&mut server, b"answer!!")?;
            client.read_exact(&mut [0; 8])?;
        }
        Ok(())
    })?;
    ns.quiet()
}

fn refused(ns: &Netns) -> Result<()> {
    ns.inside(|| {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        for _ in 0..1000 {
            ensure!(TcpStream::connect(free).is_err(), "{free}");
        }
        Ok(())
    })
}

/// Datagrams for a socket that has no room for them.
fn datagrams(ns: &Netns) -> Result<()> {
    ns.inside(|| {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 4747))?;
        let small = 2048usize;
        nix::sys::socket::setsockopt(&receiver, nix::sys::socket::sockopt::RcvBuf, &small)?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        for _ in 0..1500 {
            sender.send_to(&[0; 500], receiver.local_addr()?)?;
        }
        Ok(())
    })
}

/// What a command has reported: rows, lost, skipped.
struct Told {
    rows: Vec<Value>,
    lost: u64,
    skipped: u64,
    said: String,
}

fn told(text: &str, said: String) -> Result<Told> {
    let mut rows = records(text)?;
    let summary = rows.pop().context("no summary")?;
    ensure!(summary["event"] == "summary", "{summary}");
    ensure!(
        summary["events"] == rows.len(),
        "{} of {summary}",
        rows.len()
    );
    let number = |key: &str| summary[key].as_u64().with_context(|| key.to_owned());
    Ok(Told {
        lost: number("lost")?,
        skipped: number("skipped")?,
        rows,
        said,
    })
}

/// Plays for a command that is stopped as soon as it is ready, until all is over, and for another one that reads.
fn played(
    ns: &Netns,
    tool: &str,
    args: &[&str],
    play: impl FnOnce(&Netns) -> Result<()>,
) -> Result<(Told, Told)> {
    missing::needs_tracepoint_of(tool)?;
    let (ready, file) = (Scratch::path("ready"), Scratch::path("rows"));
    let netns = ns.inode.to_string();
    let common = [&["--json", "--netns", &netns], args].concat();
    let small = ["--buffer", "64", "--ready-file", ready.text()];
    let mut child = command("", tool, &[&common, &small[..]].concat())
        .stdout(File::create(&*file)?)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    until_exists(&ready)?;
    let reads = Tool::start(tool, &[&common, &["--buffer", "16384"][..]].concat())?;
    signal(&child, Signal::SIGSTOP)?;
    play(ns)?;
    let run = reads.stop()?;
    signal(&child, Signal::SIGTERM)?;
    signal(&child, Signal::SIGCONT)?;
    ensure!(kill_at_last(child)?.success());
    let said = said.join().expect("no panic");
    let text = std::fs::read_to_string(&*file)?;
    let whole = run.lines.join("\n") + "\n";
    Ok((told(&text, said)?, told(&whole, run.stderr)?))
}

/// The sum is what the other command saw; each may have missed what it says.
fn agree(full: &Told, reads: &Told) -> Result<()> {
    let (rows, all) = (full.rows.len() as u64, reads.rows.len() as u64);
    let shown = format!(
        "{rows} rows + {} lost, of {all}; {} and {} skipped; {}",
        full.lost, full.skipped, reads.skipped, full.said
    );
    ensure!(reads.lost == 0 && full.lost > 0 && rows > 0, "{shown}");
    let apart = (rows + full.lost).abs_diff(all);
    ensure!(apart <= full.skipped + reads.skipped, "{shown}");
    let says = format!(" {} events lost", full.lost);
    ensure!(full.said.contains(&says), "{shown}");
    Ok(())
}

fn full(case: &Case) -> Result<()> {
    let ns = Netns::new()?;
    let before = unseen::count();
    let (full, reads) = played(&ns, case.tool, case.args, case.play)?;
    agree(&full, &reads)?;
    if let Some(counter) = case.counter {
        let counted = counter(&ns)?;
        let unseen = unseen::count() - before + full.skipped;
        let sum = full.rows.len() as u64 + full.lost;
        ensure!(
            sum <= counted && sum + unseen >= counted,
            "{sum} rows and losses of {counted}, {unseen} unseen"
        );
    }
    Ok(())
}

/// Segments that are lost on the way are sent again, each of which the kernel counts.
fn retransmissions() -> Result<()> {
    let ns = Arc::new(Netns::new()?);
    // One segment each: a large one is sent again as a whole.
    ns.ip("link set lo mtu 1500 gso_max_segs 1")?;
    let play = |ns: &Netns| -> Result<()> {
        pair::filter(ns, "input", "tcp dport 4848 numgen random mod 20 == 0 drop")?;
        ns.inside(lossy)?;
        pair::pass(ns)
    };
    let (full, reads) = played(&ns, "tcpretrans", &[], play)?;
    let counted = counter(&ns, &["Tcp.RetransSegs"])?;
    let segments = |row: &Value| row["segs"].as_u64().unwrap_or(1);
    let sum: u64 = reads.rows.iter().map(segments).sum();
    ensure!(sum == counted, "{sum} segments of {counted}");
    agree(&full, &reads)
}

fn lossy() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:4848")?;
    let mut client = TcpStream::connect("127.0.0.1:4848")?;
    let (mut server, _) = listener.accept()?;
    let reader = std::thread::spawn(move || {
        let mut chunk = vec![0; 1 << 16];
        while let Ok(1..) = server.read(&mut chunk) {}
    });
    for _ in 0..40 {
        std::io::Write::write_all(&mut client, &vec![0; 1 << 20])?;
    }
    drop(client);
    reader.join().expect("no panic");
    Ok(())
}
