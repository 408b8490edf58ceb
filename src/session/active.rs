// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that are still open, shown at an interval and on exit.

use std::time::Duration;

use plain::Plain;

use super::interval::Interval;
use crate::abi::types::decode_all;
use crate::kernel::holders::Holders;

/// The iterator over open sockets, and when it is due.
pub struct Active {
    tool: &'static str,
    sockets: Holders,
    /// When they are shown; without a length on exit only.
    pub every: Interval,
}

impl Active {
    /// First due one interval from now.
    pub fn new(tool: &'static str, sockets: Holders, interval: Option<Duration>) -> Self {
        let every = Interval::new(interval);
        Self {
            tool,
            sockets,
            every,
        }
    }

    /// Visits the sockets; none, and a message, if that fails.
    pub fn records<E: Plain + Default>(&self) -> Vec<E> {
        let bytes = self.sockets.run().unwrap_or_else(|error| {
            crate::message!("{}: cannot show open sockets: {error:#}", self.tool);
            Vec::new()
        });
        decode_all(&bytes).collect()
    }

    /// The most network namespaces that any visit had to leave out.
    pub fn unvisited(&self) -> u64 {
        self.sockets.unvisited()
    }
}
