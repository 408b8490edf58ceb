// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--labels`: the user's labels, and their values.

use clap::ValueEnum;

use super::text::label;
use crate::abi::types::head;
use crate::aggregate::by::{By, Key};
use crate::aggregate::group::{Group, bits};
use crate::aggregate::keys::Keys;
use crate::output::{Column, Row, Shown, Value};

/// What stands for all that has no series of its own.
pub(super) const OTHER: &str = "other";

/// How many bits of an IPv4 and of an IPv6 address are told apart.
type Prefix = [u8; 2];

/// An IPv6 network, where only the length of IPv4's is given: what a site has, as a rule.
const SITE: u8 = 48;

/// Words of a mask, as an address lies in memory: of an IPv4 address, mapped, and of an IPv6 address.
pub(super) type Masks = [[u64; 2]; 2];

/// Labels as the user wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    keys: Keys,
    laddr: Option<Prefix>,
    raddr: Option<Prefix>,
}

impl Labels {
    /// A list: `comm,lport,raddr/24`.
    ///
    /// # Errors
    /// A sentence about the first that is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<Key> = Vec::new();
        let (mut laddr, mut raddr) = (None, None);
        for word in text.split(',').map(str::trim) {
            let (name, prefix) = match word.split_once('/') {
                Some((name, bits)) => (name, Some(prefix(bits)?)),
                None => (word, None),
            };
            let by = By::from_str(name, true).ok().filter(|by| *by != By::Flow);
            let by = by.ok_or_else(|| unknown(name))?;
            match (by, prefix) {
                (_, None) => {}
                (By::Laddr, prefix) => laddr = prefix,
                (By::Raddr, prefix) => raddr = prefix,
                _ => return Err(format!("'{word}': only laddr and raddr have a prefix")),
            }
            if keys.contains(&Key::Shared(by)) {
                return Err(format!("label '{name}' is given twice"));
            }
            keys.push(Key::Shared(by));
        }
        Ok(Self {
            keys: Keys::new(keys),
            laddr,
            raddr,
        })
    }

    /// For `group_by` of the kernel half.
    pub(super) fn bits(&self) -> u32 {
        self.keys.bits()
    }

    /// Whether a label is the process's.
    pub(super) fn asks_owner(&self) -> bool {
        self.bits() & (bits::PID | bits::COMM) != 0
    }

    /// Whether an address is cut, and the masks of local and remote ones.
    pub(super) fn masks(&self) -> (bool, [Masks; 2]) {
        let cut = self.laddr.is_some() || self.raddr.is_some();
        (cut, [self.laddr, self.raddr].map(masks))
    }
}

fn unknown(name: &str) -> String {
    let names = By::value_variants().iter().map(|by| by.name());
    let names: Vec<_> = names.filter(|name| *name != By::Flow.name()).collect();
    format!("unknown label '{name}' (available: {})", names.join(", "))
}

/// `24`, or `24/56`: of IPv4, and of IPv6.
fn prefix(text: &str) -> Result<Prefix, String> {
    let (v4, v6) = match text.split_once('/') {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (text, None),
    };
    let length = |text: &str, most: u8| {
        let length = text.parse().ok().filter(|length| *length <= most);
        length.ok_or_else(|| format!("'{text}' is no length of a prefix, 0 to {most}"))
    };
    let v6 = v6.map_or(Ok(SITE), |v6| length(v6, 128))?;
    Ok([length(v4, 32)?, v6])
}

fn masks(prefix: Option<Prefix>) -> Masks {
    let [v4, v6] = prefix.unwrap_or([32, 128]);
    [96 + v4, v6].map(|bits| {
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        // Network order in memory, whatever this processor's is.
        let bytes = mask.to_be_bytes();
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        [word(0), word(8)]
    })
}

/// Writes the values of labels.
pub(super) struct Writer {
    columns: Vec<Column<()>>,
    laddr: Option<Prefix>,
    raddr: Option<Prefix>,
}

