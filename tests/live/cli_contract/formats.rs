// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every format shares: CSV is JSON in cells, and a name that a row shows is the name that a filter takes.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    missing,
    net::Net,
    tool::{Run, Tool},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("formats::csv_is_json", csv_is_json),
        trial("formats::counts", counts),
        trial("formats::histograms", histograms),
        trial("formats::names_round_trip", names_round_trip),
    ]
}

/// Names that would be something else in a list, a cell, or on a terminal.
const NAMES: [&[u8]; 16] = [
    b"a,b",
    b"!neg",
    b" blanks ",
    b"with space",
    b"tab\there",
    b"esc\x1b[31m",
    b"\xff\xfe\xfd",
    b"123456789012345",
    b"\"quo'te",
    b"new\nline",
    "\u{202e}evil\u{2028}".as_bytes(),
    b"back\\slash",
    b"abcdefghijklmn\xc3",
    b"=1+1",
    b"-",
    "服务\u{fffd}".as_bytes(),
];

/// Both ends' namespaces, and a session from the client of each name.
fn sessions(net: &Net, names: &[&[u8]]) -> Result<()> {
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen("10.9.0.2:0")?;
    for name in names {
        let hex = name.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        c.run(&format!("comm {hex}"))?;
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        c.run(&format!("close {fd}"))?;
        s.run(&format!("eof {accepted}"))?;
        s.run(&format!("close {accepted}"))?;
    }
    net.quiet()
}

/// The records of a CSV run (RFC 4180), the header first. No cell has a line break in it.
fn cells(run: &Run) -> Vec<Vec<String>> {
    let record = |line: &String| {
        let (mut cells, mut quoted) = (vec![String::new()], false);
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => {
                    cells.last_mut().expect("one").push('"')
                }
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(String::new()),
                _ => cells.last_mut().expect("one").push(c),
            }
        }
        cells
    };
    run.lines.iter().map(record).collect()
}

/// A value of JSON as a cell.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same events in both formats: the same keys in the same order, the same values.
fn csv_is_json() -> Result<()> {
    for name in ["tcplife", "tcpstates", "tcpconnect", "tcpaccept", "tcpinfo"] {
        let net = Net::new()?;
        let args = ["--netns", &net.inodes()];
        let json = Tool::start(name, &[&args[..], &["--json"]].concat())?;
        let csv = Tool::start(name, &[&args[..], &["--csv"]].concat())?;
        sessions(&net, &[b"a,\"b\"", b"=1+1"])?;
        let (json, csv) = (json.stop()?, csv.stop()?);
        let (rows, cells) = (json.rows()?, cells(&csv));
        let (header, records) = cells.split_first().context("no header")?;
        let line = json.lines.first().context("no row")?;
        let keys = header.iter().map(|key| line.find(&format!("\"{key}\":")));
        let places = keys
            .collect::<Option<Vec<_>>>()
            .context(format!("{header:?}: {line}"))?;
        ensure!(places.is_sorted(), "{name}: {header:?}: {line}");
        ensure!(
            rows.len() == records.len() && rows.len() >= 2,
            "{name}: {rows:#?} {cells:#?}"
        );
        for (row, record) in rows.iter().zip(records) {
            let object = row.as_object().context("a row is an object")?;
            ensure!(
                object.len() == header.len() && record.len() == header.len(),
                "{record:?} {row}"
            );
            for (key, shown) in header.iter().zip(record) {
                // Each command read the clock, or came to the end of an interval, by itself.
                let own = [
                    "ts",
                    "latency_us",
                    "in_state_us",
                    "boot_ns",
                    "duration_us",
                    "closed_us",
                ];
                // The first of the two may have come before a process asked for the cookie.
                let asked = key == "cookie" && !missing::cookies();
                let timed = asked || own.contains(&key.as_str()) || key.ends_with("_us");
                ensure!(
                    timed || *shown == cell(&row[key]),
                    "{name} {key}: {shown} for {}",
                    row[key]
                );
                let number = |text: &str| text.is_empty() || text.parse::<u64>().is_ok();
                ensure!(
                    !key.ends_with("_us") || number(shown),
                    "{name} {key}: {shown}"
                );
            }
        }
    }
    Ok(())
}

