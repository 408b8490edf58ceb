// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife against traffic whose truth is known.

mod active;
mod cli_contract;
mod closing;
mod cut;
mod details;
mod early_ends;
mod families;
mod filters;
mod formats;
mod given_up;
mod late_start;
mod many;
mod owners;
mod pipes;
mod resets;
mod unseen;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        closing::tests(),
        cut::tests(),
        resets::tests(),
        given_up::tests(),
        early_ends::tests(),
        families::tests(),
        owners::tests(),
        late_start::tests(),
        unseen::tests(),
        active::tests(),
        details::tests(),
        many::tests(),
        filters::tests(),
        cli_contract::tests(),
        formats::tests(),
        pipes::tests(),
    ])
}
