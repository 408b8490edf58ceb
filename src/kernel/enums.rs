// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of kernel values: from the running kernel's BTF, because numbers move between releases.

use std::collections::HashMap;

use crate::kernel::btf::{self, types::Kind};
use crate::kernel::tracepoints::{tracefs_events, tracefs_symbols};

/// The enumerators of one kernel enum.
#[derive(Debug, Default)]
pub struct Names(HashMap<i64, String>);

impl Names {
    /// Reads `enum <name>` from the kernel's BTF, and takes `prefix` off every enumerator.
    ///
    /// Empty when the kernel has no such enum (or no BTF): then [`Names::get`] knows nothing and numbers are shown.
    pub fn from_kernel(name: &str, prefix: &str) -> Self {
        let Some(types) = btf::kernel() else {
            return Self::default();
        };
        let Some((_, kernel_enum)) = types.find(Kind::Enum, name) else {
            return Self::default();
        };
        let signed = kernel_enum.info >> 31 == 1;
        let named = kernel_enum.tail().filter_map(|[at, value]| {
            let name = str::from_utf8(types.name(at)).ok()?;
            let value = match signed {
                true => value.cast_signed().into(),
                false => value.into(),
            };
            Some((value, name.strip_prefix(prefix)?.to_owned()))
        });
        Self(named.collect())
    }

    /// Reads the names that the record of a tracepoint has for a field, from tracefs: where there is no BTF.
    ///
    /// Empty when tracefs cannot be read, or the kernel has no such field.
    pub fn from_record(category: &str, event: &str, field: &str) -> Self {
        let Ok(events) = tracefs_events() else {
            return Self::default();
        };
        Self(
            tracefs_symbols(&events, category, event, field)
                .into_iter()
                .collect(),
        )
    }

    /// The name of a value, if the kernel has one for it.
    pub fn get(&self, value: i64) -> Option<&str> {
        self.0.get(&value).map(String::as_str)
    }

    /// The value of a name, if the kernel has one of that name.
    pub fn number(&self, name: &str) -> Option<i64> {
        let named = |(_, known): &(&i64, &String)| *known == name;
        self.0.iter().find(named).map(|(value, _)| *value)
    }

    /// Every name, in the order of the values.
    pub fn all(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(value, _)| **value);
        all.into_iter().map(|(_, name)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_enum_is_empty() {
        let none = Names::from_kernel("no_such_enum", "");
        assert!(none.0.is_empty() && none.number("NO_SUCH").is_none());
    }
}
