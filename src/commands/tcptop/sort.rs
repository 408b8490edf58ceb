// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order of rows, and the first of them.

use std::cmp::Reverse;
use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use crate::aggregate::top::{self, Rank};
use crate::output;

use super::traffic::Connection;
use super::why::Why;

/// What rows are sorted by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Bytes sent and received
    #[default]
    Rate,
    /// Bytes sent
    Sent,
    /// Bytes received
    Received,
    /// Segments sent again
    Retrans,
    /// Smoothed round-trip time
    Rtt,
    /// How long it has not moved, quiet connections last
    Stalled,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        ["rate", "sent", "received", "retrans", "rtt", "stalled"][self as usize]
    }

    /// The next one in the order of their names on the screen.
    pub(super) fn next(self, back: bool) -> Self {
        let all = Self::value_variants();
        let step = if back { all.len() - 1 } else { 1 };
        all[(self as usize + step) % all.len()]
    }
}

/// What `--sort` takes.
#[derive(Clone, Debug)]
pub(super) enum By {
    /// One of the screen's orders, too.
    Own(Sort),
    /// Columns of rows.
    Columns(output::Sort),
}

impl By {
    fn parse(text: &str) -> Result<Self, String> {
        match Sort::from_str(text, true) {
            Ok(sort) => Ok(Self::Own(sort)),
            Err(_) => text.parse().map(Self::Columns),
        }
    }
}

/// Completions offer the screen's orders; columns are taken as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parser;

impl TypedValueParser for Parser {
    type Value = By;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<By, clap::Error> {
        By::parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let all = Sort::value_variants().iter();
        Some(Box::new(all.filter_map(ValueEnum::to_possible_value)))
    }
}

/// What has a rank: a connection, or a group.
pub(super) trait Ranked {
    fn tx(&self) -> u64;
    fn rx(&self) -> u64;
    fn retrans(&self) -> u64;
    fn rtt_us(&self) -> u64;
    fn why(&self) -> Why;
    /// Decides between equals, so that rows stay where they are.
    type Tie: Ord;
    fn tie(&self) -> Self::Tie;

    /// What it is sorted by; zeros: nothing to show.
    fn value(&self, sort: Sort) -> (u64, u64) {
        let why = self.why();
        match sort {
            Sort::Rate => (0, self.tx() + self.rx()),
            Sort::Sent => (0, self.tx()),
            Sort::Received => (0, self.rx()),
            Sort::Retrans => (0, self.retrans()),
            Sort::Rtt => (0, self.rtt_us()),
            Sort::Stalled if why.is_any() => (1 + u64::from(why.is_stuck()), why.us),
            Sort::Stalled => (0, 0),
        }
    }
}

impl<T: Ranked> Rank<Sort> for T {
    type Rank = (Reverse<(u64, u64)>, T::Tie);

    fn rank(&self, sort: Sort) -> Self::Rank {
        (Reverse(self.value(sort)), self.tie())
    }
}

impl Ranked for Connection {
    fn tx(&self) -> u64 {
        self.tx
    }

    fn rx(&self) -> u64 {
        self.rx
    }

    fn retrans(&self) -> u64 {
        self.retrans.into()
    }

    fn rtt_us(&self) -> u64 {
        self.conn.rtt_us.into()
    }

    fn why(&self) -> Why {
        Self::why(self)
    }

    type Tie = (u64, u64);

    fn tie(&self) -> Self::Tie {
        let (sock, start_ns) = self.id();
        (start_ns, sock)
    }
}

/// The first ones of any number.
pub(super) type First<T> = top::First<T, Sort>;

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(tx: u64, start_ns: u64) -> Connection {
        let mut one = Connection {
            tx,
            ..Connection::default()
        };
        one.conn.start_ns = start_ns;
        one
    }

    #[test]
    fn equals_keep_their_order() {
        let mut first = First::new(Sort::Rate, 10);
        [3, 1, 2]
            .iter()
            .for_each(|start| first.add(moved(5, *start)));
        let (kept, _) = first.take();
        let starts: Vec<_> = kept.iter().map(|one| one.conn.start_ns).collect();
        assert_eq!(starts, [1, 2, 3]);
    }

    #[test]
    fn quiet_connections_come_after_stuck_ones() {
        let mut quiet = moved(0, 1);
        (quiet.quiet, quiet.why_us) = (super::super::why::quiet::IDLE, 1 << 40);
        let mut stuck = moved(0, 2);
        (stuck.send, stuck.why_us) = (super::super::why::send::NAGLE, 1);
        assert!(stuck.rank(Sort::Stalled) < quiet.rank(Sort::Stalled));
        assert_eq!(moved(9, 3).value(Sort::Stalled), (0, 0));
    }

    #[test]
    fn completions_offer_the_orders_and_columns_are_taken() {
        let offered = Parser.possible_values().unwrap();
        let offered: Vec<_> = offered.map(|value| value.get_name().to_owned()).collect();
        let names = Sort::value_variants().iter().map(|sort| sort.name());
        assert!(names.eq(offered.iter().map(String::as_str)));
        assert!(matches!(By::parse("RTT"), Ok(By::Own(Sort::Rtt))));
        assert!(matches!(By::parse("+age_us"), Ok(By::Columns(_))));
    }

    #[test]
    fn names_are_those_of_the_flag() {
        for sort in Sort::value_variants() {
            let value = sort.to_possible_value().unwrap();
            assert_eq!(value.get_name(), sort.name());
            assert_eq!(sort.next(false).next(true), *sort);
        }
    }
}
