// SPDX-License-Identifier: MIT OR Apache-2.0
//! sockbuf: a row per packet or allocation that a full socket buffer or a memory limit refused, of any protocol.
//!
//! Traces `sock:sock_rcvqueue_full`, `sock:sock_exceed_buf_limit` and `udp:udp_fail_queue_rcv_skb`.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use libbpf_rs::Link;
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common};
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Row, Rows, Shown, comm, laddr, lport, pid, raddr, rport};
use tcptools::preflight;
use tcptools::session::{Figures, Handler, Printer, Session};
use tcptools::types::{Record, decode, head};
use tcptools::value::Value;
use tcptools::{choice::Choice, iter};

#[path = "sockbuf/record.rs"]
mod record;

tcptools::skeleton!("sockbuf");
use bpf::types::overflow;
tcptools::record!(overflow, bpf::types::head);

/// Show socket buffers that overflow and memory limits that are met: whose socket, how full, and what to tune.
///
/// WHY is rcvbuf (the socket's own receive buffer is full), mem_max (all sockets of the protocol are over the host's
/// limit), pressure (they are near it, and this one has more than its guaranteed minimum) or memcg (the memory
/// cgroup refused).
#[derive(Parser)]
#[command(name = "sockbuf")]
struct Args {
    /// Show these columns, by JSON key or heading; +LIST adds them to those shown anyway
    #[arg(long, value_name = "LIST")]
    columns: Option<Choice>,
    #[command(flatten)]
    common: Common,
}

/// `enum event_kind` of sockbuf.bpf.c, and the row's `event` in JSON.
const EVENTS: [&str; 3] = ["rcvqueue_full", "exceed_buf_limit", "udp_fail_queue_rcv"];
const RCVQUEUE_FULL: u32 = 0;
const EXCEED_BUF_LIMIT: u32 = 1;
const UDP_FAIL_QUEUE: u32 = 2;

/// `enum cause` of sockbuf.bpf.c.
const CAUSES: [&str; 4] = ["rcvbuf", "mem_max", "pressure", "memcg"];
const CAUSE_RCVBUF: u8 = 0;
const CAUSE_MEM_MAX: u8 = 1;
const CAUSE_PRESSURE: u8 = 2;
const CAUSE_MEMCG: u8 = 3;
/// Only a tracepoint's record tells, and not that.
const CAUSE_UNKNOWN: u8 = u8::MAX;

/// AF_* of include/linux/socket.h by number, those that can come here.
const FAMILIES: [(u16, &str); 19] = [
    (2, "inet"),
    (3, "ax25"),
    (6, "netrom"),
    (9, "x25"),
    (10, "inet6"),
    (11, "rose"),
    (15, "key"),
    (17, "packet"),
    (21, "rds"),
    (26, "llc"),
    (29, "can"),
    (30, "tipc"),
    (31, "bluetooth"),
    (35, "phonet"),
    (36, "ieee802154"),
    (38, "alg"),
    (40, "vsock"),
    (42, "qipcrtr"),
    (43, "smc"),
];

/// SOCK_STREAM
const STREAM: u16 = 1;

/// SOCK_* of include/linux/net.h by number.
const TYPES: [&str; 11] = [
    "",
    "stream",
    "dgram",
    "raw",
    "rdm",
    "seqpacket",
    "dccp",
    "",
    "",
    "",
    "packet",
];

type C = Column<overflow>;

fn columns() -> Vec<C> {
    [who(), why(), sizes()].into_iter().flatten().collect()
}

fn who() -> Vec<C> {
    let text = Shown::TEXT;
    vec![
        C::new("pid", "PID", (5, 7), pid).shown(text),
        C::new("comm", "COMM", (6, 16), comm).shown(text),
        C::new("proto", "PROTO", (6, 8), |r| name(&r.body.proto_name)),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(text),
        C::new("lport", "LPORT", (5, 5), lport).shown(text),
        C::new("raddr", "RADDR", (15, 39), raddr).shown(text),
        C::new("rport", "RPORT", (5, 5), rport).shown(text),
        C::new("socket_family", "FAMILY", (9, 9), |r| {
            let found = FAMILIES.iter().find(|(n, _)| *n == r.body.family);
            found.map_or(Value::Unknown, |(_, name)| Value::Text(name))
        })
        .shown(Shown::DETAIL),
        C::new("type", "TYPE", (6, 6), |r| {
            match TYPES.get(usize::from(r.body.sock_type)) {
                None | Some(&"") => Value::Unknown,
                Some(name) => Value::Text(name),
            }
        })
        .shown(Shown::DETAIL),
        C::new("protocol", "", (0, 0), |r| {
            unless(is_bare(r.body) && r.body.protocol == 0, || {
                Value::Int(r.body.protocol.into())
            })
        })
        .shown(Shown::JSON),
    ]
}

