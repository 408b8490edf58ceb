// SPDX-License-Identifier: MIT OR Apache-2.0
//! Redis: one process with threads that serves all, and redis-benchmark, which connects anew for each request.

use std::process::Command;

use anyhow::{Context, Result};
use libtest_mimic::Trial;

use super::{
    fixture::Fixture,
    program::{Program, find, finish},
    witness::{LEAST, Log, Logged, Server},
};
use crate::trial;

const PORT: u64 = 6379;

/// Connections at the same time of each redis-benchmark.
const CLIENTS: usize = 8;
const REQUESTS: usize = 300;

pub fn test() -> Trial {
    trial("servers::redis", redis)
}

fn redis() -> Result<()> {
    find("redis-server", "redis-server")?;
    find("redis-tools", "redis-benchmark")?;
    let fixture = Fixture::new()?;
    let watch = fixture.watch()?;
    let server = start(&fixture)?;
    let [v4, v6] = fixture
        .servers()
        .map(|host| start_benchmark(&fixture, &host));
    let clients = finish([v4?, v6?])?;
    fixture.net.quiet()?;
    let pid = server.pid();
    let text = server.stop()?;

    let seen = fixture.stop(watch, &[PORT])?;
    seen.served(&Server {
        comm: "redis-server",
        port: PORT,
        listener: pid,
        processes: vec![pid],
        forks: false,
        log: log(&text)?,
        most_unlogged: 0,
    })?;
    seen.opened(PORT, Some(4), &[(clients[0], "redis-benchmark", LEAST)])?;
    seen.opened(PORT, Some(6), &[(clients[1], "redis-benchmark", LEAST)])
}

fn start(fixture: &Fixture) -> Result<Program> {
    let mut redis = Command::new(find("redis-server", "redis-server")?);
    redis
        .args(["--port", &PORT.to_string(), "--bind"])
        .args(fixture.servers())
        .args([
            "--protected-mode",
            "no",
            "--save",
            "",
            "--loglevel",
            "verbose",
            "--dir",
        ])
        .arg(&*fixture.folder);
    let mut redis = Program::start(&fixture.net.b, &mut redis, fixture.file("redis.out"))?;
    redis.ready("Redis", || fixture.listens(PORT))?;
    Ok(redis)
}

fn start_benchmark(fixture: &Fixture, host: &str) -> Result<Program> {
    let mut benchmark = Command::new(find("redis-tools", "redis-benchmark")?);
    benchmark
        .args([
            "-q", "-k", "0", "-t", "set,get", "-d", "1000", "-h", host, "-p",
        ])
        .arg(PORT.to_string())
        .arg("-c")
        .arg(CLIENTS.to_string())
        .arg("-n")
        .arg(REQUESTS.to_string());
    Program::start(
        &fixture.net.a,
        &mut benchmark,
        fixture.file(&format!("benchmark-{host}")),
    )
}

/// `PID:M DATE - Accepted ADDRESS:PORT`.
fn log(text: &str) -> Result<Log> {
    let mut log = Log::new();
    for line in text.lines() {
        let Some((prefix, peer)) = line.split_once(" Accepted ") else {
            continue;
        };
        let (addr, port) = peer.rsplit_once(':').context(line.to_owned())?;
        let pid = prefix.split(':').next().unwrap_or_default().parse()?;
        let peer = (addr.to_owned(), port.trim().parse()?);
        log.entry(peer)
            .or_default()
            .push_back(Logged { pid, bytes: None });
    }
    Ok(log)
}
