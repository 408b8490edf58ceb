// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts and histograms: the kernel half's, and those of tracepoints' records, of the same traffic.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{scene::Scene, tcpretrans, tcpstates, trials};
use crate::missing;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("sums::connects", connects),
        trials("sums::latencies", latencies),
        trials("sums::retransmits", retransmits),
        trials("sums::round_trips", round_trips),
    ])
}

const SESSIONS: u64 = 3;

/// Sessions and refused opens, over every kind of address; returns how many there were.
fn opens(scene: &mut Scene) -> Result<u64> {
    for host in scene.hosts() {
        for _ in 0..SESSIONS {
            let session = scene.session(&host)?;
            scene.close(session)?;
        }
        tcpstates::refused(scene, &host)?;
    }
    scene.net.quiet()?;
    Ok(scene.net.a.counters()?["Tcp.ActiveOpens"])
}

fn sum(rows: &[Value]) -> u64 {
    rows.iter().filter_map(|row| row["count"].as_u64()).sum()
}

fn connects(mut scene: Scene) -> Result<()> {
    let runs = [&["-c"][..], &["-c", "-L"]];
    let watches: Result<Vec<_>> = runs
        .iter()
        .map(|args| scene.watch("tcpconnect", args))
        .collect();
    let opens = opens(&mut scene)?;
    for (both, by_port) in watches?.into_iter().zip([false, true]) {
        let rows = both.agree(&tcpstates::ends(), &["outcome", "count", "lport"])?;
        let told = rows.iter().all(|row| row["lport"].is_u64() == by_port);
        ensure!(told && sum(&rows) == opens, "{opens} opens: {rows:#?}");
    }
    Ok(())
}

/// Every open is timed twice, so that two of them may lie in neighbouring buckets.
fn latencies(mut scene: Scene) -> Result<()> {
    let runs = [&["--hist"][..], &["--hist=raddr"], &["--hist", "--failed"]];
    let watches: Result<Vec<_>> = runs
        .iter()
        .map(|args| scene.watch("tcpconnect", args))
        .collect();
    let opens = opens(&mut scene)?;
    for (both, args) in watches?.into_iter().zip(runs) {
        let (with_btf, without_btf) = (
            both.with_btf.stop()?.rows()?,
            both.without_btf.stop()?.rows()?,
        );
        let failed = args.contains(&"--failed");
        let sessions = SESSIONS * scene.hosts().len() as u64;
        let expected = if failed { opens - sessions } else { sessions };
        let of = |rows: &[Value]| -> Vec<_> {
            let count = |row: &Value| (row["raddr"].to_string(), row["count"].to_string());
            let mut counts: Vec<_> = rows.iter().map(count).collect();
            counts.sort();
            counts
        };
        ensure!(sum(&without_btf) == expected, "{args:?}: {without_btf:#?}");
        ensure!(
            of(&with_btf) == of(&without_btf),
            "{args:?}: {with_btf:#?}\n{without_btf:#?}"
        );
        let filled = |row: &Value| {
            let buckets = row["buckets"].as_array().context("buckets")?;
            Ok(sum(buckets) == row["count"])
        };
        let all: Result<Vec<bool>> = without_btf.iter().map(filled).collect();
        ensure!(all?.iter().all(|filled| *filled), "{without_btf:#?}");
    }
    Ok(())
}

/// A record does not have the number of segments: here it is always one.
fn retransmits(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpretrans", &["-c"])?;
    let again = tcpretrans::losses(&mut scene)?;
    let told = if missing::programs() {
        "segments"
    } else {
        "events"
    };
    for (run, what) in [(both.with_btf, told), (both.without_btf, "events")] {
        let rows = run.stop()?.rows()?;
        ensure!(sum(&rows) == again, "{again} sent again: {rows:#?}");
        let counted = rows.iter().all(|row| row["count_unit"] == what);
        ensure!(counted, "{what}: {rows:#?}");
    }
    Ok(())
}

/// Records have the smoothed one of every segment; the kernel half has the samples.
fn round_trips(mut scene: Scene) -> Result<()> {
    let keys = ["raddr", "laddr", "rport", "lport"];
    let mut runs = vec!["--hist".to_owned()];
    runs.extend(keys.map(|key| format!("--hist={key}")));
    let samples = scene.watch("tcpprobe", &[])?;
    let watches: Result<Vec<_>> = runs
        .iter()
        .map(|args| scene.watch("tcpprobe", &[args]))
        .collect();
    for host in scene.hosts() {
        let session = scene.session(&host)?;
        scene.exchange(session, 100_000)?;
        scene.close(session)?;
    }
    scene.net.quiet()?;
    let told = if missing::programs() { "rtt" } else { "srtt" };
    let samples = samples.without_btf.stop()?.rows()?;
    let mut sums = Vec::new();
    for (both, key) in watches?.into_iter().zip([&keys[..1], &keys].concat()) {
        let (with_btf, without_btf) = (
            both.with_btf.stop()?.rows()?,
            both.without_btf.stop()?.rows()?,
        );
        for (rows, sample) in [(&with_btf, told), (&without_btf, "srtt")] {
            let known = |row: &Value| row["sample"] == sample && row["max_us"].is_u64();
            ensure!(rows.iter().all(known), "{sample}: {rows:#?}");
        }
        for histogram in &without_btf {
            let all = histogram[key].is_null();
            let mine = |row: &&Value| all || row[key] == histogram[key];
            of_rows(histogram, samples.iter().filter(mine))?;
        }
        sums.push((sum(&with_btf), sum(&without_btf)));
    }
    ensure!(
        sums[0].0 > 10 && sums[0].1 > 20 && sums.iter().all(|sum| *sum == sums[0]),
        "{sums:?}"
    );
    Ok(())
}

/// As many values as rows, with the same sum and the same highest.
fn of_rows<'r>(histogram: &Value, rows: impl Iterator<Item = &'r Value>) -> Result<()> {
    let srtts: Vec<u64> = rows.filter_map(|row| row["srtt_us"].as_u64()).collect();
    ensure!(
        histogram["count"] == srtts.len()
            && histogram["sum_us"] == srtts.iter().sum::<u64>()
            && histogram["max_us"].as_u64() == srtts.iter().max().copied(),
        "{srtts:?}: {histogram}"
    );
    for bucket in histogram["buckets"].as_array().context("buckets")? {
        let bound = |key: &str| bucket[key].as_u64().with_context(|| key.to_owned());
        let range = bound("lo_us")?..=bound("hi_us")?;
        let inside = srtts.iter().filter(|srtt| range.contains(srtt)).count();
        ensure!(bucket["count"] == inside, "{bucket}: {inside}");
    }
    Ok(())
}
