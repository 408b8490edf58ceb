// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which sockets have a row, and whose they are.

use std::{collections::BTreeMap, net::TcpListener};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{HOSTS, Named, look, named, port, proc_states, ss, stages, stuck};
use crate::{
    missing,
    net::Netns,
    tcpstates::fixture::Fixture,
    tool,
    wait::{PATIENCE, until},
};

/// Every socket once: of each family, in each state, in two namespaces.
pub fn every_state() -> Result<()> {
    let mut fixture = Fixture::new()?;
    stages(&mut fixture)?;
    stuck(&mut fixture)?;
    for args in [&[][..], &["--no-scan"]] {
        let rows = look(&fixture, args)?;
        let mut told = Named::new();
        for ns in [&fixture.net.a, &fixture.net.b] {
            ss(ns, &mut told)?;
            let of = |row: &&Value| row["netns"] == ns.inode;
            let mut states = BTreeMap::<String, usize>::new();
            for row in rows.iter().filter(of) {
                let state = row["state"].as_str().context("a state")?;
                *states.entry(state.to_owned()).or_default() += 1;
            }
            let expected = proc_states(ns)?;
            ensure!(states == expected, "{states:?}\n/proc: {expected:?}");
        }
        let seen = named(&rows)?;
        ensure!(seen == told, "{args:?}: {seen:#?}\nss: {told:#?}");
        let states: std::collections::BTreeSet<_> =
            told.keys().map(|(_, state, ..)| state.as_str()).collect();
        let all = [
            "CLOSE_WAIT",
            "ESTABLISHED",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "LAST_ACK",
            "LISTEN",
            "SYN_RECV",
            "SYN_SENT",
            "TIME_WAIT",
        ];
        ensure!(states.iter().eq(all.iter()), "{states:?}");
    }
    Ok(())
}

/// Whose they are, though they were there before the command: what nobody accepted and what is half open is its
/// listener's, and what nobody holds is nobody's.
pub fn owners() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let stages = stages(&mut fixture)?;
    stuck(&mut fixture)?;
    let rows = look(&fixture, &[])?;
    let (c, s) = (fixture.c.pid(), fixture.s.pid());
    let client = json!([c, "client", "scan", "process"]);
    let server = json!([s, "server", "scan", "process"]);
    let of_listener = |held: &str| json!([s, "server", "listener", held]);
    let nobody = |held: &str| json!([null, null, null, held]);
    for row in &rows {
        let here = row["netns"] == fixture.net.b.inode;
        let mine = if here { &server } else { &client };
        let owner = json!([row["pid"], row["comm"], row["pid_source"], row["held_by"]]);
        let wants = match row["state"].as_str().context("a state")? {
            "SYN_RECV" => vec![of_listener("request")],
            "TIME_WAIT" => vec![nobody("timewait")],
            "FIN_WAIT2" => vec![client.clone(), nobody("timewait")],
            "FIN_WAIT1" | "LAST_ACK" => vec![nobody("orphan")],
            "ESTABLISHED" if here => vec![server.clone(), of_listener("accept_queue")],
            _ => vec![mine.clone()],
        };
        ensure!(wants.contains(&owner), "{wants:?}: {row:#}");
        ensure!(
            (row["uid"] == 0) != (row["held_by"] == "timewait"),
            "{row:#}"
        );
    }
    for stage in &stages {
        let waiting = fixture.c.run(&format!("local {}", stage.waiting))?;
        let own =
            |row: &&Value| row["netns"] == fixture.net.b.inode && row["state"] == "ESTABLISHED";
        let mut rows = rows.iter().filter(own);
        let row = rows.find(|row| port(&waiting).is_ok_and(|port| row["rport"] == port));
        let row = row.context("no row of what waits for accept()")?;
        ensure!(row["held_by"] == "accept_queue", "{row:#}");
    }
    Ok(())
}

/// More than the kernel's iterators have room for at once: each has one row.
pub fn many() -> Result<()> {
    let mut fixture = Fixture::new()?;
    for host in HOSTS {
        let (listener, to) = fixture.listen(host)?;
        for n in 0..250 {
            let session = fixture.connect(listener, &to)?;
            if n % 2 == 0 {
                fixture.close(session)?;
            }
        }
    }
    until("every FIN to be answered", PATIENCE, || {
        let states = proc_states(&fixture.net.b)?;
        let settled = ["ESTABLISHED", "LISTEN", "TIME_WAIT"];
        let is_settled = |state: &String| settled.contains(&state.as_str());
        Ok(states.keys().all(is_settled).then_some(()))
    })?;
    let rows = look(&fixture, &[])?;
    let mut told = Named::new();
    ss(&fixture.net.a, &mut told)?;
    ss(&fixture.net.b, &mut told)?;
    let seen = named(&rows)?;
    ensure!(rows.len() > 750 && seen == told, "{seen:#?}\nss: {told:#?}");
    Ok(())
}

/// Its namespace has no process and no name any more: only a process elsewhere has it open.
pub fn in_dead_namespace() -> Result<()> {
    missing::needs_map_elements()?;
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let ns = Netns::new()?;
        let listener = ns.inside(|| Ok(TcpListener::bind(at)?))?;
        let inode = ns.inode.to_string();
        drop(ns);
        let args = ["--active", "--json", "--netns", &inode];
        let rows = tool::run("tcpstates", &args)?.rows()?;
        ensure!(rows.len() == 1, "{rows:#?}");
        let row = &rows[0];
        let right = row["pid"] == std::process::id()
            && row["lport"] == listener.local_addr()?.port()
            && row["state"] == "LISTEN";
        ensure!(right, "{row:#}");
    }
    Ok(())
}
