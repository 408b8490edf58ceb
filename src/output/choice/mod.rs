// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns that a user chose: `--columns`.

pub mod sort;

use std::str::FromStr;

use crate::error::Usage;
use crate::output::{Column, Shown};

/// Names of columns: in this order, or with signs, what is added to the default ones and what is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These, in this order.
    Only(Vec<String>),
    /// The default ones, changed in this order.
    Changed(Vec<Change>),
}

/// A change to the default columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Shown, too.
    Add(String),
    /// Not shown.
    Remove(String),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("--") {
            return Err("a list of column names is missing".into());
        }
        let names = text.split(',').map(str::trim);
        let signed = text.starts_with(['+', '-']);
        let (mut only, mut changed, mut adds) = (Vec::new(), Vec::new(), true);
        for word in names {
            let name = word.strip_prefix(['+', '-']).unwrap_or(word);
            if name.is_empty() {
                return Err("separate column names by single commas".into());
            }
            let sign = name.len() < word.len();
            if sign && !signed {
                return Err(format!(
                    "'{word}' changes the default columns: begin the list with + or -"
                ));
            }
            // A name without a sign has that of the one before.
            adds = if sign { word.starts_with('+') } else { adds };
            let name = name.to_owned();
            match (signed, adds) {
                (false, _) => only.push(name),
                (true, true) => changed.push(Change::Add(name)),
                (true, false) => changed.push(Change::Remove(name)),
            }
        }
        Ok(match signed {
            true => Self::Changed(changed),
            false => Self::Only(only),
        })
    }
}

impl Choice {
    /// Picks from all columns that rows can have, by JSON key or heading in any case.
    ///
    /// # Errors
    /// If a name is unknown; the message lists all names.
    pub fn of<E>(&self, columns: Vec<Column<E>>, layout: Shown) -> Result<Vec<Column<E>>, Usage> {
        let json = layout == Shown::JSON;
        match self {
            Self::Only(names) => {
                let (mut chosen, mut left) = (Vec::new(), columns);
                for name in names {
                    take(name, json, &mut left, &mut chosen)?;
                }
                Ok(chosen)
            }
            Self::Changed(changes) => {
                let shown = |c: &Column<E>| c.shown.has(layout);
                let (mut chosen, mut left): (Vec<_>, Vec<_>) = columns.into_iter().partition(shown);
                for change in changes {
                    match change {
                        Change::Add(name) if chosen.iter().any(|c| c.is_named(name)) => {}
                        Change::Add(name) => take(name, json, &mut left, &mut chosen)?,
                        Change::Remove(name) => drop_from(name, &mut left, &mut chosen)?,
                    }
                }
                Ok(chosen)
            }
        }
    }
}

/// Moves a column to those that are chosen.
fn take<E>(
    name: &str,
    json: bool,
    left: &mut Vec<Column<E>>,
    chosen: &mut Vec<Column<E>>,
) -> Result<(), Usage> {
    if chosen.iter().any(|c| c.is_named(name)) {
        return Err(Usage(format!("column '{name}' is given twice")));
    }
    // A heading may be the key of another column.
    let by_key = |c: &Column<E>| c.key.eq_ignore_ascii_case(name);
    let by_key = left.iter().position(|c| by_key(c) && !c.key.is_empty());
    let by_name = || {
        left.iter()
            .position(|c| c.is_named(name) && !(json && c.key.is_empty()))
    };
    let found = by_key.or_else(by_name);
    match found {
        Some(index) => chosen.push(left.remove(index)),
        None => return Err(unknown(name, chosen.iter().chain(&*left))),
    }
    Ok(())
}

/// Takes a column away, in all of its forms; one that is not shown need not be.
fn drop_from<E>(
    name: &str,
    left: &mut Vec<Column<E>>,
    chosen: &mut Vec<Column<E>>,
) -> Result<(), Usage> {
    let mut all = chosen.iter().chain(&*left);
    if !all.any(|c| c.is_named(name)) {
        return Err(unknown(name, chosen.iter().chain(&*left)));
    }
    // In front, where they are found before others of the same name.
    let gone: Vec<_> = chosen.extract_if(.., |c| c.is_named(name)).collect();
    left.splice(0..0, gone);
    Ok(())
}

/// A sentence about a name that no column has.
fn unknown<'c, E: 'c>(name: &str, all: impl Iterator<Item = &'c Column<E>>) -> Usage {
    let lower = name.to_ascii_lowercase();
    if lower == "peer" || lower.starts_with("peer_") {
        return Usage(format!("column '{name}' needs --peer"));
    }
    let mut names: Vec<&str> = Vec::new();
    for key in all.map(|c| c.key).filter(|key| !key.is_empty()) {
        if !names.contains(&key) {
            names.push(key);
        }
    }
    Usage(format!(
        "unknown column '{name}' (available: {})",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Value;

    fn columns() -> Vec<Column<u64>> {
        let mut all = vec![
            Column::new("pid", "PID", (5, 7), |_| Value::Unknown).shown(Shown::NARROW),
            Column::new("tx_bytes", "TX_KB", (5, 6), |r| Value::Bytes(*r.body)),
            Column::new("rtt_us", "", (0, 0), |r| Value::Micros(*r.body)).shown(Shown::JSON),
            Column::new("", "A:B", (5, 5), |r| Value::Int(*r.body)).shown(Shown::TEXT),
        ];
        all.extend(crate::output::column::common_columns());
        all
    }

    fn chosen(list: &str, json: bool) -> Result<Vec<&'static str>, String> {
        let layout = if json { Shown::JSON } else { Shown::NARROW };
        let choice: Choice = list.parse()?;
        match choice.of(columns(), layout) {
            Ok(columns) => Ok(columns.iter().map(Column::title).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn columns_follow_list_order() {
        let expected = Ok(vec!["rtt_us", "TX_KB", "netns"]);
        assert_eq!(chosen("rtt_us,tx_kb,netns", false), expected);
        let added = Ok(vec!["PID", "TX_KB", "A:B", "rtt_us", "netns"]);
        assert_eq!(chosen("+RTT_US,netns", false), added);
    }

    #[test]
    fn signs_change_the_default_columns() {
        assert_eq!(chosen("-pid", false), Ok(vec!["TX_KB", "A:B"]));
        let mixed = Ok(vec!["A:B", "rtt_us", "netns"]);
        assert_eq!(chosen("-pid,tx_kb,+rtt_us,netns", false), mixed);
        assert_eq!(chosen("+netns,-a:b,pid", false), Ok(vec!["TX_KB", "netns"]));
        // One that goes and comes back is the last.
        assert_eq!(chosen("-pid,+pid", false), Ok(vec!["TX_KB", "A:B", "PID"]));
        let all = chosen("-cookie", true).unwrap();
        assert!(
            !all.contains(&"cookie") && all.contains(&"rtt_us"),
            "{all:?}"
        );
        // It is not shown anyway.
        assert_eq!(chosen("-rtt_us", false), chosen("+pid", false));
    }

    #[test]
    fn unknown_column_lists_available() {
        for list in ["cwnd", "+cwnd", "-cwnd"] {
            let error = chosen(list, false).unwrap_err();
            let lists = error.contains("'cwnd'") && error.contains("tx_bytes");
            assert!(lists && error.contains("pid"), "{error}");
        }
        assert!(chosen("pid,pid", true).unwrap_err().contains("twice"));
        assert!(chosen("PEER", false).unwrap_err().contains("needs --peer"));
        for list in ["pid,,comm", "", "+", "-pid,+", "pid,-comm", "--json"] {
            assert!(chosen(list, true).is_err(), "{list}");
        }
    }
}
