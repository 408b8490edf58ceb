// SPDX-License-Identifier: MIT OR Apache-2.0
//! Totals of retransmissions by who or where: the top talkers, and the share of what each sent that was sent again.

use std::time::Duration;

use crate::bounded::{Bounded, Sum};
use crate::clock::boot_ns;
use crate::interval::Interval;
use crate::link::Address;
use crate::output::schema::Kind;
use crate::output::{Column, Figures, Format, Row, Rows, Shown, Style};
use crate::session::Printer;
use crate::top;
use crate::types::head;
use crate::value::Value;

/// What totals are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Remote address.
    #[default]
    Raddr,
    /// Remote port.
    Rport,
    /// Local port.
    Lport,
    /// Process id of the owner.
    Pid,
    /// Name of the owner.
    Comm,
    /// Both addresses and ports.
    Flow,
}

impl By {
    fn name(self) -> &'static str {
        ["raddr", "rport", "lport", "pid", "comm", "flow"][self as usize]
    }

    /// The total that a socket belongs to; what is not known is a total too.
    fn key(self, head: &head) -> Key {
        let flow = &head.flow;
        match self {
            Self::Raddr => Key::Addr(head.remote()),
            Self::Rport => Key::Number(flow.rport.into()),
            Self::Lport => Key::Number(flow.lport.into()),
            Self::Pid => head.pid().map_or(Key::Unknown, Key::Number),
            Self::Comm => head.comm().map_or(Key::Unknown, |comm| {
                // What older kernels leave behind the name is no part of it.
                let mut name = [0; 16];
                name.iter_mut().zip(comm).for_each(|(to, from)| *to = *from);
                Key::Comm(name)
            }),
            Self::Flow => {
                let [local, remote] = [head.local(), head.remote()];
                Key::Flow(local, flow.lport, remote, flow.rport)
            }
        }
    }
}

/// Totals that are kept at once: those with most retransmissions, and among these with most segments sent.
const MAX_TOTALS: usize = 50_000;

/// Small, as there may be very many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Unknown,
    Number(u32),
    Addr(Address),
    Comm([u8; 16]),
    Flow(Address, u16, Address, u16),
}

impl Key {
    fn text(&self) -> Vec<u8> {
        match *self {
            Self::Unknown => Vec::new(),
            Self::Number(number) => number.to_string().into(),
            Self::Addr(addr) => addr.to_string().into(),
            Self::Comm(comm) => comm.split(|&b| b == 0).next().unwrap_or_default().into(),
            Self::Flow(laddr, lport, raddr, rport) => {
                let [local, remote] = [laddr.with_port(lport), raddr.with_port(rport)];
                format!("{local}>{remote}").into()
            }
        }
    }
}

/// Segments that were sent, and sent again by cause: other, SYN, SYN/ACK, RTO, fast, TLP.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// All segments, retransmissions and pure ACKs too (`tcp_sock.segs_out`).
    pub segs_out: u64,
    /// Those with payload (`tcp_sock.data_segs_out`).
    pub data_segs_out: u64,
    /// Those sent again, in the order of `enum kind` in `bpf/tcpretrans.bpf.c`.
    pub retrans: [u64; 6],
    /// What was sent before may be missing: there was no room for it.
    pub incomplete: bool,
}

impl Sum for Sent {
    fn occurrences(&self) -> u64 {
        self.all()
    }

    fn rank(&self) -> (u64, u64) {
        (self.all(), self.segs_out)
    }
}

const SYNACK: usize = 2;

impl Sent {
    fn add(&mut self, more: &Self) {
        self.segs_out += more.segs_out;
        self.data_segs_out += more.data_segs_out;
        for (to, from) in self.retrans.iter_mut().zip(more.retrans) {
            *to += from;
        }
    }

    fn all(&self) -> u64 {
        self.retrans.iter().sum()
    }

    /// Without SYN/ACKs: a listener's segments are in no socket's count of what was sent.
    fn percent(&self) -> Option<f64> {
        let again = self.all() - self.retrans[SYNACK];
        let known = self.segs_out != 0 && !self.incomplete;
        known.then(|| again as f64 * 100.0 / self.segs_out as f64)
    }

    fn sent(&self, segments: u64) -> Value<'static> {
        match self.incomplete {
            false => Value::Int(segments),
            true => Value::Unknown,
        }
    }
}

