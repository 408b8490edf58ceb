// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcptools record`, and what reads its files: findings and stories are those of the run itself.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::follow::{Talk, in_order, in_time, is_whole};
use crate::{
    missing,
    net::Netns,
    scratch::Scratch,
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("front::record_replayed", || in_time(replayed)),
        trial("front::record_same_findings", same_findings),
        trial("front::record_last_minutes", last_minutes),
        trial("front::record_on_finding", on_finding),
        trial("front::record_size_and_place", size_and_place),
    ]
}

/// Whatever happens, for a moment: rows come in their own time, and a recording is not read meanwhile.
fn until_sent(talk: &mut Talk, count: u64) -> Result<u64> {
    let ns = talk.net.a.inode;
    let sent = Tool::start("tcpretrans", &["--json", "--netns", &ns.to_string()])?;
    talk.cut_path(|event, cookie, _| match event {
        "retransmit" => wait::until("retransmissions", PATIENCE, || {
            let rows = sent.seen()?;
            let mine = rows.iter().filter(|row| row["cookie"] == cookie).count();
            Ok((mine as u64 >= count).then_some(()))
        }),
        _ => Ok(()),
    })
}

/// Runs it without any privileges.
fn as_nobody(args: &[&str]) -> Result<Vec<String>> {
    let dir = Scratch::path("nobody");
    fs::create_dir(&*dir)?;
    let own = dir.join("tcptools");
    fs::copy(tool::path("tcptools"), &own)?;
    let output = Command::new(&own).args(args).uid(65534).gid(65534).output();
    fs::remove_dir_all(&*dir)?;
    let output = output?;
    ensure!(output.status.code() != Some(1), "{args:?}: {output:?}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A file is told as the connection itself, by a user without privileges.
fn replayed() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_cookies()?;
    let mut talk = Talk::new("[fd09::2]:0")?;
    let (inodes, file) = (talk.net.inodes(), Scratch::path("replayed.jsonl.gz"));
    let args = ["record", "-i", "1s", "--netns", &inodes, "-o", file.text()];
    let recorder = Tool::start("tcptools", &args)?;
    let cookie = until_sent(&mut talk, 3)?;
    // What was destroyed is shown within two seconds.
    talk.net.a.quiet()?;
    let run = recorder.stop()?;
    ensure!(
        run.status.success() && run.stderr.contains(file.text()),
        "{run:?}"
    );

    let told = as_nobody(&["follow", "--json", "--from", file.text()])?;
    is_whole(&in_order(&told)?, cookie)?;
    let one = cookie.to_string();
    let mine = as_nobody(&["follow", "--json", "--from", file.text(), "--cookie", &one])?;
    let mine = in_order(&mine)?;
    is_whole(&mine, cookie)?;
    let port = mine[0]["rport"].clone();
    ensure!(mine.iter().all(|row| row["rport"] == port), "{mine:#?}");
    let other = as_nobody(&["follow", "--from", file.text(), "--port", "1"])?;
    ensure!(other.is_empty(), "{other:?}");
    let found = as_nobody(&["triage", "--json", "--from", file.text()])?;
    let summary: Value = serde_json::from_str(found.last().context("nothing")?)?;
    ensure!(summary["opened"] == 1 && summary["lost"] == 0, "{summary}");
    trace(&file, cookie)
}

/// The same file as a trace.
fn trace(file: &Scratch, cookie: u64) -> Result<()> {
    let out = Scratch::path("trace.json");
    let args = ["export", "--from", file.text(), "--perfetto", out.text()];
    let run = tool::run("tcptools", &args)?;
    ensure!(run.status.success(), "{run:?}");
    let whole: Value = serde_json::from_slice(&fs::read(&*out)?)?;
    let events = whole["traceEvents"].as_array().context("no events")?;
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    ensure!(named("retransmit rto") >= 2, "{events:#?}");
    ensure!(
        named("ESTABLISHED") >= 2 && named("reset sent") == 1,
        "{events:#?}"
    );
    let phase = |phase: &str| events.iter().filter(|event| event["ph"] == phase).count();
    ensure!(phase("B") == phase("E") && phase("C") > 0, "{cookie}");
    Ok(())
}

/// Refused opens in this namespace.
fn refused(ns: &Netns) -> Result<()> {
    ns.inside(|| {
        for _ in 0..20 {
            ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, 5432)).is_err());
        }
        Ok(())
    })
}

