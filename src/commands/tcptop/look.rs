// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at all connections, at each interval.

use std::time::{Duration, Instant};

use anyhow::Result;
use libbpf_rs::Link;

use crate::abi::types::decode;
use crate::kernel::holders::Holders;
use crate::kernel::{iter, namespaces};
use crate::output::message;

use super::CLOSED;
use super::bpf::types::conn;
use super::traffic::{Connection, Traffic};

/// The connections of this host, and what each did since the last look.
pub(super) struct Look {
    sockets: Holders,
    /// Finds the connections that there are already.
    existing: Link,
    traffic: Traffic,
    scanned: Instant,
    rest: Duration,
}

/// A scan for owners takes at most one in so many parts of the time: of very many files it is not made at every look.
const SCAN_SHARE: u32 = 20;

impl Look {
    pub(super) fn new(sockets: Holders, existing: Link) -> Self {
        Self {
            sockets,
            existing,
            traffic: Traffic::default(),
            scanned: Instant::now(),
            rest: Duration::ZERO,
        }
    }

    /// At the start, with all privileges: what connections have done so far is not of the first interval.
    pub(super) fn begin(&mut self) {
        let visited = namespaces::in_each(|| iter::run(&self.existing));
        if visited.unvisited > 0 {
            message::unvisited(
                "tcptop",
                "connections that were open before",
                visited.unvisited,
            );
        }
        if let Err(error) = self.all(drop) {
            crate::message!("tcptop: cannot show open connections: {error:#}");
        }
    }

    /// A record of the kernel half: the end of a connection; `None` if it is none.
    pub(super) fn ended(&mut self, record: &[u8]) -> Option<Connection> {
        let conn = decode::<conn>(record).filter(|conn| conn.head.event == CLOSED)?;
        Some(self.traffic.see(conn, true))
    }

    /// Visits all that are open, and hands on what each did since the visit before.
    ///
    /// # Errors
    /// When the iterator cannot be read.
    pub(super) fn all(&mut self, mut each: impl FnMut(Connection)) -> Result<()> {
        let began = Instant::now();
        let scan = began.duration_since(self.scanned) >= self.rest;
        let traffic = &mut self.traffic;
        traffic.begin();
        self.sockets.each(scan, size_of::<conn>(), |bytes| {
            let mut record = conn::default();
            if plain::copy_from_bytes(&mut record, bytes).is_ok() {
                each(traffic.see(&record, false));
            }
        })?;
        traffic.end();
        if scan {
            self.scanned = Instant::now();
            self.rest = began.elapsed() * SCAN_SHARE;
        }
        Ok(())
    }

    pub(super) fn unvisited(&self) -> u64 {
        self.sockets.unvisited()
    }
}
