// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at all connections, at each interval.

use std::time::{Duration, Instant};

use anyhow::Result;
use libbpf_rs::Link;

use crate::abi::types::decode;
use crate::kernel::holders::{Holders, SocketIterator};
use crate::kernel::{iter, namespaces};
use crate::output::message;

use super::CLOSED;
use super::bpf::types::conn;
use super::inet_diag::Starts;
use super::traffic::{Connection, Traffic};

/// The connections of this host, and what each did since the last look.
pub(super) struct Look {
    sockets: Sockets,
    traffic: Traffic,
    scanned: Instant,
    rest: Duration,
}

/// What visits them.
enum Sockets {
    /// Programs, and what finds the connections that there are already.
    Programs(Holders, Link),
    /// inet_diag, which finds owners by itself.
    Diag(SocketIterator, Starts),
}

/// A scan for owners takes at most one in so many parts of the time: of very many files it is not made at every look.
const SCAN_SHARE: u32 = 20;

impl Look {
    /// By programs; `existing`: what finds the connections that there are already.
    pub(super) fn new(sockets: Holders, existing: Link) -> Self {
        Self::of(Sockets::Programs(sockets, existing))
    }

    /// By inet_diag.
    pub(super) fn by_diag(sockets: SocketIterator) -> Self {
        Self::of(Sockets::Diag(sockets, Starts::default()))
    }

    fn of(sockets: Sockets) -> Self {
        Self {
            sockets,
            traffic: Traffic::default(),
            scanned: Instant::now(),
            rest: Duration::ZERO,
        }
    }

    /// At the start, with all privileges: what connections have done so far is not of the first interval.
    pub(super) fn begin(&mut self) {
        if let Sockets::Programs(_, existing) = &self.sockets {
            let unvisited = namespaces::in_each(|| iter::run(existing)).unvisited;
            if unvisited > 0 {
                let what = "connections that were open before";
                message::unvisited("tcptop", what, unvisited);
            }
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
        match &mut self.sockets {
            Sockets::Programs(sockets, _) => sockets.each(scan, size_of::<conn>(), |bytes| {
                let mut record = conn::default();
                if plain::copy_from_bytes(&mut record, bytes).is_ok() {
                    each(traffic.see(&record, false));
                }
            })?,
            Sockets::Diag(sockets, starts) => {
                starts.begin();
                sockets.each(size_of::<conn>(), |bytes| {
                    let mut record = conn::default();
                    if plain::copy_from_bytes(&mut record, bytes).is_ok() {
                        starts.set(&mut record);
                        each(traffic.see(&record, false));
                    }
                })?;
                starts.end();
            }
        }
        traffic.end();
        if scan {
            self.scanned = Instant::now();
            self.rest = began.elapsed() * SCAN_SHARE;
        }
        Ok(())
    }

    pub(super) fn unvisited(&self) -> u64 {
        match &self.sockets {
            Sockets::Programs(sockets, _) => sockets.unvisited(),
            Sockets::Diag(sockets, _) => sockets.unvisited(),
        }
    }
}
