// SPDX-License-Identifier: MIT OR Apache-2.0
//! HAProxy before nginx: sessions passed through as they come, over IPv4, and HTTP requests over connections that are
//! kept and shared, over IPv6. Both servers are there before the commands start.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{
    fixture::Fixture,
    http::{self, CONNECTIONS, PORT},
    program::{Program, find, finish},
    witness::{LEAST, Log, Logged, Server},
};
use crate::trial;

const TCP: u64 = 8081;
const HTTP: u64 = 8082;

pub fn test() -> Trial {
    trial("servers::haproxy", haproxy)
}

fn haproxy() -> Result<()> {
    for package in ["haproxy", "nginx", "wrk"] {
        find(package, package)?;
    }
    let fixture = Fixture::new()?;
    let nginx = http::start_nginx(&fixture)?;
    let haproxy = start(&fixture)?;
    let (workers, worker) = (nginx.children(2)?, haproxy.children(1)?[0]);
    let watch = fixture.watch()?;
    let [v4, v6] = fixture.servers();
    let clients = finish([
        http::start_wrk(&fixture, "wrk4", &v4, TCP)?,
        http::start_wrk(&fixture, "wrk6", &v6, HTTP)?,
    ])?;
    // What it has not read the end of yet when it is stopped is in no log.
    for port in [TCP, HTTP] {
        fixture.net.b.none_at(port)?;
    }
    let text = haproxy.stop()?;
    fixture.net.quiet()?;
    let master = nginx.pid();
    nginx.stop()?;

    let seen = fixture.stop(watch, &[TCP, HTTP, PORT])?;
    for (port, mode) in [(TCP, "tcp"), (HTTP, "http")] {
        let log = log(&text, mode)?;
        ensure!(log.values().flatten().all(|logged| logged.pid == worker));
        seen.served(&Server {
            comm: "haproxy",
            port,
            listener: worker,
            processes: vec![worker],
            forks: false,
            log,
            most_unlogged: CONNECTIONS + http::PROBES,
        })?;
    }
    seen.served(&Server {
        comm: "nginx",
        port: PORT,
        listener: master,
        processes: workers,
        forks: false,
        log: http::access_log(&fixture)?,
        most_unlogged: 2 * (CONNECTIONS + http::PROBES),
    })?;
    seen.opened(TCP, None, &[(clients[0], "wrk", LEAST)])?;
    seen.opened(HTTP, None, &[(clients[1], "wrk", LEAST)])?;
    seen.opened(PORT, None, &[(worker, "haproxy", LEAST)])
}

/// A master, and a worker that has the listeners. A line for which another thread holds the descriptor is dropped
/// (src/fd.c: fd_write_frag_line), so each thread has a descriptor of its own for its log.
fn start(fixture: &Fixture) -> Result<Program> {
    let [v4, v6] = fixture.servers();
    let config = format!(
        "global
    maxconn 500
    nbthread 2
defaults
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend tcp_in
    mode tcp
    log stdout format raw local0
    bind {v4}:{TCP} thread 1
    bind {v6}:{TCP} thread 1
    log-format \"tcp %pid %ci %cp %B %U\"
    default_backend tcp_out
backend tcp_out
    mode tcp
    server nginx {v4}:{PORT}
frontend http_in
    mode http
    log stderr format raw local0
    bind {v4}:{HTTP} thread 2
    bind {v6}:{HTTP} thread 2
    log-format \"http %pid %ci %cp %B %U\"
    default_backend http_out
backend http_out
    mode http
    http-reuse always
    server nginx {v6}:{PORT}
"
    );
    let file = fixture.file("haproxy.cfg");
    fs::write(&file, config)?;
    let mut haproxy = Command::new(find("haproxy", "haproxy")?);
    haproxy.arg("-W").arg("-db").arg("-f").arg(file);
    let mut haproxy = Program::start(&fixture.net.b, &mut haproxy, fixture.file("haproxy.out"))?;
    haproxy.ready("HAProxy", || {
        Ok(fixture.listens(TCP)? && fixture.listens(HTTP)?)
    })?;
    Ok(haproxy)
}

/// Lines of sessions, with their bytes, or of requests, whose connection need not end with them.
fn log(text: &str, mode: &str) -> Result<Log> {
    let mut log = Log::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [kind, pid, addr, port, sent, received] = words[..] else {
            continue; // of the program itself
        };
        if kind != mode {
            continue;
        }
        let connections = log.entry((addr.to_owned(), port.parse()?)).or_default();
        let pid = pid.parse()?;
        match kind {
            "tcp" => connections.push_back(Logged {
                pid,
                bytes: Some((sent.parse()?, received.parse()?)),
            }),
            _ if connections.is_empty() => connections.push_back(Logged { pid, bytes: None }),
            _ => {}
        }
    }
    Ok(log)
}
