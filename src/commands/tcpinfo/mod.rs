// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpinfo: a row per TCP socket as it is destroyed, with the final statistics of its last connection.
//!
//! Traces `tcp:tcp_destroy_sock`, with `sock:inet_sock_set_state` for the statistics before `tcp_disconnect` clears
//! them, and `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;

use std::process::ExitCode;

use crate::cli::{self, Common};
use crate::error::Usage;
use crate::kernel::clock;
use crate::output::Rows;
use crate::session::{EachRow, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::info;
use columns::{columns, event, kinds};

crate::skeleton!("tcpinfo");

crate::record!(info, bpf::types::head);

/// Show the final statistics of each TCP socket when it is destroyed: the fields of `ss -ti`, after the fact.
///
/// The values are those of the last connection, or connection attempt, at the moment the socket entered CLOSE.
#[derive(Parser)]
#[command(name = "tcpinfo")]
struct Args {
    /// Also show listeners and sockets that were never connected
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

fn run(args: Args) -> Result<()> {
    let (filter, output, run) = args.common.parts();
    if filter.mptcp {
        let reason = "--mptcp: only TCP sockets, subflows included, pass tcp:tcp_destroy_sock";
        return Err(Usage(reason.into()).into());
    }
    let rows = Rows::new("tcpinfo", output.style(), columns())?;
    let mut each = EachRow { rows, event };
    let tracepoints = ["tcp:tcp_destroy_sock", "sock:inet_sock_set_state"];
    let mut session = Session::new("tcpinfo", run, &tracepoints)?;
    let mut storage = storage();
    let loaded = session.start::<bpf::TcpinfoSkelBuilder>(&mut storage, filter, None, |open| {
        let rodata = constants(&mut open.maps.rodata_data)?;
        rodata.jiffy_us = clock::jiffy_us() as u32;
        rodata.all = args.all;
        Ok(())
    });
    let Some(mut skel) = loaded? else {
        let sockets = fallback::Sockets::new(&args);
        return crate::fallback::run(&session, filter, sockets, &mut each);
    };
    session.run(skel.object_mut(), &mut each)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpinfo", kinds, run)
}
