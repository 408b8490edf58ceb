// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpstates against traffic whose truth is known.

mod cli_contract;
mod counters;
mod filters;
mod fixture;
mod held;
mod journal;
mod now;
mod owners;
mod sequences;
mod summary;
mod times;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        sequences::tests(),
        counters::tests(),
        times::tests(),
        held::tests(),
        filters::tests(),
        summary::tests(),
        journal::tests(),
        now::tests(),
        owners::tests(),
        cli_contract::tests(),
    ])
}