fn why() -> Vec<C> {
    let detail = Shown::DETAIL;
    vec![
        C::new("cause", "WHY", (8, 8), |r| {
            CAUSES
                .get(usize::from(r.body.cause))
                .map_or(Value::Unknown, |cause| Value::Text(cause))
        }),
        C::new("direction", "DIR", (4, 4), |r| {
            Value::Text(if r.body.sending == 0 { "recv" } else { "send" })
        })
        .shown(detail),
        C::new("used_bytes", "USED", (6, 7), |r| {
            used(r.body).map_or(Value::Unknown, Value::Bytes)
        })
        .right(),
        C::new("limit_bytes", "LIMIT", (6, 7), |r| {
            limit(r.body).map_or(Value::Unknown, Value::Bytes)
        })
        .right()
        .shown(detail),
        C::new("drops", "DROPS", (7, 7), |r| {
            unless(is_bare(r.body), || Value::Int(r.body.drops.into()))
        })
        .right()
        .shown(detail),
        C::new("tune", "TUNE", (22, 22), |r| {
            tune(r.body).map_or(Value::Unknown, Value::Text)
        })
        .shown(detail),
    ]
}

fn sizes() -> Vec<C> {
    let json = |key, get| {
        Column::<overflow>::new(key, "", (0, 0), get)
            .right()
            .shown(Shown::JSON)
    };
    vec![
        json("rmem_alloc_bytes", |r| {
            size(r, &[RCVQUEUE_FULL, EXCEED_BUF_LIMIT], r.body.rmem_alloc)
        }),
        json("rcvbuf_bytes", |r| size(r, &[RCVQUEUE_FULL], r.body.rcvbuf)),
        json("rcvbuf_locked", |r| {
            unless(is_bare(r.body), || Value::Bool(r.body.rcvbuf_locked != 0))
        }),
        json("wmem_queued_bytes", |r| {
            size(r, &[EXCEED_BUF_LIMIT], r.body.wmem_queued)
        }),
        json("wmem_alloc_bytes", |r| {
            size(r, &[EXCEED_BUF_LIMIT], r.body.wmem_alloc)
        }),
        json("sndbuf_bytes", |r| size(r, &[], r.body.sndbuf)),
        json("truesize_bytes", |r| match r.body.truesize {
            0 => Value::Unknown,
            bytes => Value::Bytes(bytes.into()),
        }),
        json("minimum_bytes", |r| {
            pages(r.body, r.body.minimum.into(), Value::Bytes)
        }),
        json("mem_allocated_pages", |r| {
            pages(r.body, r.body.allocated, Value::Int)
        }),
        json("mem_low_pages", |r| {
            pages(r.body, r.body.mem[0], Value::Int)
        }),
        json("mem_pressure_pages", |r| {
            pages(r.body, r.body.mem[1], Value::Int)
        }),
        json("mem_max_pages", |r| {
            pages(r.body, r.body.mem[2], Value::Int)
        }),
    ]
}

fn is_bare(body: &overflow) -> bool {
    body.bare != 0
}

fn unless<'a>(unknown: bool, value: impl FnOnce() -> Value<'a>) -> Value<'a> {
    if unknown { Value::Unknown } else { value() }
}