struct Talker {
    by: By,
    key: Vec<u8>,
    sent: Sent,
}

type C = Column<Talker>;

fn columns(by: By) -> Vec<C> {
    let kind = |key, heading, get| C::new(key, heading, (6, 6), get).right();
    let heading = match by {
        By::Raddr => "RADDR",
        By::Rport => "RPORT",
        By::Lport => "LPORT",
        By::Pid => "PID",
        By::Comm => "COMM",
        By::Flow => "LADDR:LPORT>RADDR:RPORT",
    };
    vec![
        C::new("boot_ns", "", (0, 0), |r| Value::Int(r.head.boot_ns)).shown(Shown::JSON),
        C::new("by", "", (0, 0), |r| Value::Text(r.body.by.name())).shown(Shown::JSON),
        C::new(
            "key",
            heading,
            if by == By::Flow { (41, 60) } else { (16, 39) },
            |r| {
                if r.body.key.is_empty() {
                    Value::Unknown
                } else {
                    Value::Comm(&r.body.key)
                }
            },
        ),
        kind("retrans_segs", "RETRANS", |r| Value::Int(r.body.sent.all())),
        kind("segs_out", "SENT", |r| {
            r.body.sent.sent(r.body.sent.segs_out)
        }),
        kind("data_segs_out", "DATA", |r| {
            r.body.sent.sent(r.body.sent.data_segs_out)
        })
        .shown(Shown::DETAIL),
        kind("retrans_percent", "%", |r| {
            r.body.sent.percent().map_or(Value::Unknown, Value::Percent)
        }),
        kind("syn", "SYN", |r| Value::Int(r.body.sent.retrans[1])),
        kind("synack", "SYNACK", |r| Value::Int(r.body.sent.retrans[2])),
        kind("rto", "RTO", |r| Value::Int(r.body.sent.retrans[3])),
        kind("fast", "fast", |r| Value::Int(r.body.sent.retrans[4])),
        kind("tlp", "TLP", |r| Value::Int(r.body.sent.retrans[5])),
        kind("other", "other", |r| Value::Int(r.body.sent.retrans[0])).shown(Shown::DETAIL),
    ]
}

/// Adds up what sockets sent, and shows those that had to repeat most.
pub struct Talkers {
    tool: &'static str,
    by: By,
    top: usize,
    sums: Bounded<Key, Sent>,
    rows: Rows<Talker>,
    every: Interval,
}

/// How many totals a table has if nothing is said; other formats have all.
const TOP: usize = 20;

impl Talkers {
    /// Shows the first `top`, as [`top::limit`] has it; at each `interval`, if there is one, then with the time of day.
    pub fn new(
        tool: &'static str,
        mut style: Style,
        by: By,
        top: Option<u32>,
        interval: Option<Duration>,
    ) -> Self {
        let usual = match style.format {
            Format::Table => TOP,
            Format::Csv | Format::Json => usize::MAX,
        };
        style.time &= style.format != Format::Table;
        style.time |= interval.is_some() && style.format == Format::Table;
        Self {
            tool,
            by,
            top: top::limit(top, usual),
            sums: Bounded::new(MAX_TOTALS),
            rows: Rows::aggregate(tool, style, columns(by)),
            every: Interval::new(interval),
        }
    }

    /// What `--describe-columns` says of its rows.
    pub fn kind() -> Kind {
        Kind::aggregate("total", &columns(By::Flow))
    }

    /// Adds what a socket sent since the last time.
    pub fn add(&mut self, head: &head, sent: &Sent) {
        let key = self.by.key(head);
        // Every socket has a flow of its own, and few have anything to show.
        if self.by == By::Flow && sent.all() == 0 {
            if let Some(sum) = self.sums.get_mut(&key) {
                sum.add(sent);
            }
            return;
        }
        // A flow that is not here had nothing sent again before.
        let flow = self.by == By::Flow;
        let new = |incomplete| Sent {
            incomplete: incomplete && !flow,
            ..Sent::default()
        };
        self.sums.entry(key, new).add(sent);
    }

    /// Retransmissions that no total has, for want of room.
    pub fn uncounted(&self) -> u64 {
        self.sums.uncounted()
    }

    /// At which it is shown, if at any.
    pub fn interval(&self) -> Option<Duration> {
        self.every.length()
    }

    /// Whether the interval is over.
    pub fn is_due(&mut self) -> bool {
        self.every.is_due()
    }

