// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--live`: sparklines of the busiest connections on a terminal.

use std::io::Write;
use std::time::Instant;

use crate::abi::{names::ca_state_name, types::decode};
use crate::aggregate::top;
use crate::commands::tcpprobe::series::{Trace, Traces};
use crate::kernel::clock::Clock;
use crate::output::Style;
use crate::session::{Figures, Handler, Interval, Printer, Shows};

use super::bpf::types::probe;
use super::picture::{CONNECTIONS, follow};
use super::sparkline;

/// Characters of a sparkline.
const SPARK: usize = 60;

pub(super) struct Live {
    pub(super) style: Style,
    pub(super) clock: Clock,
    pub(super) traces: Traces,
    pub(super) every: Interval,
    pub(super) since: u64,
    pub(super) top: usize,
    /// Samples that no picture had room for, until the last one.
    pub(super) refused: u64,
}

impl Live {
    fn print(&mut self, out: &mut Printer) {
        let now = crate::kernel::clock::boot_ns();
        let traces = std::mem::take(&mut self.traces);
        self.clock.refresh();
        let busiest = traces.busiest();
        for trace in busiest.iter().take(self.top) {
            let (since, clock, style) = (self.since, &mut self.clock, &self.style);
            out.row(|buf| spark_rows(buf, trace, (since, now), style, clock));
        }
        top::report("tcpprobe", CONNECTIONS, busiest.len(), self.top);
        self.refused += traces.refused;
        self.since = now;
    }
}

fn spark_rows(
    out: &mut Vec<u8>,
    trace: &Trace,
    time: (u64, u64),
    style: &Style,
    clock: &mut Clock,
) {
    if style.time {
        let _ = write!(out, "{} ", clock.local_time(time.1));
    }
    let last = trace.last();
    let _ = writeln!(
        out,
        "{}, {}: {} samples, {} sent again, {} RTO",
        trace.title,
        ca_state_name(last.ca_state).unwrap_or("?"),
        trace.samples,
        trace.retransmitted(),
        trace.rtos
    );
    let (low, high) = trace.cwnd.range().unwrap_or_default();
    let line = sparkline::line(trace.cwnd.points(), time.0, time.1, SPARK);
    let _ = writeln!(out, "  cwnd {line} {low}..{high}, now {}", last.cwnd);
    let (low, high) = trace.srtt.range().unwrap_or_default();
    let line = sparkline::line(trace.srtt.points(), time.0, time.1, SPARK);
    let ms = |us: u32| f64::from(us) / 1e3;
    let _ = writeln!(
        out,
        "  srtt {line} {:.3}..{:.3}, now {:.3} ms",
        ms(low),
        ms(high),
        ms(last.srtt_us)
    );
}

impl Handler for Live {
    fn header(&mut self, _out: &mut Vec<u8>) {}

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<probe>(record) {
            follow(&mut self.traces, body);
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    fn uncounted(&self) -> u64 {
        self.refused + self.traces.refused
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn shows(&self) -> Shows {
        self.every.length().into()
    }

    fn summary(&mut self, _out: &mut Vec<u8>, _fields: &Figures) {}
}
