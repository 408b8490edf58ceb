// SPDX-License-Identifier: MIT OR Apache-2.0
//! Very many connections that are open at once: some thousands; `TCPTOOLS_CROWD` says how many sockets instead.

use std::{env, time::Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{HOSTS, Pair, owners_are_right, watch};
use crate::{
    missing,
    net::Net,
    tool::{Run, Tool},
    trial, unseen,
};

pub fn tests() -> Vec<Trial> {
    vec![trial("table::crowd", crowd)]
}

/// Sockets: both ends.
const SOCKETS: u64 = 6000;

/// How many sockets a crowd is to have: so many, or as the environment says.
pub fn wanted(usual: u64) -> Result<u64> {
    let wanted = env::var("TCPTOOLS_CROWD").ok();
    Ok(wanted.map_or(Ok(usual), |n| n.parse())?)
}

/// Connections to one port: a process has not many more descriptors, nor has a client local ports.
const PER_PORT: u64 = 15_000;

/// So many connections, open until the end of the test.
pub struct Crowd {
    pairs: Vec<Pair>,
    sockets: u64,
}

impl Crowd {
    /// To ports of both families.
    pub fn new(net: &Net, wanted: u64) -> Result<Self> {
        let connections = wanted / 2;
        let ports = connections.div_ceil(PER_PORT).max(2);
        let each = connections / ports;
        let mut pairs = Vec::new();
        for number in 0..ports {
            let mut pair = Pair::new(net, number, HOSTS[number as usize % HOSTS.len()])?;
            pair.s.begin(&format!("welcome {each} {}", pair.listener))?;
            pair.c.run(&format!("crowd {each} {}", pair.at))?;
            let done = pair.s.finish()?;
            ensure!(done.is_ok(), "{done:?}");
            pairs.push(pair);
        }
        let sockets = each * ports * 2;
        Ok(Self { pairs, sockets })
    }

    fn disperse(&mut self) -> Result<()> {
        for pair in &mut self.pairs {
            pair.c.run("disperse")?;
            pair.s.run("disperse")?;
        }
        Ok(())
    }
}

fn summary(run: &Run) -> Result<Value> {
    run.records()?.pop().context("no summary")
}

/// So many, but for what the kernel has shown to no program meanwhile.
fn is_count(found: u64, wanted: u64, unseen: u64) -> bool {
    (wanted.saturating_sub(unseen)..=wanted).contains(&found)
}

/// Rows of all sockets, each of its process.
fn is_complete(rows: &[Value], event: &str, crowd: &Crowd, unseen: u64) -> Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row["event"] == event)
        .cloned()
        .collect();
    let (found, wanted) = (rows.len() as u64, crowd.sockets);
    ensure!(
        is_count(found, wanted, unseen),
        "{found} {event} rows of {wanted} sockets, {unseen} events unseen"
    );
    owners_are_right(&rows, &crowd.pairs, unseen > 0)
}

/// What finds no slot is as many sockets as there are more than slots. Whatever the size, none is missing.
fn crowd() -> Result<()> {
    missing::needs_storage()?;
    let net = Net::new()?;
    let before = unseen::count();
    let unseen = || unseen::count() - before;
    let tool = |args: &[&str]| {
        let common = ["--active", "--stats", "--buffer", "16384"];
        watch(&net, "tcplife", &[&common, args].concat())
    };
    // Others' sockets would take slots too.
    let small = tool(&["--sockets", "16", "--no-scan"])?;
    let usual = tool(&["--no-scan"])?;
    let started = Instant::now();
    let mut crowd = Crowd::new(&net, wanted(SOCKETS)?)?;
    let opened = started.elapsed();
    let started = Instant::now();
    let late = tool(&[])?;
    let scanned = started.elapsed();
    let started = Instant::now();
    let looks = late.stop()?;
    let looked = started.elapsed();
    is_complete(&looks.rows()?, "active", &crowd, 0).context("that are there at the start")?;
    crowd.disperse()?;
    net.quiet()?;
    let [small, usual] = [small, usual].map(Tool::stop);
    let (small, usual) = (small?, usual?);
    for (run, table) in [(&small, "a small table"), (&usual, "the usual table")] {
        let rows = run.rows()?;
        is_complete(&rows, "session", &crowd, unseen()).context(table)?;
        // Else the state of a socket that lives was dropped.
        let late = rows.iter().filter(|row| row["partial"] == true).count() as u64;
        ensure!(
            late <= unseen(),
            "{table}: {late} sessions have lost their beginning"
        );
    }
    let (small, usual, looks) = (summary(&small)?, summary(&usual)?, summary(&looks)?);
    for summary in [&small, &usual, &looks] {
        let figure = |key: &str| summary[key].to_string();
        println!(
            "crowd of {}: table of {}, {} bytes, {} missed, {} ns per event",
            crowd.sockets,
            figure("table_sockets"),
            figure("table_bytes"),
            figure("table_missed"),
            figure("kernel_ns_avg"),
        );
    }
    println!("crowd: opened in {opened:?}, ready in {scanned:?}, shown in {looked:?}");
    missing::needs_table(&small)?;
    // Listeners have a state, too, and all slots are taken.
    let states = crowd.sockets + crowd.pairs.len() as u64;
    ensure!(small["table_missed"] == states - 16, "of {states}: {small}");
    let room = looks["table_sockets"].as_u64();
    ensure!(room >= Some(crowd.sockets * 3 / 2), "{looks}");
    Ok(())
}
