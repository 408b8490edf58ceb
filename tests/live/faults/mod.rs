// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults, and what is hostile: each test names its expectation, and the kernel's own counters, ids and descriptors are
//! the witnesses.

mod attaching;
mod clocks;
mod copies;
mod cpus;
mod flood;
mod gone;
mod leftovers;
mod limits;
mod names;
mod objects;
mod outputs;
mod overflow;
mod places;
mod signals;
mod soak;
mod strange;
mod suspend;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        attaching::tests(),
        clocks::tests(),
        gone::tests(),
        leftovers::tests(),
        limits::tests(),
        names::tests(),
        outputs::tests(),
        overflow::tests(),
        places::tests(),
        signals::tests(),
        strange::tests(),
    ])
}

/// What needs the machine alone, or takes long and is asked for by name (`--ignored`).
pub fn alone() -> Vec<Trial> {
    crate::trial::group([
        copies::alone(),
        cpus::alone(),
        suspend::alone(),
        soak::alone(),
    ])
}
