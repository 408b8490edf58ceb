// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpprobe: a row per segment that an established connection receives: congestion window and its companions.
//!
//! Traces `tcp:tcp_probe`, with `sock:inet_sock_set_state` and `tcp:tcp_rcv_space_adjust` for owners and, for pictures,
//! `tcp:tcp_retransmit_skb`.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod hist;
mod legend;
mod live;
mod picture;
mod plot;
mod series;
mod sparkline;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::types::decode;
use crate::aggregate::{hist_keys::ALL, histograms::MAX_HISTS, keys::Keys, table::Table, top};
use crate::cli::{self, Common, duration, sampling::Sampling, whole};
use crate::commands::tcpprobe::series::Traces;
use crate::error::Usage;
use crate::kernel::{clock::Clock, files::Place};
use crate::output::{Format, Rows};
use crate::session::{Figures, Handler, Interval, Printer, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::probe;
use columns::{columns, kinds};
use hist::Histograms;
use live::Live;
use picture::{draw, follow};

crate::skeleton!("tcpprobe");

crate::record!(probe, bpf::types::head);

/// Show TCP congestion control at work: one row per segment received by an established connection.
///
/// Each row has the state of the sender just before the segment is processed. S is the state of congestion control:
/// O open, D disorder, C window reduced, R fast recovery, L loss (the timer fired). On a busy host, filter or sample.
#[derive(Parser)]
#[command(name = "tcpprobe")]
struct Args {
    /// Plot cwnd, ssthresh and srtt of the busiest connections over time to FILE.svg, with losses marked
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print sparklines of cwnd and srtt per connection instead of rows, every second or every --refresh
    #[arg(long, conflicts_with = "plot")]
    live: bool,
    /// Print a histogram of round-trip time samples instead of rows: one for all, or one per KEY: raddr, or several as comm,rport
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(ALL), num_args = 0..=1, require_equals = true, default_missing_value = "all", conflicts_with_all = ["plot", "live", "every", "interval", "changes"])]
    hist: Option<Keys>,
    /// Make histograms by KEY, as --hist=KEY does
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]), requires = "hist")]
    by: Option<Keys>,
    /// Limit --plot and --live to the N connections with most samples; 0: all that are tracked [default: 8]
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    /// Print --hist or --live every TIME
    #[arg(short = 'i', long, value_name = "TIME", value_parser = duration)]
    refresh: Option<Duration>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    common: Common,
}

crate::enumerators! { bpf::types::event_kind as u16: PROBE_RETRANSMIT = PROBE_RETRANSMIT }

/// Segments per second without filter or sampling that are worth a warning.
const BUSY: u64 = 5000;

struct Probe {
    rows: Rows<probe>,
    /// What is drawn at the end, if anything is.
    traces: Option<Traces>,
    /// Start of the count of segments, and their number; `None` if the check is off or done.
    busy: Option<(Instant, u64)>,
    /// The run has reached its end, even if rows could not be written.
    finished: bool,
}

impl Probe {
    fn new(rows: Rows<probe>, args: &Args) -> Self {
        let watched = !args.common.filter.is_set() && !args.sampling.is_set();
        Self {
            rows,
            traces: None,
            busy: watched.then(|| (Instant::now(), 0)),
            finished: false,
        }
    }

    fn warn_if_busy(&mut self) {
        let Some((since, count)) = &mut self.busy else {
            return;
        };
        let second = since.elapsed() >= Duration::from_secs(1);
        if *count >= BUSY {
            crate::message!(
                "tcpprobe: more than {BUSY} rows per second; to reduce the cost, use a filter (-D 443, --raddr), --every, --interval or --changes"
            );
            self.busy = None;
        } else if second {
            self.busy = Some((Instant::now(), 0));
        }
    }
}

