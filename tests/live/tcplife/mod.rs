// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife against traffic whose truth is known.

mod active;
mod closing;
mod cut;
mod details;
mod early_ends;
mod families;
mod filters;
mod formats;
mod given_up;
mod late_start;
mod manners;
mod many;
mod owners;
mod pipes;
mod resets;
pub mod scene;
mod unseen;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    [
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
        manners::tests(),
        formats::tests(),
        pipes::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
