// SPDX-License-Identifier: MIT OR Apache-2.0
//! Totals of retransmissions by who or where: the top talkers, and the share of what each sent that was sent again.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::boot_ns;
use crate::count::Every;
use crate::output::schema::Kind;
use crate::output::{Column, Figures, Format, Row, Rows, Shown, Style};
use crate::session::Printer;
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
    fn key(self, head: &head) -> Vec<u8> {
        let flow = &head.flow;
        match self {
            Self::Raddr => head.remote().to_string().into(),
            Self::Rport => flow.rport.to_string().into(),
            Self::Lport => flow.lport.to_string().into(),
            Self::Pid => head
                .pid()
                .map(|pid| pid.to_string().into())
                .unwrap_or_default(),
            Self::Comm => head.comm().map(<[u8]>::to_vec).unwrap_or_default(),
            Self::Flow => {
                let local = head.local().with_port(flow.lport);
                let remote = head.remote().with_port(flow.rport);
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
        (self.segs_out != 0).then(|| again as f64 * 100.0 / self.segs_out as f64)
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
        kind("segs_out", "SENT", |r| Value::Int(r.body.sent.segs_out)),
        kind("data_segs_out", "DATA", |r| {
            Value::Int(r.body.sent.data_segs_out)
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
    by: By,
    top: usize,
    sums: HashMap<Vec<u8>, Sent>,
    rows: Rows<Talker>,
    every: Every,
}

impl Talkers {
    /// Shows the first `top`; at each `interval`, if there is one, then with the time of day.
    pub fn new(
        tool: &'static str,
        mut style: Style,
        by: By,
        top: usize,
        interval: Option<Duration>,
    ) -> Self {
        style.time &= style.format != Format::Table;
        style.time |= interval.is_some() && style.format == Format::Table;
        Self {
            by,
            top,
            sums: HashMap::new(),
            rows: Rows::aggregate(tool, style, columns(by)),
            every: Every::new(interval),
        }
    }

    /// What `--describe-columns` says of its rows.
    pub fn kind() -> Kind {
        Kind::aggregate("total", &columns(By::Flow))
    }

    /// Adds what a socket sent since the last time.
    pub fn add(&mut self, head: &head, sent: &Sent) {
        self.sums.entry(self.by.key(head)).or_default().add(sent);
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
        talkers.sort_by(|(a, x), (b, y)| y.all().cmp(&x.all()).then_with(|| a.cmp(b)));
        let now = head {
            boot_ns: boot_ns(),
            ..head::default()
        };
        for (key, sent) in talkers.into_iter().take(self.top) {
            let talker = Talker {
                by: self.by,
                key,
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

    #[test]
    fn an_unknown_owner_is_a_total_of_its_own() {
        assert!(By::Pid.key(&head::default()).is_empty());
        assert!(By::Comm.key(&head::default()).is_empty());
        assert_eq!(By::Rport.key(&head::default()), b"0");
        for by in <By as clap::ValueEnum>::value_variants() {
            let value = clap::ValueEnum::to_possible_value(by).unwrap();
            assert_eq!(value.get_name(), by.name());
        }
    }
}
