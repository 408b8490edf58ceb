// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms of round-trip times: the samples themselves, against delays that the test makes.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::scene::{HOSTS, Scene, Talk};
use crate::{net::Side, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpprobe::samples::late_reply", late),
        trial("tcpprobe::samples::existing", existing),
        trial("tcpprobe::samples::formats", formats),
    ]
}

/// Histograms of the client's sockets.
fn watch(scene: &Scene, args: &[&str]) -> Result<Tool> {
    let inode = scene.net.a.inode.to_string();
    Tool::start("tcpprobe", &[&["--hist", "--netns", &inode], args].concat())
}

/// So many bytes one by one, each acknowledged before the next.
fn bytes(scene: &mut Scene, talk: Talk, count: usize) -> Result<()> {
    for _ in 0..count {
        scene.c.run(&format!("send {} 1", talk.c))?;
        scene.s.run(&format!("recv {} 1", talk.s))?;
        scene.c.run(&format!("drained {}", talk.c))?;
    }
    Ok(())
}

/// A byte whose acknowledgement is held back; how long that took in microseconds, at least and at most. It may have been
/// sent again meanwhile: then the sample comes from timestamps, which are milliseconds.
fn held(scene: &mut Scene, talk: Talk, time: Duration) -> Result<(u64, u64)> {
    scene.net.hold(Side::B)?;
    let begun = Instant::now();
    scene.c.run(&format!("send {} 1", talk.c))?;
    let sent = Instant::now();
    sleep(time);
    let least = sent.elapsed();
    scene.net.release(Side::B)?;
    scene.c.run(&format!("drained {}", talk.c))?;
    let most = begun.elapsed();
    scene.s.run(&format!("recv {} 1", talk.s))?;
    let (least, most) = (least.as_micros() as u64, most.as_micros() as u64);
    Ok((least - 1000, most + 1000))
}

fn close(scene: &mut Scene, talk: Talk) -> Result<()> {
    scene.c.run(&format!("close {}", talk.c))?;
    scene.s.run(&format!("eof {}", talk.s))?;
    scene.s.run(&format!("close {}", talk.s))?;
    scene.net.quiet()
}

fn number(row: &Value, key: &str) -> Result<u64> {
    row[key].as_u64().with_context(|| format!("{key}: {row}"))
}

/// The smoothed value would show at most an eighth of it.
fn late() -> Result<()> {
    for host in HOSTS {
        let mut scene = Scene::new()?;
        let tool = watch(&scene, &["--json"])?;
        let talk = scene.connect(host)?;
        bytes(&mut scene, talk, 20)?;
        let (least, most) = held(&mut scene, talk, Duration::from_millis(250))?;
        close(&mut scene, talk)?;
        let rows = tool.stop()?.rows()?;
        ensure!(rows.len() == 1 && rows[0]["sample"] == "rtt", "{rows:?}");
        let row = &rows[0];
        // The handshake's, and one for each byte.
        ensure!(row["count"] == 22, "{host}: {row}");
        let max = number(row, "max_us")?;
        ensure!((least..=most).contains(&max), "{least} to {most}: {row}");
        ensure!(number(row, "p50_us")? < least, "{row}");
        ensure!(number(row, "p50_us")? <= number(row, "p90_us")?, "{row}");
        ensure!(number(row, "p99_us")?.abs_diff(max) * 16 <= max, "{row}");
        let last = row["buckets"].as_array().and_then(|all| all.last());
        let last = last.context("no bucket")?;
        let range = number(last, "lo_us")?..=number(last, "hi_us")?;
        ensure!(range.contains(&max) && last["count"] == 1, "{row}");
    }
    Ok(())
}

/// What a connection had measured before is no sample, and what it measures afterwards is.
fn existing() -> Result<()> {
    for host in &HOSTS[..2] {
        let mut scene = Scene::new()?;
        let talk = scene.connect(host)?;
        held(&mut scene, talk, Duration::from_millis(250))?;
        let tool = watch(&scene, &["--json"])?;
        bytes(&mut scene, talk, 7)?;
        close(&mut scene, talk)?;
        let rows = tool.stop()?.rows()?;
        ensure!(rows.len() == 1 && rows[0]["count"] == 7, "{rows:?}");
        ensure!(number(&rows[0], "max_us")? < 250_000, "{rows:?}");
    }
    Ok(())
}

/// The table begins with the first bucket that has any; CSV and JSON have the same numbers.
fn formats() -> Result<()> {
    let mut scene = Scene::new()?;
    let tools = [&["--json"][..], &["-s"], &[]].map(|args| watch(&scene, args));
    let talk = scene.connect(HOSTS[0])?;
    bytes(&mut scene, talk, 5)?;
    close(&mut scene, talk)?;
    let [json, csv, table] = tools.map(|tool| tool?.stop());
    let (json, csv, table) = (json?.rows()?, csv?.lines, table?.lines);
    let (row, first) = (&json[0], &json[0]["buckets"][0]);
    let header: Vec<_> = csv[0].split(',').collect();
    ensure!(csv.len() > 1, "{csv:?}");
    for name in ["p50_us", "p90_us", "p99_us", "max_us"] {
        let column = header.iter().position(|h| h.eq_ignore_ascii_case(name));
        let column = column.with_context(|| format!("no {name} in {header:?}"))?;
        let told = csv[1].split(',').nth(column).map(str::parse);
        ensure!(
            told == Some(Ok(number(row, name)?)),
            "{name}: {csv:?}, {row}"
        );
    }
    let bucket = format!("{} -> {}", number(first, "lo_us")?, number(first, "hi_us")?);
    ensure!(table[1].trim_start().starts_with(&bucket), "{table:#?}");
    let figures = format!(
        ", p50 {}, p90 {}, p99 {}, max {}",
        row["p50_us"], row["p90_us"], row["p99_us"], row["max_us"]
    );
    ensure!(
        table
            .iter()
            .any(|line| line.starts_with("6 values, ") && line.ends_with(&figures)),
        "{figures}: {table:#?}"
    );
    Ok(())
}
