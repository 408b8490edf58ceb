// SPDX-License-Identifier: MIT OR Apache-2.0
//! How cost and start-up grow with the number of open sockets.

use std::net::{TcpListener, TcpStream};

use anyhow::Result;
use nix::sys::resource::{Resource, setrlimit};

use crate::load::Load;
use crate::{one, subject};

/// Open sockets at each point of the curve; each is one end of a loopback connection.
const SOCKETS: [usize; 5] = [0, 1_000, 10_000, 30_000, 60_000];

/// Prints the curve: start-up with seeding, and ns per event of a storm beside idle sockets.
pub fn measure(connections: usize) -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, 200_000, 200_000)?;
    println!("| open sockets | ready ms | ns per event | connections/s |");
    println!("| --- | --- | --- | --- |");
    let listener = TcpListener::bind("127.0.0.2:0")?;
    let mut idle = vec![];
    for sockets in SOCKETS {
        while idle.len() * 2 < sockets {
            let client = TcpStream::connect(listener.local_addr()?)?;
            idle.push((client, listener.accept()?.0));
        }
        let found = subject::all(Load::Storm)
            .into_iter()
            .find(|s| s.name == "tcplife");
        let sample = one(&found.expect("tcplife is ours"), Load::Storm, connections)?;
        println!(
            "| {sockets} | {:.0} | {:.0} | {:.0} |",
            sample.cost.startup_ms,
            sample.ns as f64 / sample.events as f64,
            sample.rate
        );
    }
    Ok(())
}