impl Writer {
    /// Without labels: writes nothing.
    pub(super) fn new(labels: Option<&Labels>) -> Self {
        let Some(labels) = labels else {
            return Self {
                columns: Vec::new(),
                laddr: None,
                raddr: None,
            };
        };
        let mut columns = labels.keys.columns(|_| Vec::new());
        columns.retain(|column| column.shown.has(Shown::JSON) && !column.key.is_empty());
        Self {
            columns,
            laddr: labels.laddr,
            raddr: labels.raddr,
        }
    }

    /// `comm="curl",lport="443"`. What is not known is left out: an empty label is none.
    pub(super) fn write(&self, group: &Group) -> String {
        let head = group.head(0);
        let row = Row {
            head: &head,
            body: &(),
        };
        let mut labels = String::new();
        for column in &self.columns {
            let Some(mut value) = text(&column.value(&row)) else {
                continue;
            };
            // None, or one that says nothing: ports_cut() of counters.bpf.h.
            if value == "0" && matches!(column.key, "lport" | "rport") {
                continue;
            }
            let prefix = match column.key {
                "laddr" => self.laddr,
                "raddr" => self.raddr,
                _ => None,
            };
            if let Some(prefix) = prefix {
                value.push_str(&format!("/{}", length(prefix, &head)));
            }
            label(&mut labels, column.key, &value);
        }
        labels
    }

    /// Whether a label is among them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.key == name)
    }

    /// The labels of what has no series of its own.
    pub(super) fn other(&self) -> String {
        let mut labels = String::new();
        for column in &self.columns {
            label(&mut labels, column.key, OTHER);
        }
        labels
    }
}

fn length([v4, v6]: Prefix, head: &head) -> u8 {
    if head.flow.family == 6 { v6 } else { v4 }
}

/// A value, as JSON has it: escaped there as it is for people, and without quotes here.
fn text(value: &Value<'_>) -> Option<String> {
    let mut json = Vec::new();
    value.json(&mut json);
    match serde_json::from_slice(&json).ok()? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::heads;

    fn written(labels: &str) -> String {
        let [_, curl, _] = heads();
        let labels = Labels::parse(labels).unwrap();
        let group = Group::new(&curl, labels.bits(), 0);
        Writer::new(Some(&labels)).write(&group)
    }

    #[test]
    fn values_are_those_of_rows() {
        assert_eq!(written("comm,rport"), r#"comm="curl",rport="443""#);
        assert!(written("raddr").starts_with("raddr=\""));
        assert!(written("raddr/24").ends_with("/24\"") || written("raddr/24").ends_with("/48\""));
        assert_eq!(Writer::new(None).write(&Group::default()), "");
        let labels = Labels::parse("COMM,raddr/16").unwrap();
        let other = Writer::new(Some(&labels)).other();
        assert_eq!(other, r#"comm="other",raddr="other""#);
        assert!(labels.asks_owner() && !Labels::parse("lport").unwrap().asks_owner());
    }

    #[test]
    fn wrong_labels_are_named() {
        for (text, said) in [
            ("flow", "unknown label 'flow'"),
            ("color", "available: pid, comm"),
            ("", "unknown label ''"),
            ("comm,comm", "twice"),
            ("raddr/33", "'33'"),
            ("raddr/24/129", "'129'"),
            ("raddr/x", "'x'"),
            ("lport/8", "only laddr and raddr"),
        ] {
            let error = Labels::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn masks_cut_addresses() {
        let labels = Labels::parse("raddr/24/56").unwrap();
        let (cut, [laddr, raddr]) = labels.masks();
        assert!(cut);
        assert_eq!(laddr, [[u64::MAX; 2]; 2]);
        let bytes = |mask: [u64; 2]| mask.map(u64::to_ne_bytes).concat();
        assert_eq!(bytes(raddr[0])[12..], [255, 255, 255, 0]);
        assert_eq!(bytes(raddr[0])[..12], [255; 12]);
        assert_eq!(bytes(raddr[1])[..8], [255, 255, 255, 255, 255, 255, 255, 0]);
        assert_eq!(bytes(raddr[1])[8..], [0; 8]);
        let none = Labels::parse("raddr/0/0").unwrap().masks().1[1];
        assert_eq!(bytes(none[0])[12..], [0; 4]);
        assert_eq!(none[1], [0; 2]);
    }
}