/// Byte for byte.
fn same_findings() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    for name in ["same.jsonl", "same.jsonl.gz"] {
        let file = Scratch::path(name);
        let args = ["triage", "--json", "-d", "60s", "--netns", &netns];
        let triage = Tool::start(
            "tcptools",
            &[&args[..], &["--record", file.text()]].concat(),
        )?;
        refused(&ns)?;
        let run = triage.stop()?;
        ensure!(run.lines.len() == 2, "{run:?}");
        let again = tool::run("tcptools", &["triage", "--json", "--from", file.text()])?;
        ensure!(again.lines == run.lines, "{again:#?} against {run:#?}");
        ensure!(again.status.code() == Some(10), "{again:?}");
    }
    Ok(())
}

/// The file, once it is there.
fn written(path: &Path) -> Result<String> {
    wait::until("the file", PATIENCE, || Ok(path.exists().then_some(())))?;
    Ok(fs::read_to_string(path)?)
}

/// How many opens a file has.
fn opens(text: &str) -> usize {
    text.matches(r#""event":"connect""#).count()
}

/// Each signal writes a file of its own.
fn last_minutes() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let dir = Scratch::path("last");
    fs::create_dir(&*dir)?;
    let file = dir.join("tcp.jsonl");
    let name = file.to_str().context("a plain name")?;
    let args = ["record", "--last", "60s", "--netns", &netns, "-o", name];
    let recorder = Tool::start("tcptools", &args)?;
    let rows = Tool::start("tcpconnect", &["--json", "--netns", &netns])?;
    refused(&ns)?;
    rows.wait_lines(20)?;
    let mut files = ["tcp.jsonl".to_owned()]
        .into_iter()
        .chain((2..).map(|n| format!("tcp-{n}.jsonl")));
    // Rows are held back for earlier ones of other commands, so the first file may be early.
    wait::until("a file with all opens", PATIENCE, || {
        recorder.signal(Signal::SIGUSR1)?;
        let text = written(&dir.join(files.next().context("a name")?))?;
        let (first, last) = (text.lines().next(), text.lines().last());
        ensure!(first.is_some_and(|line| line.contains(r#""event":"recording""#)));
        ensure!(last.is_some_and(|line| line.contains(r#""event":"recorded""#)));
        std::thread::sleep(std::time::Duration::from_millis(200));
        Ok((opens(&text) == 20).then_some(()))
    })?;
    let run = recorder.stop()?;
    ensure!(run.status.success(), "{run:?}");
    Ok(())
}

/// What was before it is in the file.
fn on_finding() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let (netns, file) = (ns.inode.to_string(), Scratch::path("on.jsonl"));
    let args = [
        "record", "--last", "60s", "--on", "critical", "-i", "1s", "--netns", &netns,
    ];
    let recorder = Tool::start("tcptools", &[&args[..], &["-o", file.text()]].concat())?;
    refused(&ns)?;
    let text = written(&file)?;
    ensure!(opens(&text) == 20, "{text}");
    let run = recorder.stop()?;
    ensure!(run.stderr.contains("critical connect_refused"), "{run:?}");
    Ok(())
}

/// A file is not larger than asked for, and nobody else's.
fn size_and_place() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let (netns, file) = (ns.inode.to_string(), Scratch::path("size.jsonl"));
    let args = [
        "record",
        "--max-size",
        "64K",
        "--netns",
        &netns,
        "-o",
        file.text(),
    ];
    let mut recorder = Tool::start("tcptools", &args)?;
    wait::until("the end", PATIENCE, || {
        refused(&ns)?;
        Ok(recorder.child.try_wait()?)
    })?;
    let run = recorder.finish(PATIENCE)?;
    ensure!(
        run.status.success() && run.stderr.contains("--max-size"),
        "{run:?}"
    );
    let size = fs::metadata(&*file)?.len();
    // Its last line is told how many rows there are.
    ensure!((60 << 10..66 << 10).contains(&size), "{size}");

    let (victim, link) = (Scratch::path("victim"), Scratch::path("link"));
    fs::write(&*victim, "mine")?;
    symlink(&*victim, &*link)?;
    let run = tool::run("tcptools", &["record", "-d", "1ms", "-o", link.text()])?;
    ensure!(
        run.status.code() == Some(2) && run.stderr.contains("a symbolic link"),
        "{run:?}"
    );
    ensure!(fs::read_to_string(&*victim)? == "mine");
    Ok(())
}
