// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real servers as witnesses: Debian's nginx, HAProxy, PostgreSQL and Redis under the load of their own benchmarks. What
//! their logs say of a connection, its process and its bytes, the rows must say too, with BTF and without; and there are
//! as many rows as the kernel counts opens.
//!
//! A test whose server is not installed is not run, and names the package; `.ci/run` installs them.

mod fixture;
mod haproxy;
mod http;
mod nginx;
mod postgresql;
pub mod program;
mod redis;
mod witness;

use libtest_mimic::Trial;

pub fn tests() -> Vec<Trial> {
    vec![
        nginx::test(),
        haproxy::test(),
        postgresql::test(),
        redis::test(),
    ]
}
