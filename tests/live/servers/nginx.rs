// SPDX-License-Identifier: MIT OR Apache-2.0
//! nginx: its master listens, two workers accept from the same listeners. The clients are wrk's, and some that
//! leave in the middle of an answer, so that a reset ends their sessions before the worker does.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{
    http::{self, CONNECTIONS, PORT},
    program::{find, finish},
    stage::Stage,
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
    let stage = Stage::new()?;
    let watch = stage.watch()?;
    let nginx = http::start_nginx(&stage)?;
    let (master, workers) = (nginx.pid(), nginx.children(2)?);
    let [v4, v6] = stage.servers();
    let [wrk4, wrk6, resets4, resets6] = finish([
        http::start_wrk(&stage, "wrk4", &v4, PORT)?,
        http::start_wrk(&stage, "wrk6", &v6, PORT)?,
        http::start_resets(&stage, "resets4", &v4, PORT)?,
        http::start_resets(&stage, "resets6", &v6, PORT)?,
    ])?;
    stage.net.quiet()?;
    nginx.stop()?;

    let seen = stage.stop(watch, &[PORT])?;
    let log = http::access_log(&stage)?;
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