/// Bytes that the records of only these tracepoints have.
fn size(row: &Row<'_, overflow>, told_by: &[u32], bytes: u32) -> Value<'static> {
    let unknown = is_bare(row.body) && !told_by.contains(&row.head.event);
    unless(unknown, || Value::Bytes(bytes.into()))
}

/// What only a memory limit has.
fn pages(body: &overflow, value: i64, make: fn(u64) -> Value<'static>) -> Value<'static> {
    if body.cause == CAUSE_RCVBUF {
        Value::Unknown
    } else {
        make(value.max(0) as u64)
    }
}

/// What is held against the limit that `cause` names: the memory of all sockets, or this one's.
fn used(body: &overflow) -> Option<u64> {
    let bare_of = |event| is_bare(body) && body.head.event == event;
    Some(match body.cause {
        _ if bare_of(UDP_FAIL_QUEUE) => return None,
        CAUSE_MEM_MAX => page_bytes(body.allocated),
        _ if body.sending == 0 => body.rmem_alloc.into(),
        // A stream counts what waits to be acknowledged, the others what is on its way.
        _ if body.sock_type == STREAM => body.wmem_queued.into(),
        _ if is_bare(body) && body.sock_type == 0 => return None,
        _ => body.wmem_alloc.into(),
    })
}

/// The limit that `cause` names; the cgroup's is not the socket's to know.
fn limit(body: &overflow) -> Option<u64> {
    match body.cause {
        CAUSE_RCVBUF if is_bare(body) && body.head.event == UDP_FAIL_QUEUE => None,
        CAUSE_RCVBUF => Some(body.rcvbuf.into()),
        CAUSE_MEM_MAX => Some(page_bytes(body.mem[2])),
        CAUSE_PRESSURE => Some(body.minimum.into()),
        _ => None,
    }
}

fn page_bytes(pages: i64) -> u64 {
    (pages.max(0) as u64).saturating_mul(*PAGE)
}

static PAGE: LazyLock<u64> = LazyLock::new(|| {
    // SAFETY: asks for a constant of the running system.
    let size = unsafe { nix::libc::sysconf(nix::libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
});

/// What would have let it pass: a sysctl, a socket option, or the cgroup's limit.
fn tune(body: &overflow) -> Option<&'static str> {
    Some(match (body.cause, body.protocol) {
        // Whether SO_RCVBUF was set is the socket's to know.
        (CAUSE_RCVBUF, _) if is_bare(body) => return None,
        (CAUSE_UNKNOWN, _) => return None,
        // SO_RCVBUF was set, and net.core.rmem_max bounds what it may be.
        (CAUSE_RCVBUF, _) if body.rcvbuf_locked != 0 => "SO_RCVBUF (net.core.rmem_max)",
        (CAUSE_RCVBUF, _) => "net.core.rmem_default",
        (CAUSE_MEMCG, _) => "memory cgroup limit",
        _ if body.sock_type == 3 => "memory limit of the protocol",
        (_, 6 | 262) => "net.ipv4.tcp_mem",
        (_, 17 | 136) => "net.ipv4.udp_mem",
        (_, 132) => "net.sctp.sctp_mem",
        _ => "memory limit of the protocol",
    })
}

fn name(bytes: &[u8; 32]) -> Value<'_> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..end]) {
        Ok("") | Err(_) => Value::Unknown,
        Ok(name) => Value::Text(name),
    }
}

/// How often the files of all processes are visited for owners, at most.
const LOOKUP_EVERY: Duration = Duration::from_secs(1);

/// More rows than this do not wait: they are shown without an owner.
const MAX_PARKED: usize = 1 << 16;

/// After this time a socket that nobody had open is looked for again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Finds the owners of sockets that were opened after the start: the seeding iterator, run again.
struct Lookup {
    link: Link,
    due: Instant,
    /// Keys of those that nobody had open: a socket of the kernel itself, or one closed since.
    vain: HashSet<u64>,
    forget: Instant,
}

impl Lookup {
    /// The owners that were asked for, by key, as the kernel half wrote them.
    fn run(&mut self) -> HashMap<u64, head> {
        self.due = Instant::now() + LOOKUP_EVERY;
        let bytes = iter::run(&self.link).unwrap_or_else(|error| {
            tcptools::message!("sockbuf: owners of new sockets stay unknown: {error:#}");
            Vec::new()
        });
        let heads = bytes.chunks_exact(size_of::<head>()).filter_map(|chunk| {
            let mut head = head::default();
            plain::copy_from_bytes(&mut head, chunk).ok()?;
            Some((head.cookie, head))
        });
        heads.collect()
    }

    fn helps(&self, body: &overflow) -> bool {
        body.head().pid_source().is_none() && body.key != 0 && !self.vain.contains(&body.key)
    }
}

struct Overflows {
    rows: Rows<overflow>,
    lookup: Option<Lookup>,
    /// Rows that wait for an owner, and, so that the order stays, those behind them.
    parked: Vec<overflow>,
}

impl Overflows {
    /// A row; not when --pid or --comm asked for an owner that could not be found.
    fn print(&mut self, body: &overflow, out: &mut Printer) {
        if body.undecided == 0 {
            let event = EVENTS.get(body.head.event as usize).unwrap_or(&EVENTS[0]);
            out.row(|buf| self.rows.row(buf, event, &body.into()));
        }
    }

    /// Looks up the owners that are missing, and shows what waited for that.
    fn release(&mut self, out: &mut Printer) {
        self.complete();
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Printer) {
        for body in std::mem::take(&mut self.parked) {
            self.print(&body, out);
        }
    }

    fn complete(&mut self) {
        if let Some(lookup) = &mut self.lookup
            && self.parked.iter().any(|body| lookup.helps(body))
        {
            let found = lookup.run();
            for body in &mut self.parked {
                if body.head().pid_source().is_some() {
                    continue;
                }
                match found.get(&body.key) {
                    Some(answer) => adopt(body, answer),
                    None => drop(lookup.vain.insert(body.key)),
                }
            }
        }
    }
}

/// Completes a row with the owner that was found, and with the filters' decision on that.
fn adopt(body: &mut overflow, answer: &head) {
    body.head.owner.pid = answer.owner.pid;
    body.head.owner.comm = answer.owner.comm;
    body.head.owner.source = answer.owner.source;
    body.undecided = u8::from(answer.event == 0);
}

impl Handler for Overflows {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode::<overflow>(record) else {
            return;
        };
        let helps = self.lookup.as_ref().is_some_and(|l| l.helps(body));
        if helps || !self.parked.is_empty() {
            self.parked.push(*body);
            if self.parked.len() >= MAX_PARKED {
                self.flush(out);
            }
        } else {
            self.print(body, out);
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        self.rows.refresh_clock();
        let Some(lookup) = &mut self.lookup else {
            return;
        };
        if Instant::now() >= lookup.forget {
            lookup.forget = Instant::now() + FORGET_AFTER;
            lookup.vain.clear();
        }
        if Instant::now() >= lookup.due {
            self.release(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn run(args: Args) -> Result<()> {
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let rows = Rows::chosen("sockbuf", output.style(), columns(), args.columns.as_ref())?;
    let tracepoints = ["sock:sock_rcvqueue_full", "sock:sock_exceed_buf_limit"];
    let session = Session::new("sockbuf", run, &tracepoints);
    if session.has_only_records() {
        let mut overflows = Overflows {
            rows,
            lookup: None,
            parked: Vec::new(),
        };
        return tcptools::record::run(&session, filter, record::Limits, &mut overflows);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::SockbufSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.lookup = !run.no_seed;
        rodata.page_shift = PAGE.trailing_zeros();
    }
    if !preflight::has_tracepoint("udp:udp_fail_queue_rcv_skb") {
        tcptools::message!(
            "sockbuf: UDP sockets with a full buffer are not shown: this kernel has no tracepoint udp:udp_fail_queue_rcv_skb"
        );
        open.progs.udp_fail.set_autoload(false);
    }
    let mut skel = session.load(open)?;
    let lookup = match run.no_seed {
        true => None,
        false => Some(Lookup {
            link: session.owners(skel.object_mut())?,
            due: Instant::now(),
            vain: HashSet::new(),
            forget: Instant::now() + FORGET_AFTER,
        }),
    };
    let mut overflows = Overflows {
        rows,
        lookup,
        parked: Vec::new(),
    };
    session.run(skel.object_mut(), &mut overflows)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    EVENTS.map(|event| Kind::row(event, &columns())).into()
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("sockbuf", run))
}
