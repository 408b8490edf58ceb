// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--by`: the keys that a user chose, and the groups that they make.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use crate::abi::types::head;
use crate::aggregate::by::{By, Key, NAMES};
use crate::aggregate::group::{Group, bits};
use crate::kernel::cgroups::process;
use crate::output::Column;
use crate::output::whose::Whose;

/// What is grouped by: keys, in the order in which they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<Key>,
    bits: u32,
}

impl Keys {
    /// These.
    pub fn new(keys: Vec<Key>) -> Self {
        let mut all = Self { keys, bits: 0 };
        all.bits = all.shared().fold(0, |bits, by| bits | by.bits());
        // In a hierarchy of its own, a process may be in a container of which the socket knows nothing.
        if all.bits & bits::CGROUP != 0 && process::has_v1() {
            all.bits |= bits::PID;
        }
        all
    }

    fn shared(&self) -> impl Iterator<Item = By> + '_ {
        self.keys.iter().filter_map(|key| match key {
            Key::Shared(by) => Some(*by),
            Key::Own(_) => None,
        })
    }

    /// A single one.
    pub fn of(by: By) -> Self {
        Self::new(vec![Key::Shared(by)])
    }

    /// Each of the shared keys alone.
    pub fn each() -> impl Iterator<Item = Self> {
        By::value_variants().iter().map(|by| Self::of(*by))
    }

    /// What the flag takes: names, separated by commas. `own`: those that only this command has.
    pub fn parser(own: &'static [&'static str]) -> Parser {
        Parser(own)
    }

    fn parse(text: &str, own: &'static [&'static str]) -> Result<Self, String> {
        let mut keys = Vec::new();
        for name in text.split(',').map(str::trim) {
            let shared = By::value_variants().iter().copied().map(Key::Shared);
            let mut all = own.iter().copied().map(Key::Own).chain(shared);
            let Some(key) = all.find(|key| key.name().eq_ignore_ascii_case(name)) else {
                let all = own.iter().chain(&NAMES).copied().collect::<Vec<_>>();
                return Err(format!(
                    "unknown key '{name}' (available: {})",
                    all.join(", ")
                ));
            };
            if keys.contains(&key) {
                return Err(format!("key '{name}' is given twice"));
            }
            keys.push(key);
        }
        Ok(Self::new(keys))
    }

    /// With one more, if it is not there.
    pub fn with(mut self, by: By) -> Self {
        if self.bits & by.bits() != by.bits() {
            self.keys.push(Key::Shared(by));
        }
        Self::new(self.keys)
    }

    /// What of a head is grouped by ([`bits`]): for the kernel half.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Whether it is grouped by this key of the command's own.
    pub fn has(&self, own: &str) -> bool {
        let is_it = |key: &Key| matches!(key, Key::Own(name) if *name == own);
        self.keys.iter().any(is_it)
    }

    /// As the user wrote them.
    pub fn name(&self) -> String {
        let names: Vec<_> = self.keys.iter().map(|key| key.name()).collect();
        names.join(",")
    }

    /// The group of a head. `kind`: what the command groups by besides, as far as it is asked for ([`Keys::has`]).
    pub fn group(&self, head: &head, kind: u32) -> Group {
        Group::new(head, self.bits, kind)
    }

    /// The columns of the keys, for rows of [`Group::head`]. `own`: those of a key of the command's own.
    pub fn columns<E: 'static>(
        &self,
        own: impl Fn(&'static str) -> Vec<Column<E>>,
    ) -> Vec<Column<E>> {
        let of = |key: &Key| match key {
            Key::Shared(by) => by.columns(),
            Key::Own(name) => own(name),
        };
        self.keys.iter().flat_map(of).collect()
    }

    /// Adds up the groups of cgroups that have the same name where the name is what is grouped by: a unit that was
    /// started again has another cgroup.
    pub fn merged<S>(
        &self,
        groups: impl IntoIterator<Item = (Group, S)>,
        add: impl Fn(&mut S, S),
    ) -> Vec<(Group, S)> {
        if self.shared().all(|by| by.field().is_none()) {
            return groups.into_iter().collect();
        }
        let mut all = HashMap::new();
        for (group, sum) in groups {
            match all.entry(self.named(&group)) {
                Entry::Vacant(empty) => drop(empty.insert((group, sum))),
                Entry::Occupied(mut known) => add(&mut known.get_mut().1, sum),
            }
        }
        all.into_values().collect()
    }

    /// Whether two groups are one for [`Keys::merged`].
    pub fn is_one(&self, group: &Group, other: &Group) -> bool {
        group == other || self.named(group) == self.named(other)
    }

    /// What makes a group: names in place of its cgroup.
    fn named(&self, group: &Group) -> (Group, Vec<Option<Box<str>>>) {
        let head = group.head(0);
        let name = |field| Whose::of(&head, field).with(|text| text.map(|text| text.plain.clone()));
        let names = self.shared().filter_map(By::field).map(name).collect();
        let by = self.shared().fold(0, |all, by| all | by.bits());
        (group.without_cgroup(by), names)
    }

    /// The one after this in the list of single keys; after the last one, or several, comes none.
    pub fn next(keys: Option<&Self>) -> Option<Self> {
        match keys {
            None => Self::each().next(),
            Some(keys) => Self::each().skip_while(|one| one != keys).nth(1),
        }
    }
}

