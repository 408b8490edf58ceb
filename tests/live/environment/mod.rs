// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts that lack something, and users who may do less than root.

pub mod capabilities;
mod config;
mod privileges;
mod refusals;

pub use config::renamed as renamed_btf;
use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        capabilities::tests(),
        config::tests(),
        privileges::tests(),
        refusals::tests(),
    ])
}
