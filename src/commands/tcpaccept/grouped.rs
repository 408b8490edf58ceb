// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary --by`: opens by whatever the user groups by, and the listeners behind them as far as the keys tell them.

use anyhow::Result;

use crate::abi::types::Record;
use crate::aggregate::counts::Growth;
use crate::aggregate::group::{Group, bits};
use crate::aggregate::keys::Keys;
use crate::aggregate::top;
use crate::error::Usage;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::value::Value;
use crate::output::{Column, Figures, Format, Row, Rows, Style};
use crate::session::Printer;

use super::listener::{Listener, TIME_UNKNOWN, known};

/// Groups in a table; other formats have all.
const TOP: usize = 20;

/// What a listener is known by: of a group by anything else, only its opens are.
const OF_LISTENER: u32 =
    bits::PID | bits::COMM | bits::UID | bits::CGROUP | bits::NETNS | bits::LPORT;

/// Whether opens have to be counted one by one: by a client, or by the address that it came to.
pub(super) fn counts_opens(keys: &Keys) -> bool {
    keys.bits() & !OF_LISTENER != 0
}

/// What the listeners of a group did in an interval.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    accepts: u64,
    interval_us: u64,
    /// `None`: the keys do not tell.
    listeners: Option<Listeners>,
}

/// The longest queue is known if one was read.
#[derive(Clone, Copy, Default)]
struct Listeners {
    number: u64,
    high: Option<u32>,
    drops: u64,
    new_drops: u64,
}

impl Sums {
    fn of_listener(listener: &Listener) -> Self {
        let drops = |number| known(number).unwrap_or(0).into();
        Self {
            accepts: Some(listener.accepts)
                .filter(|&accepts| accepts != TIME_UNKNOWN)
                .unwrap_or(0),
            interval_us: listener.interval_us,
            listeners: Some(Listeners {
                number: 1,
                high: known(listener.accept_queue_high),
                drops: drops(listener.queues.drops),
                new_drops: drops(listener.new_drops),
            }),
        }
    }

    fn add(&mut self, more: Self) {
        self.accepts += more.accepts;
        self.listeners = self.listeners.zip(more.listeners).map(|(a, b)| Listeners {
            number: a.number + b.number,
            high: a.high.max(b.high),
            drops: a.drops + b.drops,
            new_drops: a.new_drops + b.new_drops,
        });
    }
}

fn per_second(count: u64, sums: &Sums) -> Value<'static> {
    Value::Number(count as f64 * 1e6 / sums.interval_us.max(1) as f64)
}

#[rustfmt::skip] // one line per column
pub(super) fn columns_of(keys: &Keys) -> Vec<Column<Sums>> {
    let mut all = keys.columns(|_| Vec::new());
    all.extend(columns! { |row, s: Sums|
        "accepts"           ALL    "ACCEPTS" (7, 8).right  => s.accepts;
        "accepts_per_s"     ALL    "PER_S"   (5, 6).right  => per_second(s.accepts, s);
        "listeners"         DETAIL "LISTENERS" (9, 9).right => s.listeners.map(|l| l.number);
        "accept_queue_high" ALL    "QHIGH"   (5, 5).right  => s.listeners.and_then(|l| l.high);
        "drops"             ALL    "DROPS"   (5, 8).right  => s.listeners.map(|l| l.drops);
        "drops_per_s"       DETAIL "DROP/S"  (6, 6).right  => s.listeners.map(|l| per_second(l.new_drops, s));
    });
    all
}

/// What `--describe-columns` says of its rows, for each way to group.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    Keys::each().map(|keys| Kind::sums_by("total", &columns_of(&keys)))
}

/// Adds up listeners, or shows the opens that the kernel half counts.
pub(super) struct Grouped {
    keys: Keys,
    /// `None`: the listeners tell all.
    opens: Option<Growth>,
    rows: Rows<Sums>,
    top: usize,
}

