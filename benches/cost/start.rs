// SPDX-License-Identifier: MIT OR Apache-2.0
//! What starting takes: until every probe is attached, the memory then, the size of the binary.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tcptools::suite::TOOLS;

use crate::progress;
use crate::report::{median, number};
use crate::subject::{own_path, scratch};

/// What a start should take at the most: ms, KB of memory, KB of binary.
const GOALS: [f64; 3] = [30.0, 8192.0, 1536.0];

/// One start.
struct Start {
    ready_ms: f64,
    cpu_ms: f64,
    rss_kb: f64,
}

/// Prints a row per command, started with `--no-seed`, interleaved.
pub fn measure(rounds: usize, only: Option<&str>) -> Result<()> {
    let tools = TOOLS.iter().map(|tool| tool.name);
    let tools: Vec<_> = tools
        .filter(|name| only.is_none_or(|only| name.contains(only)))
        .collect();
    let mut starts: Vec<Vec<Start>> = tools.iter().map(|_| vec![]).collect();
    for round in 1..=rounds {
        for (tool, starts) in tools.iter().zip(&mut starts) {
            progress(&format!("start, round {round}: {tool}"));
            starts.push(start(&own_path(tool)).with_context(|| (*tool).to_owned())?);
        }
    }
    progress("");
    println!("## start, with --no-seed (goals: 30 ms, 8 MB, 1.5 MB)\n");
    println!(
        "| command | ready ms | least | CPU ms until ready | RSS KB | binary KB | goals missed |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (tool, starts) in tools.iter().zip(&starts) {
        let of = |value: fn(&Start) -> f64| median(starts.iter().map(value));
        let least = starts.iter().map(|s| s.ready_ms).fold(f64::NAN, f64::min);
        let (ready, rss) = (of(|s| s.ready_ms), of(|s| s.rss_kb));
        let binary = fs::metadata(own_path(tool))?.len() as f64 / 1024.0;
        let named = ["ready", "RSS", "binary"];
        let missed: Vec<_> = [ready, rss, binary]
            .iter()
            .zip(GOALS)
            .zip(named)
            .filter_map(|((value, goal), name)| (*value > goal).then_some(name))
            .collect();
        let cells = [ready, least, of(|s| s.cpu_ms), rss, binary].map(number);
        println!("| {tool} | {} | {} |", cells.join(" | "), missed.join(", "));
    }
    Ok(())
}

fn start(path: &Path) -> Result<Start> {
    let file = scratch("ready");
    let _ = fs::remove_file(&file);
    let begun = Instant::now();
    let mut child = Command::new(path)
        .args(["--no-seed", "--ready-file"])
        .arg(&file)
        .stdout(File::create("/dev/null")?)
        .stderr(Stdio::inherit())
        .spawn()?;
    let result = await_ready(&mut child, &file, begun);
    let _ = child.kill();
    child.wait()?;
    let _ = fs::remove_file(&file);
    result
}

fn await_ready(child: &mut Child, file: &Path, begun: Instant) -> Result<Start> {
    while !file.exists() {
        if child.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(30) {
            bail!("does not become ready");
        }
        sleep(Duration::from_micros(200));
    }
    let ready_ms = begun.elapsed().as_secs_f64() * 1e3;
    let proc = format!("/proc/{}", child.id());
    let spent = fs::read_to_string(format!("{proc}/schedstat"))?;
    let cpu_ns: f64 = spent.split(' ').next().context("schedstat")?.parse()?;
    // It may still be on its way to the first wait.
    sleep(Duration::from_millis(30));
    let status = fs::read_to_string(format!("{proc}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.context("VmRSS")?.trim().trim_end_matches(" kB");
    Ok(Start {
        ready_ms,
        cpu_ms: cpu_ns / 1e6,
        rss_kb: rss.parse()?,
    })
}
