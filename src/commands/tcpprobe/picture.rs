// SPDX-License-Identifier: MIT OR Apache-2.0
//! What pictures are made of, from samples to the file.

use std::path::Path;

use crate::abi::types::{Record, head};
use crate::aggregate::top;
use crate::commands::tcpprobe::series::{Moment, Traces};
use crate::kernel::{clock::Clock, files::Place};
use crate::output::{escape, units::kernel_name, value::Value};
use anyhow::{Context, Result};

use super::bpf::types::probe;
use super::{PROBE_RETRANSMIT, plot};

/// What [`top::report`] says is left out.
pub(super) const CONNECTIONS: (&str, &str) = ("connection", "connections");

pub(super) fn follow(traces: &mut Traces, body: &probe) {
    let Some(trace) = traces.get(body.head.cookie) else {
        return;
    };
    let pid = body.head().pid();
    if trace.title.is_empty() || trace.pid != pid {
        trace.title = title(body);
        trace.pid = pid;
    }
    let now = Moment {
        boot_ns: body.head.boot_ns,
        cwnd: body.snd_cwnd,
        ssthresh: body.ssthresh,
        srtt_us: body.srtt_us,
        ca_state: body.ca_state,
        retransmits: body.retransmits,
        snd_una: body.snd_una,
        total_retrans: body.total_retrans,
    };
    if body.head.event == PROBE_RETRANSMIT {
        trace.retransmit(now);
    } else {
        trace.sample(now);
    }
}

/// `10.0.0.1:443 → 10.0.0.2:50000 · nginx (pid 812), cubic`
pub(super) fn title(body: &probe) -> String {
    let flow = &body.head().flow;
    let local = body.head().local().with_port(flow.lport);
    let remote = body.head().remote().with_port(flow.rport);
    let owner = owner(body.head());
    let ca = escape::text(kernel_name(&body.ca_name).unwrap_or("?"));
    format!("{local} → {remote} · {owner}{ca}")
}

fn owner(head: &head) -> String {
    let (Some(pid), Some(comm)) = (head.pid(), head.comm()) else {
        return String::new();
    };
    let mut name = Vec::new();
    Value::Comm(comm).table(&mut name);
    format!("{} (pid {pid}), ", String::from_utf8_lossy(&name))
}

/// Draws the plot at the end, into a file that replaces one of the same name.
pub(super) fn draw(place: &Place, path: &Path, traces: &Traces, top: usize) -> Result<()> {
    let busiest = traces.busiest();
    let shown = busiest.len().min(top);
    let mut note = format!("tcpprobe: {shown} of {} connections", busiest.len());
    if busiest.len() > shown {
        note += ", those with most samples";
    }
    if traces.refused != 0 {
        note += &format!("; {} samples of others", traces.refused);
    }
    let mut clock = Clock::default();
    let start = |ns| {
        let (second, ns) = clock.rfc3339(ns);
        format!("{second}.{:03}Z", ns / 1_000_000)
    };
    let svg = plot::svg(&busiest[..shown], start, &note)?;
    let written = place.write(svg.as_bytes());
    written.with_context(|| format!("cannot write {}", path.display()))?;
    top::report("tcpprobe", CONNECTIONS, busiest.len(), top);
    Ok(())
}
