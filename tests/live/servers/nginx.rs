// SPDX-License-Identifier: MIT OR Apache-2.0
//! nginx: its master listens, two workers accept from the same listeners. The clients are wrk's, and some that
//! leave in the middle of an answer, so that a reset ends their sessions before the worker does.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{
    fixture::Fixture,
    http::{self, CONNECTIONS, PORT},
    program::{find, finish},
    witness::{LEAST, Logged, Server},
};
use crate::trial;

pub fn test() -> Trial {
    trial("servers::nginx", nginx)
}

fn nginx() -> Result<()> {
    find("nginx", "nginx")?;
    find("wrk", "wrk")?;
    find("bash", "bash")?;
    let fixture = Fixture::new()?;
    let watch = fixture.watch()?;
    let nginx = http::start_nginx(&fixture)?;
    let (master, workers) = (nginx.pid(), nginx.children(2)?);
    let [v4, v6] = fixture.servers();
    let [wrk4, wrk6, resets4, resets6] = finish([
        http::start_wrk(&fixture, "wrk4", &v4, PORT)?,
        http::start_wrk(&fixture, "wrk6", &v6, PORT)?,
        http::start_resets(&fixture, "resets4", &v4, PORT)?,
        http::start_resets(&fixture, "resets6", &v6, PORT)?,
    ])?;
    fixture.net.quiet()?;
    nginx.stop()?;

    let seen = fixture.stop(watch, &[PORT])?;
    let log = http::access_log(&fixture)?;
    let known = |logged: &Logged| workers.contains(&logged.pid);
    ensure!(log.values().flatten().all(known));
    seen.served(&Server {
        comm: "nginx",
        port: PORT,
        listener: master,
        processes: workers,
        forks: false,
        log,
        most_unlogged: 2 * (CONNECTIONS + http::PROBES),
    })?;
    for (family, wrk, resets) in [(4, wrk4, resets4), (6, wrk6, resets6)] {
        let clients = [(wrk, "wrk", LEAST), (resets, "bash", http::RESETS)];
        seen.opened(PORT, Some(family), &clients)?;
    }
    Ok(())
}
