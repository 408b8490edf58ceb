// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpstates against traffic whose truth is known.

mod counters;
mod filters;
mod held;
mod journal;
mod manners;
mod owners;
mod sequences;
mod stage;
mod summary;
mod times;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    [
        sequences::tests(),
        counters::tests(),
        times::tests(),
        held::tests(),
        filters::tests(),
        summary::tests(),
        journal::tests(),
        owners::tests(),
        manners::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
