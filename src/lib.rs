// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the commands of tcptools are made of. Each room below uses only those above it in this list:
//!
//! | room | what it is |
//! | --- | --- |
//! | [`suite`], [`error`] | the table of commands; what ends a run |
//! | [`abi`] | what the kernel half and this half share: records, flows, TCP's states, the skeletons |
//! | [`kernel`] | what the running kernel is, and answers: features, BTF, tracepoints, netlink, namespaces, clocks |
//! | [`output`] | values, columns, rows, formats; the one way of writing to stderr |
//! | [`cli`] | the flags that all commands share, and how a command ends |
//! | [`session`] | the life of a run: open, load, attach, scan, read, drain; buffers, losses, signals, intervals |
//! | [`aggregate`], [`fallback`] | counts, histograms, totals; kernels without BTF or without a ring buffer |
//! | [`commands`] | one folder per command |
//!
//! Where does a thing go?
//!
//! | a change | goes to |
//! | --- | --- |
//! | a new command | `bpf/<tool>.bpf.c`, [`commands`], `bin/<tool>.rs`, `docs/<tool>.md`, a line in [`suite`] |
//! | a filter for every command | [`cli::filter`] (its flag), `bpf/common/config.bpf.h` (its test): a line each |
//! | a column | the record in that tool's `.bpf.c`, a line in its `columns()`, its page in `docs/` |
//! | a number of a C enum, and its name | `EXPORT_ENUM`, [`abi::enums`] |
//! | a reason, a state, an error name | [`abi::names`] (ABI), [`kernel::enums`] (named by the running kernel) |
//! | a difference between kernels | `bpf/common/kernel/compat.bpf.h`; what is found by trying: [`kernel::features`] |
//! | counting or a histogram in the kernel | `bpf/common/count.bpf.h`, `bpf/common/hist.bpf.h` ([`aggregate`]) |
//! | an output format, a kind of value | [`output`], [`output::value`] |
//! | a time or a number of the command line | [`cli::quantity`] |
//! | how a command starts, waits, stops | [`session`] |
//! | how output is written, files are made | [`output::nonblocking`], [`mod@output::message`], [`kernel::files`] |
//! | what a run has cost (`--stats`) | [`session::stats`] |
//! | how it runs on a kernel without BTF | [`fallback`], `bpf/support/fallback.bpf.c` |
//! | a sentence about why it cannot run | [`kernel::diagnose`], [`kernel::limits`] |
//! | what a user of fewer rights may choose, and which files are believed | [`kernel::trust`] |

#![warn(missing_docs)]

pub mod abi;
pub mod aggregate;
pub mod cli;
pub mod commands;
pub mod error;
pub mod fallback;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod kernel;
pub mod output;
pub mod session;
pub mod suite;
