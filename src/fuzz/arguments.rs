// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of a command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use clap::Parser;
use clap::error::ErrorKind;

use crate::abi::names::{CA_STATES, TCP_STATES};
use crate::abi::types::{config, range_list};
use crate::aggregate::keys::Keys;
use crate::cli::filter::{CaStates, Comms, Filter, NextCaStates, States, StatesNow};
use crate::cli::quantity::{duration, milliseconds, whole};
use crate::output::{Sort, choice::Choice, escape};

/// The filters by themselves.
#[derive(Parser)]
#[command(no_binary_name = true)]
pub(crate) struct Filters {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[arg(long, value_parser = Keys::parser(&["server", "reason"]))]
    by: Option<Keys>,
}

/// A line of words, and each line by itself as a list of every kind.
pub fn arguments(bytes: &[u8]) {
    let words = bytes.split(|&byte| byte == b'\n').map(OsStr::from_bytes);
    match Filters::try_parse_from(words.clone()) {
        Ok(given) => {
            filters(&given.filter);
            given.by.as_ref().map(Keys::name);
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
        Err(error) => assert!(!error.to_string().trim().is_empty()),
    }
    for word in words {
        let _ = Comms::from_argument(word);
        if let Some(text) = word.to_str() {
            texts(text);
        }
    }
}

/// What is understood is understood again as it is printed, and means the same to the kernel half.
pub(crate) fn filters(filter: &Filter) {
    let asked = configured(filter);
    let printed = printed(&asked);
    let again = Filters::try_parse_from(&printed);
    let again = again.unwrap_or_else(|error| panic!("{printed:?}: {error}"));
    let again = configured(&again.filter);
    assert!(same(&asked, &again), "{printed:?}");
}

/// Without the names of units and containers, which stand for several names each.
pub(crate) fn configured(filter: &Filter) -> Box<config> {
    let mut filter = filter.clone();
    (filter.unit, filter.container) = (None, None);
    let mut config = Box::<config>::default();
    filter.fill(&mut config);
    config
}

fn same(one: &config, other: &config) -> bool {
    // SAFETY: integers only, with explicit padding: all their bytes have values.
    let bytes = |config| unsafe { plain::as_bytes::<config>(config) };
    bytes(one) == bytes(other)
}

fn ranges(list: &range_list) -> Vec<String> {
    let used = list.range.iter().take(list.n as usize);
    used.map(|range| format!("{}-{}", range.lo, range.hi))
        .collect()
}

/// The bits that are set, as ranges.
fn ports(bits: &[u8; 8192]) -> Vec<String> {
    let has = |port: &u32| bits[*port as usize / 8] >> (port % 8) & 1 != 0;
    let all: Vec<u32> = (0..65_536).filter(has).collect();
    let runs = all.chunk_by(|a, b| a + 1 == *b);
    runs.map(|run| format!("{}-{}", run[0], run[run.len() - 1]))
        .collect()
}

/// A configuration as flags.
fn printed(config: &config) -> Vec<std::ffi::OsString> {
    let (lists, set) = (&config.filter, &config.set);
    let mut flags = Vec::new();
    let mut flag = |name: &str, is_set: u8, negate: u32, items: Vec<Vec<u8>>| {
        if is_set != 0 {
            let sign: &[u8] = if negate != 0 { b"!" } else { b"" };
            let list = [sign, &items.join(&b',')].concat();
            let word = [format!("--{name}=").as_bytes(), &list].concat();
            flags.push(OsStr::from_bytes(&word).to_owned());
        }
    };
    let bytes = |items: Vec<String>| items.into_iter().map(String::into_bytes).collect();
    for (name, is_set, list) in [("pid", set.pid, &lists.pid), ("uid", set.uid, &lists.uid)] {
        flag(name, is_set, list.negate, bytes(ranges(list)));
    }
    for (name, is_set, list) in [
        ("lport", set.lport, &lists.lport),
        ("rport", set.rport, &lists.rport),
        ("port", set.port, &lists.port),
    ] {
        flag(name, is_set, list.negate, bytes(ports(&list.bits)));
    }
    for (name, is_set, list) in [
        ("laddr", set.laddr, &lists.laddr),
        ("raddr", set.raddr, &lists.raddr),
        ("addr", set.addr, &lists.addr),
    ] {
        let used = list.cidr.iter().take(list.n as usize);
        let items = used.map(|net| network(net.addr, net.mask, net.family, net.ifindex));
        flag(name, is_set, list.negate, bytes(items.collect()));
    }
    for (name, is_set, list) in [
        ("netns", set.netns, &lists.netns),
        ("cgroup", set.cgroup, &lists.cgroup),
    ] {
        let used = list.id.iter().take(list.n as usize);
        flag(
            name,
            is_set,
            list.negate,
            bytes(used.map(|id| format!("id:{id}")).collect()),
        );
    }
    let names = lists.comm.comm.iter().take(lists.comm.n as usize);
    let names = names.map(|words| {
        let name = words.map(u64::to_ne_bytes).concat();
        let mut shown = Vec::new();
        escape::name(&mut shown, crate::abi::types::trim_nul(&name));
        shown
    });
    flag("comm", set.comm, lists.comm.negate, names.collect());
    let others = [
        ("-4", set.family == 4),
        ("-6", set.family == 6),
        ("--mptcp", set.mptcp != 0),
    ];
    flags.extend(
        others
            .iter()
            .filter(|(_, is)| *is)
            .map(|(word, _)| word.into()),
    );
    flags
}

fn network(addr: [u64; 2], mask: [u64; 2], family: u32, ifindex: u32) -> String {
    let octets: Vec<u8> = addr.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let octets = <[u8; 16]>::try_from(octets).expect("two words");
    let addr = std::net::Ipv6Addr::from(octets);
    let len: u32 = mask.iter().map(|word| word.count_ones()).sum();
    let zone = if ifindex == 0 {
        String::new()
    } else {
        format!("%{ifindex}")
    };
    match addr.to_ipv4_mapped().filter(|_| family == 4) {
        Some(v4) => format!("{v4}/{}", len - 96),
        None => format!("{addr}{zone}/{len}"),
    }
}

/// Lists and numbers that are no filters.
fn texts(text: &str) {
    again::<States>(text, |states| bits(states.mask(), &TCP_STATES));
    again::<StatesNow>(text, |states| bits(states.mask(), &TCP_STATES));
    again::<CaStates>(text, |states| bits(states.mask(), &CA_STATES));
    again::<NextCaStates>(text, |states| {
        bits(states.mask(), &[&CA_STATES[..], &["closed"]].concat())
    });
    again::<Choice>(text, choice);
    let _ = text.parse::<Sort>();
    if let Ok(time) = duration(text) {
        assert_eq!(duration(&format!("{}", time.as_secs_f64())), Ok(time));
    }
    let _ = milliseconds(text);
    if let Ok(number) = whole(0..=u64::MAX)(text) {
        assert_eq!(whole(0..=u64::MAX)(&number.to_string()), Ok(number));
    }
}

/// What `print` makes of it is understood as the same.
fn again<T: FromStr + PartialEq>(text: &str, print: impl Fn(&T) -> Option<String>) {
    if let Ok(first) = text.parse::<T>()
        && let Some(printed) = print(&first)
    {
        assert!(
            printed.parse().is_ok_and(|second: T| second == first),
            "{text}: {printed}"
        );
    }
}

/// The names of the bits that are set, or those that are not, if there are bits without a name. Some bit must be.
fn bits(mask: u32, names: &[&str]) -> Option<String> {
    let negate = mask >> names.len() != 0;
    let mask = if negate { !mask } else { mask };
    let named = names.iter().enumerate();
    let named = named.filter(|(bit, name)| mask >> bit & 1 != 0 && !name.is_empty());
    let named: Vec<_> = named.map(|(_, name)| name.to_lowercase()).collect();
    let sign = if negate { "!" } else { "" };
    (!named.is_empty()).then(|| format!("{sign}{}", named.join(",")))
}

fn choice(choice: &Choice) -> Option<String> {
    use crate::output::choice::Change::{Add, Remove};
    Some(match choice {
        Choice::Only(names) => names.join(","),
        Choice::Changed(changes) => {
            let sign = changes.iter().map(|change| match change {
                Add(name) => format!("+{name}"),
                Remove(name) => format!("-{name}"),
            });
            sign.collect::<Vec<_>>().join(",")
        }
    })
}
