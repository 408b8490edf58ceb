// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands, and sockets, in namespaces that are not the host's.

pub mod container;
mod foreign;
pub mod pids;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([container::tests(), foreign::tests(), pids::tests()])
}
