// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units and containers, as users name them: the kernel half compares the names of cgroups with patterns.
//!
//! So a filter needs nothing to exist yet: a unit that is started again, and a container that begins later, match by
//! their names.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::path::Path;
use std::str::FromStr;

use super::Fill;
use super::lists::{limit, split};
use crate::abi::types::{self, cgroup_pattern};
use crate::kernel::cgroups::names::{PREFIXES, escape as escape_unit};
use crate::kernel::cgroups::runtimes::{Container, containers};
use crate::output::escape;

/// Longer names are compared by their beginning.
const MAX_BYTES: usize = size_of::<[u64; 16]>();

/// The name of a cgroup, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    bytes: Vec<u8>,
    whole: bool,
}

impl Pattern {
    fn whole(name: impl AsRef<[u8]>) -> Self {
        Self {
            bytes: name.as_ref().to_vec(),
            whole: true,
        }
    }

    fn begins(name: String) -> Self {
        Self {
            bytes: name.into_bytes(),
            whole: false,
        }
    }

    /// For the kernel half, which compares words.
    fn fill(&self, to: &mut cgroup_pattern) {
        let (mut bytes, mut mask) = ([0; MAX_BYTES], [0; MAX_BYTES]);
        // A name in the kernel ends with a NUL, which is compared too.
        let nul = self.whole.then_some(&0);
        for ((to, mask), byte) in bytes
            .iter_mut()
            .zip(&mut mask)
            .zip(self.bytes.iter().chain(nul))
        {
            (*to, *mask) = (*byte, u8::MAX);
        }
        let words = |bytes: [u8; MAX_BYTES], to: &mut [u64]| {
            for (to, word) in to.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *to = u64::from_ne_bytes(*word);
            }
        };
        words(bytes, &mut to.bytes);
        words(mask, &mut to.mask);
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Patterns {
    negate: bool,
    patterns: Vec<Pattern>,
}

impl Patterns {
    /// At most `max` names.
    fn parse(
        text: &str,
        max: usize,
        of: impl Fn(&str) -> Result<Vec<Pattern>, String>,
    ) -> Result<Self, String> {
        let (negate, items) = split(text)?;
        let items = limit(items, max)?;
        let patterns = items.into_iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let patterns = patterns.concat();
        match patterns.len() > types::MAX_NAMES {
            true => Err("more containers have these names than can be compared; give IDs".into()),
            false => Ok(Self { negate, patterns }),
        }
    }

    fn fill(&self, to: &mut types::name_list) {
        to.n = self.patterns.len() as u32;
        to.negate = self.negate.into();
        for (to, pattern) in to.name.iter_mut().zip(&self.patterns) {
            pattern.fill(to);
        }
    }
}

/// How many names fit whatever they are: one of a container is some names of cgroups.
const MAX_UNITS: usize = types::MAX_NAMES / 2;
const MAX_CONTAINERS: usize = 8;

/// A name of the command line, and what it stands for if it is escaped as rows show it.
fn spellings(text: &str) -> Result<Vec<Vec<u8>>, String> {
    if text.contains('/') {
        return Err(format!(
            "'{text}' is a path; for a cgroup by its path, use --cgroup"
        ));
    }
    if text.len() >= MAX_BYTES {
        return Err(format!("'{text}' is too long for a name"));
    }
    let mut all = vec![text.as_bytes().to_vec()];
    // systemd's own escapes look the same: then both are meant.
    if let Ok([name]) = escape::parse_names(text.as_bytes()).as_deref()
        && !all.contains(name)
    {
        all.push(name.clone());
    }
    Ok(all)
}

/// systemd units.
#[derive(Clone, Debug, PartialEq)]
pub struct Units(Patterns);

impl FromStr for Units {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Patterns::parse(text, MAX_UNITS, unit).map(Self)
    }
}

fn unit(text: &str) -> Result<Vec<Pattern>, String> {
    let kinds = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
    let has_kind = kinds.iter().any(|kind| text.ends_with(kind));
    // As systemctl and journalctl do.
    let kind: &[u8] = if has_kind { b"" } else { b".service" };
    let names = spellings(text)?.into_iter();
    Ok(names
        .map(|name| Pattern::whole([&name, kind].concat()))
        .collect())
}

impl Fill for Units {
    type To = types::name_list;

    fn fill(&self, to: &mut types::name_list) {
        self.0.fill(to);
    }
}

/// Containers.
#[derive(Clone, Debug, PartialEq)]
pub struct Containers(Patterns);

