// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns that a user chose: `--columns`.

use std::str::FromStr;

use crate::cli::Usage;
use crate::output::{Column, Shown, common_columns};

/// Names of columns in their order; with a leading `+`, behind those that are shown anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    add: bool,
    names: Vec<String>,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (add, list) = match text.strip_prefix('+') {
            Some(list) => (true, list),
            None => (false, text),
        };
        let names: Vec<_> = list.split(',').map(|n| n.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err("a list of column names is separated by single commas".into());
        }
        Ok(Self { add, names })
    }
}

impl Choice {
    /// Picks from a tool's columns, and from those of every tool, by JSON key or heading in any case.
    ///
    /// # Errors
    /// A sentence with all the names, when one is not among them.
    pub fn of<E>(
        &self,
        columns: Vec<Column<E>>,
        layout: Shown,
        json: bool,
    ) -> anyhow::Result<Vec<Column<E>>> {
        let mut left: Vec<_> = columns.into_iter().chain(common_columns()).collect();
        let mut chosen = Vec::new();
        if self.add {
            let (shown, rest): (Vec<_>, _) = left.into_iter().partition(|c| c.shown.has(layout));
            (chosen, left) = (shown, rest);
            // JSON begins with the fields of every tool, as always.
            chosen.sort_by_key(|c| !(json && c.heading.is_empty() && is_common(c.key)));
        }
        for name in &self.names {
            let twice = chosen.iter().any(|c| named(c, name));
            let index = left
                .iter()
                .position(|c| named(c, name) && !(json && c.key.is_empty()));
            match index {
                _ if twice && self.add => {}
                Some(index) if !twice => chosen.push(left.remove(index)),
                _ => return Err(unknown(name, twice, &left).into()),
            }
        }
        Ok(chosen)
    }
}

fn named<E>(column: &Column<E>, name: &str) -> bool {
    column.key.eq_ignore_ascii_case(name) || column.heading.eq_ignore_ascii_case(name)
}

fn is_common(key: &str) -> bool {
    common_columns::<()>().iter().any(|c| c.key == key)
}

fn unknown<E>(name: &str, twice: bool, left: &[Column<E>]) -> Usage {
    if twice {
        return Usage(format!("the column '{name}' is named twice"));
    }
    let mut names: Vec<&str> = Vec::new();
    for key in left.iter().map(|c| c.key).filter(|key| !key.is_empty()) {
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
    use crate::value::Value;

    fn columns() -> Vec<Column<u64>> {
        vec![
            Column::new("pid", "PID", (5, 7), |_| Value::Unknown).shown(Shown::NARROW),
            Column::new("tx_bytes", "TX_KB", (5, 6), |r| Value::Bytes(*r.body)),
            Column::new("rtt_us", "", (0, 0), |r| Value::Micros(*r.body)).shown(Shown::JSON),
        ]
    }

    fn chosen(list: &str, json: bool) -> Result<Vec<&'static str>, String> {
        let layout = if json { Shown::JSON } else { Shown::NARROW };
        let choice: Choice = list.parse()?;
        match choice.of(columns(), layout, json) {
            Ok(columns) => Ok(columns.iter().map(Column::title).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn columns_come_in_the_order_of_the_list_by_key_or_heading() {
        let expected = Ok(vec!["rtt_us", "TX_KB", "netns"]);
        assert_eq!(chosen("rtt_us,tx_kb,netns", false), expected);
        assert_eq!(chosen("+RTT_US", false), Ok(vec!["PID", "TX_KB", "rtt_us"]));
    }

    #[test]
    fn what_json_shows_anyway_stays_in_front() {
        let all = chosen("+rtt_us", true).unwrap();
        assert_eq!(all[0], "boot_ns");
        assert_eq!(all[all.len() - 2..], ["TX_KB", "rtt_us"]);
        assert_eq!(chosen("tx_bytes", true), Ok(vec!["TX_KB"]));
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let error = chosen("cwnd", false).unwrap_err();
        assert!(
            error.contains("'cwnd'") && error.contains("tx_bytes"),
            "{error}"
        );
        assert!(chosen("pid,pid", true).unwrap_err().contains("twice"));
        assert!(chosen("pid,,comm", true).is_err() && chosen("", true).is_err());
    }
}
