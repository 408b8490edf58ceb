// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools metrics: counters, gauges and histograms of what the commands show as rows, for Prometheus and whatever reads
//! its formats. The kernel half counts; nothing is sent per event.

mod collector;
mod counted;
mod counts;
#[cfg(any(test, fuzzing))]
pub(crate) mod http;
#[cfg(not(any(test, fuzzing)))]
mod http;
mod labels;
mod look;
mod model;
mod own;
mod serve;
mod server;
mod text;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::MapHandle;
use libbpf_rs::skel::Skel;

use self::collector::Collector;
use self::counted::SPAN_SERIES;
use self::counts::Counts;
use self::labels::{Labels, Writer};
use self::look::Look;
use self::own::Own;
use self::serve::{Serve, Where};
use self::server::Server;
use crate::cli::filter::Filter;
use crate::cli::{self, duration, whole};
use crate::error::Usage;
use crate::kernel::features;
use crate::kernel::files::Place;
use crate::kernel::tracepoints::{arguments::arguments, drops};
use crate::session::{Interval, Session, constants, storage};

crate::skeleton!("metrics");

/// Count connections, failures, retransmissions, resets, drops and queues, as metrics for Prometheus
///
/// Serves them over HTTP until Ctrl-C; or writes them to a file, again and again, or once. The kernel counts: no event
/// makes a row. Sockets that exist at the start count in gauges, and from then on in sums.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Serve at http://ADDRESS/metrics [default: 127.0.0.1:9435]
    #[arg(short, long, value_name = "ADDRESS:PORT", conflicts_with_all = ["textfile", "once"])]
    listen: Option<SocketAddr>,
    /// Write to FILE every TIME, for the textfile collector of node_exporter; its name must end in .prom
    #[arg(short, long, value_name = "FILE", conflicts_with = "once")]
    textfile: Option<PathBuf>,
    /// Print them once, after --duration, and exit
    #[arg(long)]
    once: bool,
    /// How often --textfile writes
    #[arg(short, long, value_name = "TIME", value_parser = duration, default_value = "15s", requires = "textfile")]
    interval: Duration,
    /// Tell series apart by these: comm,lport,raddr/24; a prefix is that of IPv4, or of both as raddr/24/56
    #[arg(long, value_name = "LIST", value_parser = Labels::parse)]
    labels: Option<Labels>,
    /// Keep at most N series with --labels; what is beyond is counted under the label other
    #[arg(long, value_name = "N", value_parser = whole(100..=1_000_000u32), default_value_t = 10_000)]
    max_series: u32,
    /// Add a series of --labels to the label other when nothing has come for TIME
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    expire: Duration,
    #[command(flatten)]
    running: Running,
    #[command(flatten)]
    filter: Filter,
}

const EXAMPLES: &str = "\
Examples:
  tcptools metrics                       at http://127.0.0.1:9435/metrics
  tcptools metrics --labels comm,lport   told apart by process and by local port
  tcptools metrics --once -d 10s         what comes in ten seconds, printed

Manual page: tcptools-metrics(8)";

/// How long and how it runs: as [`cli::Run`], without what only rows have.
#[derive(clap::Args)]
#[command(next_help_heading = "Running")]
struct Running {
    /// Stop after TIME: seconds, or a number with a unit (500ms, 10s, 5m, 1h)
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Set for how many TCP sockets the state is kept in a table (default: from what is open, at least 16384)
    #[arg(long, value_name = "N", value_parser = whole(cli::SOCKETS))]
    sockets: Option<u32>,
    /// Skip the initial scan of open sockets (starts faster; their owners stay unknown until they act)
    #[arg(long)]
    no_scan: bool,
    /// Create FILE once every probe is attached, and remove it on exit
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// See cli::Run.
    #[arg(long, hide = true, value_name = "N")]
    stop_fd: Option<i32>,
    /// Print libbpf debug messages to standard error
    #[arg(short, long)]
    verbose: bool,
}

/// The port is one that no other exporter has (github.com/prometheus/prometheus/wiki/Default-port-allocations).
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9435);

/// Kinds of ends without labels: those that occur are few.
const MAX_ENDS: u32 = 4096;

impl Args {
    fn run(&self) -> cli::Run {
        let running = &self.running;
        // Without time, --once is a single look.
        let once = self.once.then_some(Duration::ZERO);
        cli::Run {
            duration: running.duration.or(once),
            count_events: None,
            buffer: *cli::BUFFER_KIB.start(),
            sockets: running.sockets,
            no_scan: running.no_scan,
            btf: None,
            ready_file: running.ready_file.clone(),
            ready_fd: None,
            stop_fd: running.stop_fd,
            stats: false,
            verbose: running.verbose,
        }
    }