impl FromStr for Containers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = containers(Path::new("/"));
        Patterns::parse(text, MAX_CONTAINERS, |item| container(item, &known)).map(Self)
    }
}

/// Shorter ones may be names: `db`, `cafe`.
const MIN_ID: usize = 6;

/// The names of cgroups that begin with an id, of this runtime or of any.
fn of_id(id: &str, runtime: Option<&str>) -> Vec<Pattern> {
    let prefixes = PREFIXES
        .iter()
        .filter(|(_, of)| runtime.is_none_or(|runtime| runtime == *of))
        .map(|(prefix, _)| *prefix);
    let all = [""].into_iter().chain(prefixes);
    all.map(|prefix| Pattern::begins(format!("{prefix}{id}")))
        .collect()
}

fn container(text: &str, known: &[Container]) -> Result<Vec<Pattern>, String> {
    let names = spellings(text)?;
    let named: Vec<_> = known
        .iter()
        .filter(|c| names.contains(&c.name.clone().into_bytes()))
        .flat_map(|c| of_id(&c.id, Some(c.runtime)))
        .collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() >= MIN_ID && text.bytes().all(is_digit) {
        return Ok(of_id(text, None));
    }
    let of_name = |name: Vec<u8>| {
        let escaped = escape_unit(&name);
        [
            Pattern::whole([b"lxc.payload.", name.as_slice()].concat()),
            Pattern::whole([b"machine-", escaped.as_slice(), b".scope"].concat()),
            Pattern::whole([b"systemd-nspawn@", escaped.as_slice(), b".service"].concat()),
        ]
    };
    Ok(names.into_iter().flat_map(of_name).collect())
}

impl Fill for Containers {
    type To = types::name_list;

    fn fill(&self, to: &mut types::name_list) {
        self.0.fill(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel half does (`src/bpf/common/kernel/cgroup_path.bpf.h`: has_name).
    fn matches(list: &Patterns, name: &str) -> bool {
        let mut to = types::name_list::default();
        list.fill(&mut to);
        let mut bytes = [0; MAX_BYTES];
        for (to, byte) in bytes.iter_mut().take(MAX_BYTES - 1).zip(name.bytes()) {
            *to = byte;
        }
        let words = bytes.as_chunks::<8>().0;
        to.name[..to.n as usize].iter().any(|pattern| {
            let each = words.iter().zip(&pattern.mask).zip(&pattern.bytes);
            let mut each =
                each.map(|((word, mask), bytes)| (u64::from_ne_bytes(*word), mask, bytes));
            each.all(|(word, mask, bytes)| word & mask == *bytes)
        })
    }

    #[test]
    fn unit_has_a_kind() {
        let Units(list) = "nginx,user.slice".parse().unwrap();
        for (name, expected) in [
            ("nginx.service", true),
            ("user.slice", true),
            ("nginx", false),
            ("nginx.service2", false),
            ("xnginx.service", false),
            ("", false),
        ] {
            assert_eq!(matches(&list, name), expected, "{name}");
        }
        let Units(list) = r"a\x2db".parse().unwrap();
        assert!(matches(&list, r"a\x2db.service") && matches(&list, "a-b.service"));
        assert!("a/b".parse::<Units>().unwrap_err().contains("--cgroup"));
        assert!("a,,b".parse::<Units>().is_err() && "x".repeat(128).parse::<Units>().is_err());
        assert!(vec!["x"; 33].join(",").parse::<Units>().is_err());
    }

    #[test]
    fn container_has_an_id_or_a_name() {
        let id = format!("abcdef012345{}", "0".repeat(52));
        let known = [Container {
            id: id.clone(),
            name: "web".into(),
            runtime: "docker",
            netns: None,
        }];
        let list = |text: &str| Patterns {
            negate: false,
            patterns: container(text, &known).unwrap(),
        };
        for text in ["web", "abcdef", &id] {
            for name in [id.clone(), format!("docker-{id}.scope")] {
                assert!(matches(&list(text), &name), "{text}: {name}");
            }
            let other = format!("docker-abcdee{id}.scope");
            assert!(!matches(&list(text), &other), "{text}");
        }
        // Too short for an id.
        assert!(!matches(&list("abcde"), &id) && matches(&list("abcde"), "lxc.payload.abcde"));
        assert!(matches(&list("my-box"), r"machine-my\x2dbox.scope"));
        assert!(!matches(&list("my-box"), "my-box"));
    }
}
