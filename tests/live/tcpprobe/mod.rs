// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpprobe against the sockets themselves, the kernel's counters and the kernel's own trace record.

mod amounts;
mod manners;
mod pictures;
mod samples;
mod scene;
mod values;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    [
        values::tests(),
        amounts::tests(),
        pictures::tests(),
        manners::tests(),
        samples::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
