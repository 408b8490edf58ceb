// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpprobe against the sockets themselves, the kernel's counters and the kernel's own trace record.

mod amounts;
mod cli_contract;
mod plot;
mod samples;
mod scene;
mod values;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        values::tests(),
        amounts::tests(),
        plot::tests(),
        cli_contract::tests(),
        samples::tests(),
    ])
}