fn counts() -> Result<()> {
    let net = Net::new()?;
    let inodes = net.inodes();
    let tool = Tool::start("tcpconnect", &["-c", "--csv", "--netns", &inodes])?;
    sessions(&net, &[b"x", b"y"])?;
    let cells = cells(&tool.stop()?);
    let (header, records) = cells.split_first().context("no header")?;
    let at = |key: &str| header.iter().position(|k| k == key).context(key.to_owned());
    ensure!(
        records.len() == 1 && header[..3] == ["tool", "event", "ts"],
        "{cells:?}"
    );
    ensure!(
        records[0][at("count")?] == "2" && records[0][at("raddr")?] == "10.9.0.2",
        "{cells:?}"
    );
    ensure!(
        records[0][1] == "count" && records[0][at("pid")?].is_empty(),
        "{cells:?}"
    );
    Ok(())
}

/// A line per bucket, with the bucket's keys, and the time of day if that is asked for.
fn histograms() -> Result<()> {
    let net = Net::new()?;
    let inodes = net.inodes();
    let tool = Tool::start(
        "tcpconnect",
        &["--hist=raddr", "--csv", "-T", "--netns", &inodes],
    )?;
    sessions(&net, &[b"x", b"y"])?;
    let cells = cells(&tool.stop()?);
    let (header, records) = cells.split_first().context("no header")?;
    ensure!(
        header.join(",")
            == "tool,event,ts,time,boot_ns,interval_us,by,raddr,lo_us,hi_us,count,p50_us,p90_us,p99_us,max_us",
        "{header:?}"
    );
    let counts = records
        .iter()
        .filter_map(|r| r.get(10)?.parse::<u64>().ok());
    let count: u64 = counts.sum();
    ensure!(
        count == 2 && records.iter().all(|r| r.len() == header.len()),
        "{cells:?}"
    );
    ensure!(
        records
            .iter()
            .all(|r| r[1] == "histogram" && r[6] == "raddr" && r[7] == "10.9.0.2"),
        "{cells:?}"
    );
    Ok(())
}

/// What a row shows, in any format, given back to `--comm`, finds that process and no other.
fn names_round_trip() -> Result<()> {
    let net = Net::new()?;
    let args = ["--netns", &net.a.inode.to_string()];
    let start = |more: &[&str]| Tool::start("tcplife", &[&args, more].concat());
    let (json, csv, wide) = (start(&["--json"])?, start(&["--csv"])?, start(&["-w"])?);
    sessions(&net, &NAMES)?;
    let names: Vec<String> = json
        .stop()?
        .rows()?
        .iter()
        .map(|row| cell(&row["comm"]))
        .collect();
    let csv = cells(&csv.stop()?);
    let comm = csv[0]
        .iter()
        .position(|key| key == "comm")
        .context("no comm")?;
    ensure!(names.len() == NAMES.len(), "{names:?}");
    ensure!(
        csv[1..].iter().map(|record| &record[comm]).eq(&names),
        "{csv:?}"
    );
    let wide = wide.stop()?.lines;
    ensure!(
        names
            .iter()
            .zip(&wide[1..])
            .all(|(name, line)| line.contains(name)),
        "{wide:?}"
    );
    let formula = |name: &String| name.starts_with(['=', '+', '-', '@']);
    ensure!(!names.iter().any(formula), "{names:?}");

    let (all, none) = (names.join(","), format!("!{}", names.join(",")));
    let (first, rest) = (
        start(&["--json", "--comm", &names[0]])?,
        start(&["--json", "--comm", &all])?,
    );
    let others = start(&["--json", "--comm", &none])?;
    sessions(&net, &NAMES)?;
    let found = |tool: Tool| -> Result<Vec<String>> {
        Ok(tool
            .stop()?
            .rows()?
            .iter()
            .map(|row| cell(&row["comm"]))
            .collect())
    };
    ensure!(found(first)? == names[..1]);
    let found_all = found(rest)?;
    ensure!(found_all == names, "{found_all:?}");
    ensure!(found(others)?.is_empty());
    Ok(())
}
