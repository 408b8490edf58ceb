// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order of rows that a user chose: `--sort`.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::str::FromStr;

use super::unknown;
use crate::abi::types::trim_nul;
use crate::error::Usage;
use crate::output::{Column, Row, Value};

/// Names of columns, each with its direction; the first decides, the next ones between equals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort(Vec<(String, Direction)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Numbers from the largest, as `ls -S` and `top` do, names from A.
    Natural,
    /// `+NAME`, as in `ps --sort`.
    Ascending,
    /// `-NAME`.
    Descending,
}

impl FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("--") {
            return Err("a list of column names is missing".into());
        }
        let word = |word: &str| {
            let (name, direction) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (name, Direction::Ascending),
                (_, Some(name)) => (name, Direction::Descending),
                _ => (word, Direction::Natural),
            };
            (name.to_owned(), direction)
        };
        let all: Vec<_> = text.split(',').map(str::trim).map(word).collect();
        match all.iter().any(|(name, _)| name.is_empty()) {
            true => Err("separate column names by single commas".into()),
            false => Ok(Self(all)),
        }
    }
}

/// The columns that rows are sorted by.
pub struct Order<E>(Vec<(Column<E>, Direction)>);

impl<E> Default for Order<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E> Order<E> {
    /// By JSON key or heading in any case, among all columns that rows can have.
    ///
    /// # Errors
    /// If a name is unknown; the message lists all names.
    pub fn new(sort: &Sort, columns: &[Column<E>]) -> Result<Self, Usage> {
        let find = |(name, direction): &(String, Direction)| {
            let column = columns.iter().find(|column| column.is_named(name));
            let column = column.ok_or_else(|| unknown(name, columns.iter()))?;
            Ok((*column, *direction))
        };
        Ok(Self(sort.0.iter().map(find).collect::<Result<_, _>>()?))
    }

    /// Sorts what rows are made of. Equals stay in their order; what has no value comes last.
    pub fn sort<T>(&self, all: &mut [T], row: impl for<'t> Fn(&'t T) -> Row<'t, E>) {
        if self.0.is_empty() {
            return;
        }
        all.sort_by_cached_key(|one| {
            let row = row(one);
            let ranks = self.0.iter();
            let ranks = ranks.map(|(column, direction)| direction.rank(&column.value(&row)));
            ranks.collect::<Vec<_>>()
        });
    }
}

/// Where a value is among others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Up(Place),
    Down(Reverse<Place>),
    Unknown,
}

/// What values are compared by: those of a column are all of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Number(i128),
    /// The bits of a `f64`, in its order.
    Real(i64),
    Address(IpAddr, u16),
    Text(Vec<u8>),
}

impl Direction {
    fn rank(self, value: &Value<'_>) -> Rank {
        let Some(place) = place(value) else {
            return Rank::Unknown;
        };
        let number = matches!(place, Place::Number(_) | Place::Real(_));
        match self {
            Self::Descending => Rank::Down(Reverse(place)),
            Self::Natural if number => Rank::Down(Reverse(place)),
            Self::Natural | Self::Ascending => Rank::Up(place),
        }
    }
}

fn place(value: &Value<'_>) -> Option<Place> {
    Some(match *value {
        Value::Unknown => return None,
        Value::Bool(yes) => Place::Number(yes.into()),
        Value::Int(n)
        | Value::Hex(n)
        | Value::Bytes(n)
        | Value::Micros(n)
        | Value::MicrosAtLeast(n)
        | Value::Rate(n) => Place::Number(n.into()),
        Value::Signed(n) => Place::Number(n.into()),
        Value::Percent(x) | Value::Number(x) => Place::Real(in_order(x)),
        Value::Addr(address) => Place::Address(address.ip, 0),
        Value::Endpoint(address, port) => Place::Address(address.ip, port),
        Value::Text(text) => Place::Text(text.into()),
        Value::Comm(name) => Place::Text(name.into()),
        Value::Name(name) => Place::Text(trim_nul(&name).into()),
        Value::Process(pid, _) => Place::Number(pid.into()),
        Value::Link(_) | Value::Whose(_) | Value::TcpFlags(_) | Value::Stack(_) => {
            let mut text = Vec::new();
            value.csv(&mut text);
            return (!text.is_empty()).then_some(Place::Text(text));
        }
    })
}

/// The bits of a number, so that they compare as it does (IEEE 754, totalOrder).
fn in_order(x: f64) -> i64 {
    let bits = x.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::types::head;
    use crate::output::golden::heads;

    fn columns() -> Vec<Column<Option<f64>>> {
        vec![
            Column::new("pid", "PID", (5, 7), crate::output::column::pid),
            Column::new("comm", "", (5, 7), crate::output::column::comm),
            Column::new("raddr", "RADDR", (5, 7), crate::output::column::raddr),
            Column::new("share", "%", (5, 7), |r| r.body.map(Value::Percent).into()),
        ]
    }

    fn sorted(by: &str, shares: [Option<f64>; 3]) -> Vec<u32> {
        let order = Order::new(&by.parse().unwrap(), &columns()).unwrap();
        let mut rows: Vec<(head, _)> = heads().into_iter().zip(shares).collect();
        order.sort(&mut rows, |(head, body)| Row { head, body });
        rows.iter().map(|(head, _)| head.owner.pid).collect()
    }

    #[test]
    fn numbers_come_from_the_largest_and_names_from_a() {
        let none = [None; 3];
        assert_eq!(sorted("pid", none), [4711, 80, 0]);
        assert_eq!(sorted("-PID", none), [4711, 80, 0]);
        assert_eq!(sorted("+pid", none), [80, 4711, 0]);
        assert_eq!(sorted("comm", none), [4711, 80, 0]); // curl, server
        assert_eq!(sorted("-comm", none), [80, 4711, 0]);
        assert_eq!(sorted("raddr", none), [4711, 80, 0]);
        assert_eq!(sorted("%", [Some(-0.5), None, Some(2.0)]), [80, 0, 4711]);
        assert_eq!(
            sorted("+share", [Some(-0.5), None, Some(2.0)]),
            [0, 80, 4711]
        );
    }

    #[test]
    fn equals_are_sorted_by_the_next() {
        assert_eq!(sorted("share,+pid", [Some(1.0); 3]), [80, 4711, 0]);
        assert_eq!(sorted("share", [Some(1.0); 3]), [0, 4711, 80]);
    }

    #[test]
    fn unknown_column_lists_available() {
        let error = Order::new(&"cwnd".parse().unwrap(), &columns())
            .err()
            .unwrap();
        assert!(error.to_string().contains("pid, comm, raddr, share"));
        for list in ["", "pid,", "+", "--json"] {
            assert!(list.parse::<Sort>().is_err(), "{list}");
        }
    }
}
