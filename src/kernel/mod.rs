// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel is, and what it answers.

pub(crate) mod btf;
pub mod cgroups;
pub mod clock;
pub mod conntrack;
pub mod counters;
pub mod diagnose;
pub mod enums;
pub mod features;
pub mod files;
pub mod holders;
pub mod iter;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod peers;
pub mod pids;
pub(crate) mod privileges;
pub mod problem;
pub mod sock_diag;
pub mod symbols;
pub(crate) mod tracefs;
pub mod tracepoints;
pub mod trust;
