// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the commands of tcptools share. A command is one `src/bpf/<tool>.bpf.c` and one `src/bin/<tool>.rs`.
//!
//! Where does a thing go?
//!
//! | a change | goes to |
//! | --- | --- |
//! | a filter for every command | `bpf/tcp.bpf.h` (`struct filter` and its test), [`filter`] (its flag) |
//! | a column | the record in that tool's `.bpf.c`, a line in its `columns()`, its page in `docs/` |
//! | counting or a histogram in the kernel | `bpf/count.bpf.h`, `bpf/hist.bpf.h` ([`count`], [`hist`]) |
//! | a sum, its bound and its limit | [`bounded`], [`buckets`], [`top`] |
//! | an output format, a kind of value | [`output`], [`value`] |
//! | a difference between kernels | `bpf/compat.bpf.h` |
//! | a link-local address and its link | [`link`] |
//! | a picture, a sparkline, what they are made of | [`plot`], [`spark`], [`trace`] |
//! | a time or a number of the command line | [`quantity`] |
//! | how a command starts, waits, stops | [`session`] |
//! | how output is written, files are made | [`nonblocking`], [`mod@message`], [`files`] |
//! | what a run has cost (`--stats`) | [`cost`] |
//! | how it runs on a kernel without BTF | [`mod@record`], `bpf/record.bpf.c` |
//! | a sentence about why it cannot run | [`preflight`], [`limits`] |
//! | a check of the host | [`host`] |
//! | what a user of fewer rights may choose, and which files are believed | [`trust`] |
//! | a new command | a line in [`suite`], for `tcptools list`, `tplist` and the tests |

#![warn(missing_docs)]

pub mod bounded;
pub mod buckets;
pub mod bytes;
pub mod choice;
pub mod cli;
pub mod clock;
pub mod cost;
pub mod count;
pub mod diag;
pub mod files;
pub mod filter;
pub mod flow;
pub mod hist;
pub mod holders;
pub mod host;
pub mod interval;
pub mod iter;
pub mod journal;
pub mod lacks;
pub mod limits;
pub mod link;
pub mod message;
pub mod names;
mod namespace_worker;
mod namespaces;
#[cfg(test)]
mod noise;
pub mod nonblocking;
pub mod output;
pub mod packed;
pub mod pending;
pub mod pids;
pub mod plot;
pub mod preflight;
mod privileges;
pub mod quantity;
pub mod record;
pub mod resets;
pub mod resolve;
pub mod sample;
pub mod session;
pub mod sink;
pub mod skipped;
pub mod source;
pub mod spark;
pub mod stack;
pub mod suite;
pub mod table;
pub mod talkers;
pub mod top;
pub mod trace;
pub mod tracepoint;
pub mod tracepoints;
pub mod trust;
pub mod types;
mod usage;
pub mod value;
