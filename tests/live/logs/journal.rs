// SPDX-License-Identifier: MIT OR Apache-2.0
//! `-o journal`, with a journal of the test's own.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Map, Value};

use super::{ALIKE, shared, traffic};
use crate::{
    net::Net,
    scratch::Scratch,
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("logs::journal::is_json", is_json),
        trial("logs::journal::slow", slow),
        trial("logs::journal::stalled", stalled),
        trial("logs::journal::gone", gone),
        trial("logs::journal::none", none),
    ]
}

/// A journal: what it takes is read until it is told that all has come.
pub struct Journal {
    path: Scratch,
    over: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Map<String, Value>>>,
}

impl Journal {
    pub fn new(name: &str) -> Result<Self> {
        Self::pausing(name, Duration::ZERO)
    }

    /// One that takes so long over each entry.
    fn pausing(name: &str, pause: Duration) -> Result<Self> {
        let path = Scratch::path(name);
        let socket = UnixDatagram::bind(&*path)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let reader = thread::spawn(move || {
            let (mut entries, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                let last = ended.load(Ordering::Relaxed);
                match socket.recv(&mut buffer) {
                    Ok(n) => {
                        entries.push(fields(&buffer[..n]));
                        thread::sleep(pause);
                    }
                    Err(_) if last => return entries,
                    Err(_) => {}
                }
            }
        });
        Ok(Self { path, over, reader })
    }

    pub fn path(&self) -> &str {
        self.path.text()
    }

    /// All entries, of commands that have ended.
    pub fn end(self) -> Vec<Map<String, Value>> {
        self.over.store(true, Ordering::Relaxed);
        self.reader.join().expect("no panic")
    }
}

/// The fields of an entry.
fn fields(entry: &[u8]) -> Map<String, Value> {
    let (mut all, mut rest) = (Map::new(), entry);
    while let Some(at) = rest.iter().position(|byte| b"=\n".contains(byte)) {
        let (key, after) = rest.split_at(at);
        let (value, after) = match after.strip_prefix(b"=") {
            Some(after) => {
                let end = after.iter().position(|byte| *byte == b'\n');
                after.split_at(end.expect("an end"))
            }
            None => {
                let (size, after) = after[1..].split_first_chunk().expect("a length");
                after.split_at(u64::from_le_bytes(*size) as usize)
            }
        };
        let key = String::from_utf8(key.to_vec()).expect("a name");
        // A name may have any byte.
        let value = String::from_utf8_lossy(value).into_owned();
        let before = all.insert(key, value.into());
        assert!(before.is_none(), "{entry:?}");
        rest = after.strip_prefix(b"\n").expect("a line feed");
    }
    assert!(rest.is_empty(), "{entry:?}");
    all
}

/// The values of JSON that an entry has.
pub fn same(record: &Value, entry: &Map<String, Value>) -> Result<()> {
    for (key, value) in shared(record) {
        let said = entry.get(&format!("TCPTOOLS_{}", key.to_ascii_uppercase()));
        let expected = match &value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        ensure!(
            said.and_then(Value::as_str) == Some(&expected),
            "{key} is {value}, and {said:?}: {entry:?}"
        );
    }
    ensure!(entry["SYSLOG_IDENTIFIER"] == record["tool"], "{entry:?}");
    if let Some(pid) = record["pid"].as_u64() {
        ensure!(
            entry["OBJECT_PID"].as_str() == Some(&pid.to_string()),
            "{entry:?}"
        );
        // Bytes as they are there, escapes here.
        let is_escaped = record["comm"]
            .as_str()
            .is_some_and(|comm| comm.contains('\\'));
        let same = entry["OBJECT_COMM"] == record["comm"];
        ensure!(same != is_escaped, "{entry:?}");
    }
    Ok(())
}

/// An entry for each record, with its values, and nothing on standard output.
fn is_json() -> Result<()> {
    for args in ALIKE {
        let net = Net::new()?;
        let inodes = net.inodes();
        let args = [args, &["--netns", &inodes]].concat();
        let journal = Journal::new("entries")?;
        let to_journal = ["-o", "journal", "--journal-socket", journal.path()];
        let json = Tool::start(args[0], &[&args[1..], &["--json"]].concat())?;
        let logged = Tool::start(args[0], &[&args[1..], &to_journal].concat())?;
        traffic(&net)?;
        let (json, logged) = (json.stop()?, logged.stop()?);
        let (entries, records) = (journal.end(), json.records()?);
        ensure!(
            logged.status.success() && logged.lines.is_empty(),
            "{logged:?}"
        );
        ensure!(
            entries.len() == records.len(),
            "{args:?}: {entries:#?} {records:#?}"
        );
        let (last, rows) = records.split_last().context("a summary")?;
        ensure!(rows.len() > 1, "{args:?}: {rows:?}");
        for (record, entry) in rows.iter().zip(&entries) {
            same(record, entry).with_context(|| format!("{args:?}"))?;
            ensure!(
                entry["MESSAGE"]
                    .as_str()
                    .is_some_and(|text| text.len() > 10),
                "{entry:?}"
            );
            let failed = record["errno"].is_number();
            let priority = entry["PRIORITY"]
                .as_str()
                .and_then(|p| p.parse::<u8>().ok());
            let is = priority.context("a priority")?;
            ensure!(!failed || is == 4, "{entry:?}");
        }
        let summary = entries.last().context("a summary")?;
        ensure!(
            summary["TCPTOOLS_EVENTS"].as_str() == Some(&last["events"].to_string()),
            "{summary:?}"
        );
        ensure!(summary["TCPTOOLS_JOURNAL_LOST"] == "0", "{summary:?}");
    }
    Ok(())
}

const SESSIONS: u64 = 400;

