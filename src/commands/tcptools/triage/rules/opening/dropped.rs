// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments of handshakes that this host itself has thrown away: why a client on it waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::commands::tcptools::feed::Row;

/// Of one server.
#[derive(Debug)]
pub struct Dropped {
    reason: String,
    place: String,
    netns_name: Option<String>,
    count: u64,
}

/// Servers that are kept.
const MOST: usize = 4096;

/// By server.
#[derive(Debug, Default)]
pub struct Drops(BTreeMap<SocketAddr, Dropped>);

impl Drops {
    /// A SYN to a server, or its SYN/ACK, wherever on this host it was.
    pub fn see(&mut self, row: &Row) {
        let flags = row.text("flags").unwrap_or_default();
        let has = |flag| flags.split('|').any(|one| one == flag);
        if !row.is("tcpdrop", "drop") || !has("SYN") {
            return;
        }
        // Of a forwarded one, the local end is where it goes to.
        let goes_out = row.text("direction") == Some("sent");
        let (addr, port) = match goes_out != has("ACK") {
            true => ("raddr", "rport"),
            false => ("laddr", "lport"),
        };
        let port = row.number(port).and_then(|port| u16::try_from(port).ok());
        let (Some(addr), Some(port)) = (row.addr(addr), port) else {
            return;
        };
        let server = SocketAddr::new(addr, port);
        if self.0.len() >= MOST && !self.0.contains_key(&server) {
            return;
        }
        let text = |key| row.text(key).unwrap_or("?").to_owned();
        let dropped = self.0.entry(server).or_insert_with(|| Dropped {
            reason: text("reason"),
            place: text("where"),
            netns_name: row.text("netns_name").map(str::to_owned),
            count: 0,
        });
        dropped.count += 1;
    }

    pub fn of(&self, server: Option<SocketAddr>) -> Option<&Dropped> {
        self.0.get(&server?)
    }
}

impl Dropped {
    /// The end of a sentence.
    pub fn text(&self) -> String {
        let netns = self.netns_name.as_ref();
        let netns = netns.map_or(String::new(), |name| format!(", netns {name}"));
        format!(
            "; this host drops the segments itself: {} in {}{netns}",
            self.reason, self.place
        )
    }

    pub fn evidence(&self) -> [(&'static str, Value); 3] {
        [
            ("reason", self.reason.clone().into()),
            ("where", self.place.clone().into()),
            ("drops", self.count.into()),
        ]
    }
}
