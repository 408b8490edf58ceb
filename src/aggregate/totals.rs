// SPDX-License-Identifier: MIT OR Apache-2.0
//! Totals of retransmissions by peer, port, process or flow: the largest ones, and their share of what was sent.

use std::time::Duration;

use crate::abi::types::head;
use crate::aggregate::bounded::{Bounded, Sum};
use crate::aggregate::group::{Group, bits};
use crate::aggregate::keys::Keys;
use crate::aggregate::top;
use crate::error::Usage;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::value::Value;
use crate::output::{Column, Figures, Format, Row, Rows, Shown, Style};
use crate::session::{Printer, interval::Interval};

/// Totals that are kept at once: those with most retransmissions, and among these with most segments sent.
const MAX_TOTALS: usize = 50_000;

/// Segments that were sent, and sent again by cause: other, SYN, SYN/ACK, RTO, fast, TLP.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// All segments, retransmissions and pure ACKs too (`tcp_sock.segs_out`).
    pub segs_out: u64,
    /// Those with payload (`tcp_sock.data_segs_out`).
    pub data_segs_out: u64,
    /// Those that the other end had already, by its own account (`tcp_sock.dsack_dups`).
    pub dsack_dups: u64,
    /// How often segments arrived in another order than that in which they were sent (`tcp_sock.reord_seen`).
    pub reord_seen: u64,
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
        self.incomplete |= more.incomplete;
        self.segs_out += more.segs_out;
        self.data_segs_out += more.data_segs_out;
        self.dsack_dups += more.dsack_dups;
        self.reord_seen += more.reord_seen;
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

    /// A number of segments that were sent, if all are known.
    fn known(&self, segments: u64) -> Option<u64> {
        (!self.incomplete).then_some(segments)
    }
}

/// Of which the keys may take so many columns of a narrow table that has all causes.
const KEYS_WIDTH: usize = 23;
/// The same, of one that has segments that were sent again in vain, too.
const KEYS_WIDTH_DSACK: usize = 16;

#[rustfmt::skip] // one line per column
fn columns(keys: &Keys) -> Vec<Column<Sent>> {
    let mut all = keys.columns(|_| Vec::new());
    let width: usize = all.iter().filter(|c| c.shown.has(Shown::NARROW)).map(|c| c.width.0 + 1).sum();
    let causes = if width > KEYS_WIDTH + 1 { Shown::DETAIL } else { Shown::ALL };
    let dsack = if width > KEYS_WIDTH_DSACK + 1 { Shown::DETAIL } else { Shown::ALL };
    all.extend(columns! { |row, sent: Sent|
        "retrans_segs"    ALL      "RETRANS" (6, 6).right  => sent.all();
        "segs_out"        ALL      "SENT"    (6, 6).right  => sent.known(sent.segs_out);
        "data_segs_out"   DETAIL   "DATA"    (6, 6).right  => sent.known(sent.data_segs_out);
        "retrans_percent" ALL      "%"       (6, 6).right  => sent.percent().map(Value::Percent);
        "syn"             (causes) "SYN"     (6, 6).right  => sent.retrans[1];
        "synack"          (causes) "SYNACK"  (6, 6).right  => sent.retrans[2];
        "rto"             ALL      "RTO"     (6, 6).right  => sent.retrans[3];
        "fast"            (causes) "fast"    (6, 6).right  => sent.retrans[4];
        "tlp"             (causes) "TLP"     (6, 6).right  => sent.retrans[5];
        "other"           DETAIL   "other"   (6, 6).right  => sent.retrans[0];
        "dsack_dups"      (dsack)  "DSACK"   (6, 6).right  => sent.known(sent.dsack_dups);
        "reord_seen"      DETAIL   "REORD"   (6, 6).right  => sent.known(sent.reord_seen);
    });
    all
}

/// Adds up what sockets sent, and shows those that had to repeat most.
pub struct Totals {
    tool: &'static str,
    keys: Keys,
    /// Of each connection alone: every socket has one of its own, and few have anything to show.
    per_flow: bool,
    top: usize,
    sums: Bounded<Group, Sent>,
    rows: Rows<Sent>,
    /// When they are shown.
    pub every: Interval,
}

/// Default number of totals in a table; other formats have all.
const TOP: usize = 20;

