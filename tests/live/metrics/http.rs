// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that are wrong, slow, or very many.

use std::{io::Write, time::Instant};

use anyhow::{Context, Result, ensure};

use super::scene::{ADDRESS, Metrics, SOON, answer};
use crate::{
    missing,
    net::Netns,
    wait::{self, PATIENCE},
};

fn metrics() -> Result<(Netns, Metrics)> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let metrics = Metrics::start(&ns.inode.to_string(), &[])?;
    Ok((ns, metrics))
}

fn says(metrics: &Metrics, text: &str) -> Result<()> {
    wait::until(text, PATIENCE, || Ok(metrics.tool.says(text).then_some(())))
}

/// Each gets an answer, and the next one is served.
pub fn garbage() -> Result<()> {
    let (_ns, metrics) = metrics()?;
    says(&metrics, &format!("http://{ADDRESS}/metrics"))?;
    let long = format!(
        "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    for (request, status) in [
        ("\u{0}\u{1}\u{2}\r\n\r\n", "400 Bad Request"),
        ("GET\r\n\r\n", "400 Bad Request"),
        ("GET /secret HTTP/1.1\r\n\r\n", "404 Not Found"),
        (
            "POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "405 Method Not Allowed",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "505 HTTP Version Not Supported",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "200 OK"),
        ("HEAD /metrics HTTP/1.0\r\n\r\n", "200 OK"),
    ] {
        let answer = metrics.ask(request)?;
        ensure!(answer.status == status, "{request:?}: {answer:?}");
        ensure!(
            answer.body.is_empty() == request.starts_with("HEAD"),
            "{answer:?}"
        );
    }
    // What it does not read may cost the client the answer.
    let mut stream = metrics.open()?;
    let _ = stream.write_all(long.as_bytes());
    if let Ok(answer) = answer(stream) {
        ensure!(answer.status.starts_with("431"), "{answer:?}");
    }
    let openmetrics = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n";
    let answer = metrics.ask(openmetrics)?;
    ensure!(
        answer
            .head
            .contains("application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    ensure!(answer.body.ends_with("# EOF\n"));
    let lines = answer
        .body
        .lines()
        .filter(|line| line.starts_with("# UNIT"));
    ensure!(lines.count() > 5);
    let page = metrics.scrape()?;
    ensure!(page.sum("build_info", &[]) == 1, "{page:?}");
    let run = metrics.tool.stop()?;
    ensure!(run.status.success() && run.lines.is_empty(), "{run:?}");
    Ok(())
}

/// Those who say nothing, or do not end, keep nobody out.
pub fn slow() -> Result<()> {
    let (_ns, metrics) = metrics()?;
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = metrics.open()?;
        if n % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ")?;
        }
        held.push(stream);
        if n % 50 == 49 {
            let asked = Instant::now();
            metrics.scrape()?;
            ensure!(asked.elapsed() < SOON, "after {n}: {:?}", asked.elapsed());
        }
    }
    let fds = format!("/proc/{}/fd", metrics.tool.child.id());
    let count = std::fs::read_dir(fds).context("its descriptors")?.count();
    ensure!(count < 200, "{count} descriptors");
    // One that takes its answer late.
    let mut late = metrics.open()?;
    late.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
    metrics.scrape()?;
    ensure!(answer(late)?.status == "200 OK");
    Ok(())
}

/// Very many scrapes, some at once: memory stays, and each is whole.
pub fn many() -> Result<()> {
    let (_ns, metrics) = metrics()?;
    let mut before = 0;
    for round in 0..100 {
        let mut asked = Vec::new();
        for _ in 0..20 {
            let mut stream = metrics.open()?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
            asked.push(stream);
        }
        for stream in asked {
            let answer = answer(stream)?;
            let length = format!("Content-Length: {}\r\n", answer.body.len());
            ensure!(answer.head.contains(&length), "{}", answer.head);
        }
        if round == 20 {
            before = metrics.memory()?;
        }
    }
    let after = metrics.memory()?;
    ensure!(after <= before + 1024, "{before} KiB, then {after} KiB");
    Ok(())
}

/// Over IPv6.
pub fn v6() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let at = "[::1]:9999";
    let metrics = Metrics::start_at(at.parse()?, &ns.inode.to_string(), &["--listen", at])?;
    says(&metrics, "http://[::1]:9999/metrics")?;
    metrics.scrape().map(drop)
}
