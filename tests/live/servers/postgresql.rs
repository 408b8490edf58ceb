// SPDX-License-Identifier: MIT OR Apache-2.0
//! PostgreSQL: its postmaster listens and accepts, and forks a backend for each connection, of which pgbench makes a new
//! one for each transaction.

use std::{fs, os::unix::fs::chown, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use libtest_mimic::Trial;

use super::{
    fixture::Fixture,
    program::{NOBODY, Program, find, finish, read},
    witness::{LEAST, Log, Logged, Server},
};
use crate::trial;

const PORT: u64 = 5432;

/// Connections at the same time of each pgbench, and transactions of each of these.
const CLIENTS: usize = 4;
const TRANSACTIONS: usize = 25;

pub fn test() -> Trial {
    trial("servers::postgresql", postgresql)
}

fn binary(name: &str) -> Result<PathBuf> {
    find("postgresql", name)
}

fn postgresql() -> Result<()> {
    binary("pgbench")?;
    let fixture = Fixture::new()?;
    make_cluster(&fixture)?;
    let watch = fixture.watch()?;
    let server = start(&fixture)?;
    let [v4, v6] = fixture.servers().map(|host| start_pgbench(&fixture, &host));
    let clients = finish([v4?, v6?])?;
    fixture.net.quiet()?;
    let postmaster = server.pid();
    let text = server.stop()?;

    let seen = fixture.stop(watch, &[PORT])?;
    let log = log(&text)?;
    let backends = log.values().flatten().map(|logged| logged.pid).collect();
    seen.served(&Server {
        comm: "postgres",
        port: PORT,
        listener: postmaster,
        processes: backends,
        forks: true,
        log,
        most_unlogged: 0,
    })?;
    seen.opened(PORT, Some(4), &[(clients[0], "pgbench", LEAST)])?;
    seen.opened(PORT, Some(6), &[(clients[1], "pgbench", LEAST)])
}

/// Of a user who is not root, as the server wants it.
fn make_cluster(fixture: &Fixture) -> Result<()> {
    let mut initdb = Command::new(binary("initdb")?);
    initdb
        .args(["--no-sync", "--username=postgres", "--locale=C", "-D"])
        .arg(fixture.file("data"));
    chown(&*fixture.folder, Some(NOBODY), Some(NOBODY))?;
    let initdb = Program::start_as(
        &fixture.net.b,
        NOBODY,
        &mut initdb,
        fixture.file("initdb.out"),
    )?;
    initdb.finish()?;
    let access = "host all all all trust\n";
    Ok(fs::write(fixture.file("data/pg_hba.conf"), access)?)
}

fn start(fixture: &Fixture) -> Result<Program> {
    let mut postgres = Command::new(binary("postgres")?);
    let folder = fixture.folder.text();
    let addresses = fixture.servers().join(",");
    postgres.arg("-D").arg(fixture.file("data"));
    for setting in [
        &format!("listen_addresses={addresses}"),
        &format!("port={PORT}"),
        &format!("unix_socket_directories={folder}"),
        "log_connections=on",
        "log_line_prefix=%p ",
        "autovacuum=off",
        "fsync=off",
        "dynamic_shared_memory_type=mmap",
        "shared_buffers=8MB",
    ] {
        postgres.arg("-c").arg(setting);
    }
    let output = fixture.file("postgres.out");
    let mut server = Program::start_as(&fixture.net.b, NOBODY, &mut postgres, output.clone())?;
    server.ready("PostgreSQL", || {
        Ok(read(&output)?.contains("ready to accept connections"))
    })?;
    Ok(server)
}

fn start_pgbench(fixture: &Fixture, host: &str) -> Result<Program> {
    let script = fixture.file("select.sql");
    fs::write(&script, "SELECT 1;\n")?;
    let mut pgbench = Command::new(binary("pgbench")?);
    pgbench
        .args([
            "--connect",
            "--no-vacuum",
            "--username=postgres",
            "--jobs=2",
        ])
        .arg(format!("--client={CLIENTS}"))
        .arg(format!("--transactions={TRANSACTIONS}"))
        .arg(format!("--host={host}"))
        .arg(format!("--port={PORT}"))
        .arg("--file")
        .arg(script)
        .arg("postgres");
    let output = fixture.file(&format!("pgbench-{host}"));
    Program::start(&fixture.net.a, &mut pgbench, output)
}

/// A line per connection, written by its backend.
fn log(text: &str) -> Result<Log> {
    let mut log = Log::new();
    for line in text.lines() {
        let Some((prefix, peer)) = line.split_once("connection received: host=") else {
            continue;
        };
        let (addr, port) = peer.split_once(" port=").context(line.to_owned())?;
        let pid = prefix.split(' ').next().unwrap_or_default().parse()?;
        let peer = (addr.to_owned(), port.trim().parse()?);
        log.entry(peer)
            .or_default()
            .push_back(Logged { pid, bytes: None });
    }
    Ok(log)
}
