// SPDX-License-Identifier: MIT OR Apache-2.0
//! sockbuf: a row per packet or allocation that a full socket buffer or a memory limit refused, of any protocol.
//!
//! Traces `sock:sock_rcvqueue_full`, `sock:sock_exceed_buf_limit` and `udp:udp_fail_queue_rcv_skb`.

mod cause;
mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod lookup;
mod overflows;
mod summary;

use std::process::ExitCode;
use std::time::Duration;

use crate::aggregate::keys::Keys;
use crate::cli::{self, Common, duration, whole};
use crate::kernel::diagnose;
use crate::output::{Rows, Sort};
use crate::session::{Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::overflow;
use columns::{PAGE, columns, kinds};
use lookup::Lookup;
use overflows::{Overflows, Shown};
use summary::Summary;

crate::skeleton!("sockbuf");

crate::record!(overflow, bpf::types::head);

/// Show socket buffers that overflow and memory limits that are reached: whose socket, how full, and what to tune.
///
/// WHY is rcvbuf (the receive buffer of the socket is full), mem_max (the sockets of the protocol exceed the limit of
/// the host), pressure (they are close to it, and this socket exceeds its guaranteed minimum) or memcg (the memory
/// cgroup refused).
#[derive(Parser)]
#[command(name = "sockbuf")]
struct Args {
    /// Print sums by owner and cause instead, and the kernel's own counters of drops beside them, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    /// Make sums by KEY: comm, or several as comm,lport [default: netns,pid,comm,cause; cause is tracepoint, protocol, cause and direction]
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(summary::OWN), requires = "summary")]
    by: Option<Keys>,
    /// Sort sums by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "summary",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    /// Print only the N largest sums and the N worst counters; 0: all [default: 20 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N", requires = "summary", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Rows, or sums.
fn shown(args: &Args) -> Result<Shown> {
    let (_, output, _) = args.common.parts();
    let style = output.style();
    Ok(match args.summary {
        Some(interval) => Shown::Sums(Box::new(Summary::new(args, style, interval)?)),
        None => Shown::Each(Box::new(Rows::new("sockbuf", style, columns())?)),
    })
}

fn run(args: Args) -> Result<()> {
    let mut overflows = Overflows::new(shown(&args)?);
    let (filter, _, run) = args.common.parts();
    let tracepoints = ["sock:sock_rcvqueue_full", "sock:sock_exceed_buf_limit"];
    let mut session = Session::new("sockbuf", run, &tracepoints)?;
    let shows_udp = diagnose::has_tracepoint("udp:udp_fail_queue_rcv_skb");
    let mut storage = storage();
    let loaded = session.start::<bpf::SockbufSkelBuilder>(&mut storage, filter, None, |open| {
        let rodata = constants(&mut open.maps.rodata_data)?;
        rodata.lookup = !run.no_scan;
        rodata.page_shift = PAGE.trailing_zeros();
        open.progs.udp_fail.set_autoload(shows_udp);
        Ok(())
    });
    let Some(mut skel) = loaded? else {
        overflows.without_namespaces();
        return crate::fallback::run(&session, filter, fallback::Limits, &mut overflows);
    };
    if !shows_udp {
        crate::message!(
            "sockbuf: UDP sockets with a full buffer are not shown: this kernel has no tracepoint udp:udp_fail_queue_rcv_skb"
        );
    }
    if !run.no_scan {
        overflows.lookup = Some(Lookup::new(session.owners(skel.object_mut())?));
    }
    session.run(skel.object_mut(), &mut overflows)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("sockbuf", kinds, run)
}