    fn check(&self) -> Result<()> {
        let why = match &self.textfile {
            _ if self.filter.mptcp => {
                "--mptcp: metrics count the subflows of MPTCP connections, which carry them"
            }
            Some(file) if file.extension().is_none_or(|end| end != "prom") => {
                "--textfile: the name must end in .prom, as node_exporter reads no other file"
            }
            _ => return Ok(()),
        };
        Err(Usage(why.into()).into())
    }

    fn to(&self, session: &mut Session<'_>) -> Result<Where> {
        if self.once {
            return Ok(Where::Output);
        }
        let Some(path) = &self.textfile else {
            let server = Server::bind(self.listen.unwrap_or(LISTEN))?;
            return Ok(Where::Listen(Box::new(server)));
        };
        let place = Place::new("--textfile", path)?;
        session.will_write(&place);
        Ok(Where::File(place, Interval::at_once(self.interval)))
    }

    fn configure(&self, open: &mut bpf::OpenMetricsSkel<'_>) -> Result<()> {
        let rodata = constants(&mut open.maps.rodata_data)?;
        let labels = self.labels.as_ref();
        let filter = &self.filter;
        rodata.plain = labels.is_none() && !filter.is_set();
        rodata.labelled = labels.is_some();
        let whose = filter.pid.is_some() || filter.comm.is_some();
        rodata.owned = whose || labels.is_some_and(Labels::asks_owner);
        let owned = rodata.owned;
        if let Some(labels) = labels {
            rodata.group_by = labels.bits();
            let (cut, [laddr, raddr]) = labels.masks();
            rodata.prefixed = cut;
            (rodata.laddr_mask, rodata.raddr_mask) = (laddr, raddr);
        }
        rodata.reports_err = arguments("tcp_retransmit_skb") > 2;
        rodata.reset_has_reason = arguments("tcp_send_reset") > 2;
        rodata.has_reason = drops::has_reason();
        rodata.has_rx_sk = drops::has_socket();
        rodata.hidden = drops::harmless();
        rodata.local_ports = local_ports();
        let (counts, spans) = match labels {
            // Three quarters for counters, and the rest for histograms, each of which is many.
            Some(_) => (self.max_series / 4 * 3, self.max_series / 4 / SPAN_SERIES),
            None => (MAX_ENDS, 1),
        };
        open.maps.counts.set_max_entries(counts)?;
        open.maps.spans.set_max_entries(spans.max(1))?;
        // Who reads does not matter where nobody asks whose a socket is.
        open.progs.note_reader.set_autoload(owned);
        open.progs.sockets_here.set_autoload(true);
        Ok(())
    }
}

/// The ports that the kernel chooses from, of the namespace that the command is in.
fn local_ports() -> [u16; 2] {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high))) => [low, high],
        _ => [32768, 60999],
    }
}

/// What it attaches to, and cannot do without.
const TRACEPOINTS: &[&str] = &["sock:inet_sock_set_state"];

/// # Errors
/// A sentence: this kernel cannot, the address or the file cannot be had, or a wrong argument.
pub fn run(args: &Args) -> Result<()> {
    args.check()?;
    let run = args.run();
    let mut session = Session::new("tcptools", &run, TRACEPOINTS)?;
    // What cannot be had is told before anything is loaded.
    let to = args.to(&mut session)?;
    let mut storage = storage();
    let loaded =
        session.start::<bpf::MetricsSkelBuilder>(&mut storage, &args.filter, None, |open| {
            args.configure(open)
        });
    let Some(mut skel) = loaded? else {
        bail!(
            "{}: metrics are counted by programs, which it does not run",
            features::this_kernel()
        );
    };
    let look = Look::new(&skel.progs.sockets_here, args.expire);
    let look = look.context("this kernel cannot visit its sockets (before 5.9)")?;
    let maps = [
        MapHandle::try_from(&skel.maps.totals)?,
        MapHandle::try_from(&skel.maps.counts)?,
        MapHandle::try_from(&skel.maps.spans)?,
    ];
    let own = Own::new(skel.object());
    let counts = Counts::new(maps, args.expire);
    let writer = Writer::new(args.labels.as_ref());
    let labelled = args.labels.is_some();
    let collector = Collector::new(look, counts, own, writer, labelled);
    session.run(skel.object_mut(), &mut Serve::new(collector, to))
}
