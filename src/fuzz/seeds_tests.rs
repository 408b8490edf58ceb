// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a fuzzer began with, and what it has found: each file of `fuzz/seeds/`, whole and damaged.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use super::TARGETS;
use crate::abi::noise;

/// How often each seed is damaged; the same in every run.
const ROUNDS: u64 = 40;

#[test]
fn seeds_are_read_whole_and_damaged() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    if !seeds.exists() {
        return; // not in a package of the sources
    }
    for (name, read) in TARGETS {
        let folder = fs::read_dir(seeds.join(name)).expect("a folder of seeds");
        let mut files = folder.map(|file| file.expect("an entry").path());
        let first = files.next().expect("a seed");
        for file in files.chain([first]) {
            let whole = fs::read(&file).expect("a file");
            let read = catch_unwind(|| {
                read(&whole);
                damaged(&whole, read);
            });
            assert!(read.is_ok(), "{}", file.display());
        }
    }
}

/// Some bytes changed, and cut off anywhere.
fn damaged(whole: &[u8], read: fn(&[u8])) {
    let mut number = noise::numbers(whole.len() as u64);
    for _ in 0..ROUNDS {
        let mut bytes = whole.to_vec();
        for _ in 0..number() % 8 {
            let at = number() as usize % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = number() as u8;
            }
        }
        if number().is_multiple_of(2) {
            bytes.truncate(number() as usize % (bytes.len() + 1));
        }
        read(&bytes);
    }
}