impl Handler for Probe {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode::<probe>(record) else {
            return;
        };
        if let Some(traces) = &mut self.traces {
            follow(traces, body);
        }
        if body.head.event == PROBE_RETRANSMIT {
            return;
        }
        if let Some((_, count)) = &mut self.busy {
            *count += 1;
        }
        out.row(|buf| self.rows.row(buf, "sample", &body.into()));
    }

    fn resume(&mut self) {
        self.rows.refresh_clock();
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.warn_if_busy();
    }

    fn finish(&mut self, _out: &mut Printer) {
        self.finished = true;
    }

    fn uncounted(&self) -> u64 {
        self.traces.as_ref().map_or(0, |traces| traces.refused)
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn check(args: &Args) -> Result<(), Usage> {
    if args.live && args.common.output.style().format != Format::Table {
        return Err(Usage(
            "--live cannot be used with --json, --csv or --output".into(),
        ));
    }
    if args.live && args.common.output.columns.is_some() {
        return Err(Usage("--columns: sparklines have no columns".into()));
    }
    if args.refresh.is_some() && !args.live && args.hist.is_none() {
        return Err(Usage("--refresh requires --hist or --live".into()));
    }
    if args.top.is_some() && args.plot.is_none() && !args.live {
        return Err(Usage("--top requires --plot or --live".into()));
    }
    Ok(())
}

fn run(args: Args) -> Result<()> {
    check(&args)?;
    let (filter, output, run) = args.common.parts();
    let style = output.style();
    let hists = args.hist.as_ref();
    let hists = hists.map(|hist| Histograms::new(style.clone(), hist, &args));
    let mut hists = hists.transpose()?;
    let rows = Rows::new("tcpprobe", style.clone(), columns())?;
    let mut session = Session::new("tcpprobe", run, &["tcp:tcp_probe"])?;
    let place = args.plot.as_deref().map(|path| Place::new("--plot", path));
    let place = place.transpose()?;
    if let Some(place) = &place {
        session.will_write(place);
    }
    let mut storage = storage();
    let group_by = hists.as_ref().map_or(0, Histograms::bits);
    let configure = |open: &mut _| configure(open, &args, group_by);
    let loaded = session.start::<bpf::TcpprobeSkelBuilder>(&mut storage, filter, None, configure);
    let Some(mut skel) = loaded? else {
        let samples = fallback::Samples::new(&args)?;
        if let Some(hists) = &mut hists {
            return crate::fallback::run(&session, filter, samples, hists);
        }
        return crate::fallback::run(&session, filter, samples, &mut Probe::new(rows, &args));
    };
    if let Some(hists) = &mut hists {
        hists.read_from(Table::new(&skel.maps.hists)?);
        return session.run(skel.object_mut(), hists);
    }
    let top = top::limit(args.top, plot::USUAL_PLOTS);
    if args.live {
        let mut live = Live {
            style,
            clock: Clock::default(),
            traces: Traces::default(),
            every: Interval::new(Some(args.refresh.unwrap_or(Duration::from_secs(1)))),
            since: crate::kernel::clock::boot_ns(),
            top,
            refused: 0,
        };
        return session.run(skel.object_mut(), &mut live);
    }
    let mut probe = Probe::new(rows, &args);
    probe.traces = place.is_some().then(Traces::default);
    let result = session.run(skel.object_mut(), &mut probe);
    if let (Some(place), Some(path), Some(traces)) = (place, &args.plot, &probe.traces)
        && (result.is_ok() || probe.finished)
    {
        draw(&place, path, traces, top)?;
    }
    result
}

fn configure(open: &mut bpf::OpenTcpprobeSkel<'_>, args: &Args, group_by: u32) -> Result<()> {
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.sampled = args.sampling.is_set();
    rodata.sample_every = args.sampling.every;
    rodata.sample_interval_ns = args.sampling.interval_ns();
    rodata.sample_changes = args.sampling.changes;
    rodata.histograms = args.hist.is_some();
    rodata.group_by = group_by;
    if args.hist.is_some() {
        open.maps.hists.set_max_entries(MAX_HISTS)?;
    }
    let draws = args.plot.is_some() || args.live;
    open.progs.retransmit.set_autoload(draws);
    Ok(())
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpprobe", kinds, run)
}