    /// The header line, if the format has one.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    /// Shows the totals, the most retransmissions first, and begins anew. What was never sent again is not shown.
    pub fn print(&mut self, out: &mut Printer) {
        self.rows.refresh_clock();
        let mut talkers: Vec<_> = self
            .sums
            .drain()
            .filter(|(_, sent)| sent.all() != 0)
            .collect();
        let by_number = |(a, x): &(Key, Sent), (b, y): &(Key, Sent)| {
            y.all().cmp(&x.all()).then_with(|| a.cmp(b))
        };
        talkers.sort_by(by_number);
        top::say(self.tool, ("total", "totals"), talkers.len(), self.top);
        let now = head {
            boot_ns: boot_ns(),
            ..head::default()
        };
        for (key, sent) in talkers.into_iter().take(self.top) {
            let talker = Talker {
                by: self.by,
                key: key.text(),
                sent,
            };
            let row = Row {
                head: &now,
                body: &talker,
            };
            out.row(|buf| self.rows.row(buf, "total", &row));
        }
    }

    /// The last record of a JSON run.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_leaves_out_what_no_socket_sent() {
        let mut sent = Sent {
            segs_out: 200,
            ..Sent::default()
        };
        sent.retrans = [0, 0, 7, 1, 2, 1];
        assert_eq!((sent.all(), sent.percent()), (11, Some(2.0)));
        assert_eq!(Sent::default().percent(), None);
    }

    fn talkers(by: By) -> Talkers {
        Talkers::new("tcpretrans", Style::default(), by, None, None)
    }

    /// A head whose flow is with this peer.
    fn with(peer: u32) -> head {
        let mut head = head::default();
        head.flow.family = 4;
        head.flow.laddr[10..12].copy_from_slice(&[255, 255]);
        head.flow.raddr[10..12].copy_from_slice(&[255, 255]);
        head.flow.raddr[12..].copy_from_slice(&peer.to_be_bytes());
        head
    }

    fn sent(segs_out: u64, fast: u64) -> Sent {
        let mut sent = Sent {
            segs_out,
            ..Sent::default()
        };
        sent.retrans[4] = fast;
        sent
    }

    #[test]
    fn a_flood_of_addresses_leaves_the_largest_and_adds_up() {
        let mut talkers = talkers(By::Raddr);
        talkers.add(&with(1), &sent(100, 9));
        for peer in 0..200_000 {
            talkers.add(&with(1 << 24 | peer), &sent(7, 1));
        }
        talkers.add(&with(2), &sent(100, 5));
        assert!(talkers.sums.iter().count() <= MAX_TOTALS);
        let all: u64 = talkers.sums.iter().map(|(_, sent)| sent.all()).sum();
        assert_eq!(all + talkers.uncounted(), 200_000 + 9 + 5);
        let of = |peer| {
            let key = By::Raddr.key(&with(peer));
            talkers.sums.iter().find(|(k, _)| **k == key).unwrap().1
        };
        assert_eq!((of(1).all(), of(1).percent()), (9, Some(9.0)));
        // Of this one something may have been let go.
        assert_eq!((of(2).all(), of(2).percent()), (5, None));
        assert_eq!(of(2).sent(100), Value::Unknown);
    }

    #[test]
    fn only_flows_with_something_to_show_take_room() {
        let mut talkers = talkers(By::Flow);
        (0..1000).for_each(|peer| talkers.add(&with(peer), &sent(7, 0)));
        assert_eq!(talkers.sums.iter().count(), 0);
        // A SYN/ACK that was sent again, then what the connection sent.
        talkers.add(&with(3), &sent(0, 1));
        talkers.add(&with(3), &sent(50, 0));
        let (key, total) = talkers.sums.iter().next().unwrap();
        assert_eq!((total.all(), total.percent()), (1, Some(2.0)));
        assert_eq!(key.text(), b"0.0.0.0:0>0.0.0.3:0");
    }

    #[test]
    fn an_unknown_owner_is_a_total_of_its_own() {
        assert!(By::Pid.key(&head::default()).text().is_empty());
        assert!(By::Comm.key(&head::default()).text().is_empty());
        assert_eq!(By::Rport.key(&head::default()).text(), b"0");
        for by in <By as clap::ValueEnum>::value_variants() {
            let value = clap::ValueEnum::to_possible_value(by).unwrap();
            assert_eq!(value.get_name(), by.name());
        }
    }
}