impl Totals {
    /// Shows the first `top`, as [`top::limit`] has it; at each `interval`, if there is one, then with the time of day.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub fn new(
        tool: &'static str,
        mut style: Style,
        keys: Keys,
        top: Option<u32>,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        let usual = match style.format {
            Format::Table => TOP,
            _ => usize::MAX,
        };
        style.time &= style.format != Format::Table;
        style.time |= interval.is_some() && style.format == Format::Table;
        Ok(Self {
            tool,
            per_flow: keys.bits() & bits::FLOW == bits::FLOW,
            top: top::limit(top, usual),
            sums: Bounded::new(MAX_TOTALS),
            rows: Rows::sums(tool, style, columns(&keys))?.by(&keys.name()),
            every: Interval::new(interval),
            keys,
        })
    }

    /// What `--describe-columns` says of its rows, for each way to group.
    pub fn kinds() -> impl Iterator<Item = Kind> {
        Keys::each().map(|keys| Kind::sums_by("total", &columns(&keys)))
    }

    /// Adds what a socket sent since the last time.
    pub fn add(&mut self, head: &head, sent: &Sent) {
        let key = self.keys.group(head, 0);
        if self.per_flow && sent.all() == 0 {
            if let Some(sum) = self.sums.get_mut(&key) {
                sum.add(sent);
            }
            return;
        }
        // A flow that is not here had nothing sent again before.
        let flow = self.per_flow;
        let new = |incomplete| Sent {
            incomplete: incomplete && !flow,
            ..Sent::default()
        };
        self.sums.entry(key, new).add(sent);
    }

    /// Retransmissions in no total, for lack of space.
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
        let boot_ns = self.rows.next_period().boot_ns;
        let sums = self.sums.drain().filter(|(_, sent)| sent.all() != 0);
        let mut totals = self.keys.merged(sums, |to, more| to.add(&more));
        totals.sort_by(|(a, x), (b, y)| y.all().cmp(&x.all()).then_with(|| a.cmp(b)));
        let head = |(group, sent): (Group, Sent)| (group.head(boot_ns), sent);
        let mut totals: Vec<_> = totals.into_iter().map(head).collect();
        self.rows
            .sort(&mut totals, |(head, body)| Row { head, body });
        top::report(self.tool, ("total", "totals"), totals.len(), self.top);
        for (head, body) in totals.iter().take(self.top) {
            out.row(|buf| self.rows.row(buf, "total", &Row { head, body }));
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
    use crate::aggregate::by::By;
    use crate::output::golden::heads;

    #[test]
    fn share_excludes_segments_without_socket() {
        let mut sent = Sent {
            segs_out: 200,
            ..Sent::default()
        };
        sent.retrans = [0, 0, 7, 1, 2, 1];
        assert_eq!((sent.all(), sent.percent()), (11, Some(2.0)));
        assert_eq!(Sent::default().percent(), None);
    }

    fn totals(by: By) -> Totals {
        Totals::new("tcpretrans", Style::default(), Keys::of(by), None, None).unwrap()
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
    fn address_overflow_keeps_largest_and_total() {
        let mut totals = totals(By::Raddr);
        totals.add(&with(1), &sent(100, 9));
        for peer in 0..200_000 {
            totals.add(&with(1 << 24 | peer), &sent(7, 1));
        }
        totals.add(&with(2), &sent(100, 5));
        assert!(totals.sums.iter().count() <= MAX_TOTALS);
        let all: u64 = totals.sums.iter().map(|(_, sent)| sent.all()).sum();
        assert_eq!(all + totals.uncounted(), 200_000 + 9 + 5);
        let of = |peer| {
            let key = Keys::of(By::Raddr).group(&with(peer), 0);
            totals.sums.iter().find(|(k, _)| **k == key).unwrap().1
        };
        assert_eq!((of(1).all(), of(1).percent()), (9, Some(9.0)));
        // Of this one something may have been let go.
        assert_eq!((of(2).all(), of(2).percent()), (5, None));
        assert_eq!(of(2).known(100), None);
    }

    #[test]
    fn empty_flows_take_no_room() {
        let mut totals = totals(By::Flow);
        (0..1000).for_each(|peer| totals.add(&with(peer), &sent(7, 0)));
        assert_eq!(totals.sums.iter().count(), 0);
        // A SYN/ACK that was sent again, then what the connection sent.
        totals.add(&with(3), &sent(0, 1));
        totals.add(&with(3), &sent(50, 0));
        let (key, total) = totals.sums.iter().next().unwrap();
        assert_eq!((total.all(), total.percent()), (1, Some(2.0)));
        assert_eq!(key.head(0).remote(), with(3).remote());
    }

    #[test]
    fn a_total_has_the_fields_that_it_is_grouped_by_and_no_others() {
        let style = Style {
            format: Format::Json,
            ..Style::default()
        };
        let head = heads()[1];
        let fields = [
            "laddr", "lport", "raddr", "rport", "pid", "comm", "uid", "netns",
        ];
        for (by, own) in [
            (By::Raddr, r#"{"raddr":"192.0.2.2"}"#),
            (By::Rport, r#"{"rport":443}"#),
            (By::Lport, r#"{"lport":49152}"#),
            (By::Pid, r#"{"pid":4711}"#),
            (By::Comm, r#"{"comm":"curl"}"#),
            (By::Uid, r#"{"uid":1000}"#),
            (By::Netns, r#"{"netns":4026531840}"#),
            (
                By::Flow,
                r#"{"laddr":"192.0.2.1","lport":49152,"raddr":"192.0.2.2","rport":443,"netns":4026531840}"#,
            ),
        ] {
            let keys = Keys::of(by);
            let (head, body) = (keys.group(&head, 0).head(7), sent(7, 1));
            let rows = Rows::sums("tcpretrans", style.clone(), columns(&keys)).unwrap();
            let (mut rows, mut out) = (rows.by(&keys.name()), Vec::new());
            let row = Row {
                head: &head,
                body: &body,
            };
            rows.row(&mut out, "total", &row);
            let mut row: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(
                (&row["by"], &row["interval_us"]),
                (&by.name().into(), &0.into())
            );
            let row = row.as_object_mut().unwrap();
            row.retain(|key, _| fields.contains(&&**key));
            let own: serde_json::Value = serde_json::from_str(own).unwrap();
            assert_eq!(serde_json::Value::from(row.clone()), own);
        }
    }

    #[test]
    fn narrow_tables_fit_80_columns() {
        for keys in Keys::each() {
            let narrow = columns(&keys);
            let narrow = narrow.iter().filter(|c| c.shown.has(Shown::NARROW));
            let width: usize = narrow.map(|c| c.room(false) + 1).sum();
            assert!(width - 1 <= 80, "{}: {width}", keys.name());
        }
    }

    #[test]
    fn unknown_owner_has_its_own_total() {
        for by in [By::Pid, By::Comm] {
            let mut totals = totals(by);
            totals.add(&head::default(), &sent(7, 1));
            totals.add(&heads()[1], &sent(7, 1));
            assert_eq!(totals.sums.iter().count(), 2);
        }
    }
}