impl Grouped {
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(keys: Keys, style: Style, top: Option<u32>) -> Result<Self, Usage> {
        let usual = match style.format {
            Format::Table => TOP,
            _ => usize::MAX,
        };
        let rows = Rows::sums("tcpaccept", style, columns_of(&keys))?;
        Ok(Self {
            rows: rows.by(&keys.name()),
            keys,
            opens: None,
            top: top::limit(top, usual),
        })
    }

    /// Opens that are counted one by one, where the keys ask for that.
    pub(super) fn read_from(&mut self, opens: Growth) {
        self.opens = Some(opens);
    }

    pub(super) fn begin(&mut self) {
        self.rows.next_period();
    }

    pub(super) fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    /// Shows the groups of an interval, those of most opens first. `listeners`: those that were busy.
    ///
    /// # Errors
    /// When the kernel half's table cannot be read.
    pub(super) fn print(&mut self, listeners: &[Listener], out: &mut Printer) -> Result<()> {
        let period = self.rows.next_period();
        let keys = &self.keys;
        let groups: Vec<(Group, Sums)> = match &mut self.opens {
            Some(opens) => {
                let sums = |accepts| Sums {
                    accepts,
                    interval_us: period.interval_us,
                    listeners: None,
                };
                let opens = opens.take()?.into_iter();
                keys.merged(opens.map(|(group, n)| (group, sums(n))), Sums::add)
            }
            None => {
                let of = |l: &Listener| (keys.group(l.head(), 0), Sums::of_listener(l));
                let mut all = std::collections::HashMap::new();
                for (group, sums) in listeners.iter().map(of) {
                    let sum = all.entry(group);
                    sum.and_modify(|to: &mut Sums| to.add(sums)).or_insert(sums);
                }
                keys.merged(all, Sums::add)
            }
        };
        let with_head = |(group, sums): (Group, Sums)| (group, group.head(period.boot_ns), sums);
        let mut groups: Vec<_> = groups.into_iter().map(with_head).collect();
        groups.sort_by_key(|(group, _, sums)| {
            let drops = sums.listeners.map_or(0, |l| l.new_drops);
            (std::cmp::Reverse((sums.accepts, drops)), *group)
        });
        self.rows
            .sort(&mut groups, |(_, head, body)| Row { head, body });
        top::report("tcpaccept", ("group", "groups"), groups.len(), self.top);
        for (_, head, body) in groups.iter().take(self.top) {
            out.row(|buf| self.rows.row(buf, "total", &Row { head, body }));
        }
        Ok(())
    }

    pub(super) fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::by::By;
    use crate::output::Shown;

    #[test]
    fn clients_are_counted_one_by_one_and_services_by_their_listeners() {
        for keys in Keys::each() {
            let of_client = ["laddr", "raddr", "rport", "flow"].contains(&&*keys.name());
            assert_eq!(counts_opens(&keys), of_client, "{}", keys.name());
        }
        assert!(counts_opens(&Keys::of(By::Comm).with(By::Raddr)));
    }

    #[test]
    fn narrow_tables_fit_80_columns() {
        for keys in Keys::each() {
            let narrow = columns_of(&keys);
            let narrow = narrow.iter().filter(|c| c.shown.has(Shown::NARROW));
            let width: usize = narrow.map(|c| c.room(false) + 1).sum();
            assert!(width - 1 <= 80, "{}: {width}", keys.name());
        }
    }

    #[test]
    fn sums_of_listeners_add_up() {
        let listeners = |number, high| Listeners {
            number,
            high,
            drops: 7,
            new_drops: 2,
        };
        let of = |accepts, high| Sums {
            accepts,
            interval_us: 1_000_000,
            listeners: Some(listeners(1, high)),
        };
        let mut sum = of(3, None);
        sum.add(of(4, Some(9)));
        sum.add(of(0, Some(2)));
        let listeners = sum.listeners.unwrap();
        assert_eq!((sum.accepts, listeners.number), (7, 3));
        assert_eq!((listeners.high, listeners.drops), (Some(9), 21));
    }
}
