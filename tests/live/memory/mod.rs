// SPDX-License-Identifier: MIT OR Apache-2.0
//! No byte of a record is the kernel's by accident: whatever lay in the ring buffer, a record has none of it.
//!
//! The buffer is filled with a byte before there is traffic, three times with another one. Where a record of the same
//! size has that byte each time, at the same place, nothing was written there. (That records have no padding which C
//! would leave alone the compiler checks, `-Wpadded` in build.rs.)

mod ring;
mod traffic;

use std::collections::HashMap;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::{net::Netns, tool::Tool, trial, wait};
use ring::Ring;
use traffic::Traffic;

/// Each command that sends records by itself, and flags for most of them.
const COMMANDS: [(&str, &[&str]); 13] = [
    ("sockbuf", &[]),
    ("tcpaccept", &[]),
    ("tcpcong", &[]),
    ("tcpconnect", &[]),
    ("tcpdrop", &["--all", "--stack"]),
    ("tcpinfo", &["--all"]),
    ("tcplat", &[]),
    ("tcplife", &[]),
    ("tcpprobe", &[]),
    ("tcprcvspace", &[]),
    ("tcpreset", &["--stack"]),
    ("tcpretrans", &["--stack"]),
    ("tcpstates", &[]),
];

pub fn tests() -> Vec<Trial> {
    let each = COMMANDS.map(|(tool, args)| {
        trial(
            format!("memory::{tool}_sends_what_it_has_written"),
            move || written(tool, args),
        )
    });
    each.into()
}

/// Bytes that no address and no port of the traffic has, and no counter is likely to.
const POISONS: [u8; 3] = [0xa5, 0x5a, 0xd7];

/// Which places of records of a size have had the poison; a record's first bytes tell no kinds apart, so kinds of one
/// size count as one.
type Places = HashMap<(usize, usize), usize>;

fn written(tool: &str, args: &[&str]) -> Result<()> {
    let mut found = Vec::new();
    for poison in POISONS {
        found.push(poisoned(tool, args, poison)?);
    }
    let mut places: Vec<_> = found[0]
        .iter()
        .filter(|(place, _)| found.iter().all(|places| places.contains_key(place)))
        .collect();
    places.sort();
    ensure!(
        places.is_empty(),
        "{tool}: (size, offset) of bytes that no program has written, and how often: {places:?}"
    );
    Ok(())
}

/// The places of records that have this byte, with which the buffer was filled.
fn poisoned(tool: &str, args: &[&str], poison: u8) -> Result<Places> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let filter = ["--json", "--netns", &inode, "--buffer", "512"];
    let traffic = Traffic::new(&ns)?;
    let running = Tool::start(tool, &[args, &filter].concat())?;
    let ring = Ring::of(&running)?;
    ring.fill(poison)?;
    let begin = ring.end();
    traffic.run(&ns)?;
    let records = wait::until("records", wait::PATIENCE, || {
        let records = ring.since(begin)?;
        Ok((!records.is_empty()).then_some(records))
    })?;
    // What follows at once, too.
    running.stop()?;
    let records = ring.since(begin).unwrap_or(records);
    // The proof that the buffer was filled: what is next is, but for the headers of what filled it.
    let left = ring.behind(4096);
    let left = left.iter().filter(|byte| **byte == poison).count();
    ensure!(
        left > 4000,
        "only {left} of 4096 bytes of the buffer were filled"
    );
    let mut places = Places::new();
    for record in &records {
        for (at, _) in record
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == poison)
        {
            *places.entry((record.len(), at)).or_default() += 1;
        }
    }
    Ok(places)
}