/// So many sessions, of ten changes of state each.
fn sessions(net: &Net) -> Result<()> {
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen("10.9.0.2:0")?;
    for _ in 0..SESSIONS {
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        c.run(&format!("close {fd}"))?;
        s.run(&format!("eof {accepted}"))?;
        s.run(&format!("close {accepted}"))?;
    }
    net.quiet()
}

/// A journal that is slower than the rows come: they wait, and none is lost.
fn slow() -> Result<()> {
    let journal = Journal::pausing("slow", Duration::from_millis(1))?;
    let net = Net::new()?;
    let inodes = net.inodes();
    let args = [
        "--netns",
        &inodes,
        "-o",
        "journal",
        "--journal-socket",
        journal.path(),
    ];
    let logged = Tool::start("tcpstates", &args)?;
    sessions(&net)?;
    let run = logged.stop()?;
    let entries = journal.end();
    ensure!(run.status.success(), "{run:?}");
    let (summary, rows) = entries.split_last().context("a summary")?;
    let number = |key: &str| -> Result<u64> {
        let text = summary[key].as_str().context("a number")?;
        Ok(text.parse()?)
    };
    ensure!(
        number("TCPTOOLS_EVENTS")? == rows.len() as u64,
        "{summary:?}"
    );
    ensure!(number("TCPTOOLS_LOST")? == 0 && number("TCPTOOLS_JOURNAL_LOST")? == 0);
    ensure!(
        rows.len() as u64 + number("TCPTOOLS_SKIPPED")? >= SESSIONS * 10,
        "{}",
        rows.len()
    );
    Ok(())
}

/// A journal that does not read: what it did not take is counted and said, and the status is 1.
fn stalled() -> Result<()> {
    let path = Scratch::path("stalled");
    let socket = UnixDatagram::bind(&*path)?;
    let net = Net::new()?;
    let inodes = net.inodes();
    let args = [
        "--netns",
        &inodes,
        "-o",
        "journal",
        "--journal-socket",
        path.text(),
    ];
    let json = Tool::start("tcpstates", &["--netns", &inodes, "--json"])?;
    let logged = Tool::start("tcpstates", &args)?;
    sessions(&net)?;
    let (json, logged) = (json.stop()?, logged.stop()?);
    let rows = json.rows()?.len() as u64;
    ensure!(rows >= SESSIONS * 8, "{rows}");
    // What is in the socket's queue is not lost.
    socket.set_nonblocking(true)?;
    let mut taken = 0;
    while socket.recv(&mut [0; 1 << 16]).is_ok() {
        taken += 1;
    }
    let said = logged.stderr.lines().last().unwrap_or_default();
    let number = said
        .strip_prefix("tcpstates: ")
        .and_then(|said| said.split(' ').next());
    let left: u64 = number
        .context("a number")?
        .parse()
        .context(said.to_owned())?;
    ensure!(
        said.ends_with("rows were not written: the systemd journal did not accept them")
            && logged.status.code() == Some(1),
        "{logged:?}"
    );
    // Each run counts what the kernel skipped; both may differ by that.
    let told = taken + left;
    ensure!(
        told.abs_diff(rows) <= skipped(&json)?,
        "{taken} and {left} of {rows}"
    );
    Ok(())
}

fn skipped(run: &tool::Run) -> Result<u64> {
    let records = run.records()?;
    let last = records.last().context("a summary")?;
    last["skipped"].as_u64().context("skipped")
}

/// A journal that ends, and another in its place: what was between is counted.
fn gone() -> Result<()> {
    let path = Scratch::path("gone");
    let socket = UnixDatagram::bind(&*path)?;
    let net = Net::new()?;
    let inodes = net.inodes();
    let args = [
        "--netns",
        &inodes,
        "-o",
        "journal",
        "--journal-socket",
        path.text(),
    ];
    let logged = Tool::start("tcpconnect", &args)?;
    drop(socket);
    fs::remove_file(&*path)?;
    traffic(&net)?;
    wait::until("the loss", PATIENCE, || {
        Ok(logged.says("the journal did not accept").then_some(()))
    })?;
    let socket = UnixDatagram::bind(&*path)?;
    // As journald's own: the command is nobody by now.
    fs::set_permissions(&*path, fs::Permissions::from_mode(0o666))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut c = net.a.agent()?;
    let fd = c.open("10.9.0.2:9")?;
    let _ = c.run(&format!("connect {fd} 10.9.0.2:9"));
    let mut buffer = vec![0; 1 << 16];
    let mut next = || -> Result<_> {
        let n = socket.recv(&mut buffer)?;
        Ok(fields(&buffer[..n]))
    };
    // Rows of before may still have been on their way.
    while next()?.get("TCPTOOLS_RPORT").is_none_or(|port| port != "9") {}
    let run = logged.stop()?;
    ensure!(run.status.code() == Some(1), "{run:?}");
    ensure!(
        run.stderr
            .contains("rows were not written: the systemd journal"),
        "{run:?}"
    );
    let summary = next()?;
    ensure!(
        summary["TCPTOOLS_EVENT"] == "summary" && summary["PRIORITY"] == "4",
        "{summary:?}"
    );
    Ok(())
}

fn none() -> Result<()> {
    let path = Scratch::path("no-journal");
    for name in ["tcplife", "sockbuf"] {
        let args = ["-o", "journal", "--journal-socket", path.text(), "-d", "1"];
        let run = tool::run(name, &args)?;
        let said = format!("{name}: cannot connect to the systemd journal at");
        ensure!(
            run.status.code() == Some(1) && run.lines.is_empty(),
            "{run:?}"
        );
        ensure!(
            run.stderr.starts_with(&said) && run.stderr.lines().count() == 1,
            "{run:?}"
        );
    }
    Ok(())
}
