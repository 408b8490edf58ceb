// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are not opened, or slowly.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{findings, first_is};
use crate::{net::Netns, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("triage::healthy", healthy),
        trial("triage::connect_refused", refused),
    ]
}

const TIME: Duration = Duration::from_secs(4);

/// Connections that are opened, and closed, are nothing to find.
fn healthy() -> Result<()> {
    let ns = Netns::new()?;
    let found = findings(&[&ns], TIME, || {
        ns.inside(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            for _ in 0..50 {
                let client = TcpStream::connect(listener.local_addr()?)?;
                let (server, _) = listener.accept()?;
                drop((client, server));
            }
            Ok(())
        })
    })?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// Nobody listens.
fn refused() -> Result<()> {
    let ns = Netns::new()?;
    let found = findings(&[&ns], TIME, || {
        ns.inside(|| {
            for _ in 0..20 {
                ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, 5432)).is_err());
            }
            Ok(())
        })
    })?;
    let first = first_is(&found, "connect_refused")?;
    ensure!(first["evidence"]["refused"] == 20, "{first}");
    ensure!(
        first["subject"]["destination"] == "127.0.0.1:5432",
        "{first}"
    );
    ensure!(first["next"] == "tcpconnect --failed -P 5432", "{first}");
    Ok(())
}
