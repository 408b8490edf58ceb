// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other end of a connection, where it is on this host too, as `src/bpf/support/peer.bpf.c` notes both.
//!
//! The two ends know the same two initial sequence numbers, so they are found whatever addresses, ports and namespaces
//! are in between, and never mistaken: the numbers have 64 bits together.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};
use plain::Plain;

use crate::abi::types::{end, head, numbers, place, placed};

/// The tables of all ends: of those that are open, and of the last that were closed.
pub struct Peers {
    places: [MapHandle; 2],
    ends: [MapHandle; 2],
}

impl Peers {
    /// With the tables of the loaded programs.
    ///
    /// # Errors
    /// When the object has none, or descriptors are short.
    pub fn new(object: &Object) -> Result<Self> {
        let map = |name| {
            let map = object.maps().find(|map| map.name() == name);
            Ok::<_, anyhow::Error>(MapHandle::try_from(&map.context("no table of peers")?)?)
        };
        Ok(Self {
            places: [map("places")?, map("past_places")?],
            ends: [map("ends")?, map("past_ends")?],
        })
    }

    /// The other end of a record's connection: its socket, namespace, addresses as it sees them, and owner. `None`: it is
    /// not on this host, or was not seen.
    pub fn of(&self, head: &head) -> Option<head> {
        let place = place {
            flow: head.flow,
            netns: head.netns,
        };
        // Another connection between the same addresses may have come since.
        let is_own = |placed: &placed| placed.cookie == head.cookie;
        // Before 5.12 a socket has a cookie only once somebody has asked for it, which may be after it was noted.
        let may_be_own = |placed: &placed| placed.cookie == 0;
        let at = |map: &MapHandle| look::<place, placed>(map, &place);
        let [now, past] = self.places.each_ref().map(at);
        let placed = [now, past].into_iter().flatten();
        let own = placed.clone().find(is_own);
        let own = own.or_else(|| placed.clone().find(may_be_own))?;
        let other = mirrored(own.numbers);
        let end: end = self.ends.iter().find_map(|map| look(map, &other))?;
        Some(head {
            boot_ns: head.boot_ns,
            cookie: end.cookie,
            flow: end.flow,
            netns: end.netns,
            owner: end.owner,
            ..head::default()
        })
    }
}

/// The numbers of the other end.
fn mirrored(own: numbers) -> numbers {
    numbers {
        snd: own.rcv,
        rcv: own.snd,
    }
}

fn look<K: Plain, V: Plain + Default>(map: &MapHandle, key: &K) -> Option<V> {
    // SAFETY: the keys here are of integers only, without padding: all their bytes have values.
    let key = unsafe { plain::as_bytes(key) };
    let bytes = map.lookup(key, MapFlags::ANY).ok()??;
    let mut value = V::default();
    plain::copy_from_bytes(&mut value, &bytes).ok()?;
    Some(value)
}

const _: () = assert!(
    size_of::<place>() == 48 && size_of::<numbers>() == 8,
    "keys have no padding"
);