/// See [`Keys::parser`].
#[derive(Clone, Copy, Debug)]
pub struct Parser(&'static [&'static str]);

impl TypedValueParser for Parser {
    type Value = Keys;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Keys, clap::Error> {
        let own = self.0;
        let parse = move |text: &str| Keys::parse(text, own);
        parse.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = self.0.iter().chain(&NAMES).copied();
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroups;
    use crate::output::column::columns;
    use crate::output::golden::heads;
    use crate::output::whose::remember;

    fn keys(text: &str) -> Result<Keys, String> {
        Keys::parse(text, &["reason", "direction"])
    }

    #[test]
    fn keys_are_in_their_order() {
        let both = keys("comm,RPORT,reason").unwrap();
        assert_eq!(both.name(), "comm,rport,reason");
        assert_eq!(both.bits(), bits::COMM | bits::RPORT);
        assert!(both.has("reason") && !both.has("direction"));
        let own = |_| columns! { |row, e: ()| "reason" ALL "REASON" (5, 5) => "refused"; };
        let titles: Vec<_> = both.columns(own).iter().map(Column::title).collect();
        assert_eq!(titles, ["COMM", "RPORT", "REASON"]);
        assert_eq!(keys("comm").unwrap().with(By::Lport).name(), "comm,lport");
        assert_eq!(keys("flow").unwrap().with(By::Lport).name(), "flow");
    }

    #[test]
    fn unknown_key_lists_available() {
        let error = keys("conn").unwrap_err();
        assert!(
            error.contains("'conn'") && error.contains("reason, direction, pid, comm"),
            "{error}"
        );
        assert!(keys("comm,comm").unwrap_err().contains("twice"));
        assert!(keys("").is_err() && keys("comm,").is_err());
    }

    /// A unit's cgroups are one group; what has no unit is one, too.
    #[test]
    fn cgroups_of_one_name_are_one_group() {
        let [_, mut head, _] = heads();
        let whose = |unit: Option<&str>, path: &str| cgroups::Whose {
            path: path.into(),
            unit: unit.map(Into::into),
            ..cgroups::Whose::default()
        };
        remember(
            101,
            &whose(Some("web.service"), "/system.slice/web.service"),
        );
        remember(
            102,
            &whose(Some("web.service"), "/system.slice/web.service/b"),
        );
        remember(103, &whose(None, "/x"));
        remember(104, &whose(None, "/y"));
        let mut counts = |by: &str| {
            let keys = keys(by).unwrap();
            let groups = [101, 102, 103, 104].map(|cgroup| {
                head.cgroup = cgroup;
                head.owner.pid += 1;
                (keys.group(&head, 0), 1)
            });
            let mut counts: Vec<_> = keys.merged(groups, |to, more| *to += more);
            counts.sort_by_key(|(_, count)| *count);
            counts
                .into_iter()
                .map(|(_, count)| count)
                .collect::<Vec<_>>()
        };
        assert_eq!(counts("unit"), [2, 2]);
        assert_eq!(counts("cgroup"), [1, 1, 1, 1]);
        assert_eq!(counts("unit,cgroup"), [1, 1, 1, 1]);
        assert_eq!(counts("unit,pid"), [1, 1, 1, 1]);
    }

    #[test]
    fn next_key_ends_with_none() {
        let names = std::iter::successors(Keys::next(None), |keys| Keys::next(Some(keys)));
        let names: Vec<_> = names.map(|keys| keys.name()).collect();
        assert_eq!(names, NAMES);
        assert_eq!(Keys::next(Some(&keys("comm,uid").unwrap())), None);
    }
}
