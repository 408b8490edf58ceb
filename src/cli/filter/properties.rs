// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a list lets pass is what was written in it, whatever that was; and no text makes a parser panic.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Cidrs, Comms, Namespaces, Numbers, Ports, States};
use crate::abi::types::flow;
use crate::output::escape;

/// The list as a user writes it.
fn list(negate: bool, items: &[String]) -> String {
    format!("{}{}", if negate { "!" } else { "" }, items.join(","))
}

fn ranges<T: Copy + Ord + std::fmt::Display>(pairs: &[(T, T)]) -> (Vec<(T, T)>, Vec<String>) {
    let sorted = pairs.iter().map(|&(a, b)| (a.min(b), a.max(b)));
    let text = sorted.clone().map(|(lo, hi)| match lo == hi {
        true => lo.to_string(),
        false => format!("{lo}-{hi}"),
    });
    (sorted.collect(), text.collect())
}

fn networks() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32u8);
    let v4 = v4.prop_map(|(addr, len)| Ipv4Net::new_assert(Ipv4Addr::from(addr), len).into());
    let v6 = (any::<u128>(), 0..=128u8);
    let v6 = v6.prop_map(|(addr, len)| Ipv6Net::new_assert(Ipv6Addr::from(addr), len).into());
    v4.boxed().prop_union(v6.boxed())
}

/// As a record has it.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

proptest! {
    #[test]
    fn numbers_match_ranges(negate: bool, pairs in vec(any::<(u32, u32)>(), 1..64), other: u32) {
        let (pairs, items) = ranges(&pairs);
        let numbers: Numbers = list(negate, &items).parse().unwrap();
        for number in pairs.iter().flat_map(|&(lo, hi)| [lo, hi, lo.wrapping_sub(1), hi.wrapping_add(1), other]) {
            let named = pairs.iter().any(|&(lo, hi)| lo <= number && number <= hi);
            prop_assert_eq!(numbers.passes(number), named != negate);
        }
    }

    #[test]
    fn ports_match_ranges(negate: bool, pairs in vec(any::<(u16, u16)>(), 1..9), other: u16) {
        let (pairs, items) = ranges(&pairs);
        let ports: Ports = list(negate, &items).parse().unwrap();
        for port in pairs.iter().flat_map(|&(lo, hi)| [lo, hi, lo.wrapping_sub(1), hi.wrapping_add(1), other]) {
            let named = pairs.iter().any(|&(lo, hi)| lo <= port && port <= hi);
            prop_assert_eq!(ports.names(port), named);
            prop_assert_eq!(ports.passes(&[port]), named != negate);
        }
    }

    #[test]
    fn addresses_match_networks(negate: bool, nets in vec(networks(), 1..9), other: u128) {
        let items: Vec<_> = nets.iter().map(IpNet::to_string).collect();
        let cidrs: Cidrs = list(negate, &items).parse().unwrap();
        let mut ends: Vec<IpAddr> = nets.iter().flat_map(|net| [net.network(), net.broadcast()]).collect();
        ends.extend([IpAddr::from(Ipv6Addr::from(other)), Ipv4Addr::from(other as u32).into()]);
        for addr in ends {
            let family = if addr.is_ipv4() { 4 } else { 6 };
            let named = nets.iter().any(|net| net.contains(&addr));
            let flow = flow { family, ..flow::default() };
            prop_assert_eq!(cidrs.passes(&[octets(addr)], &flow), named != negate, "{}", addr);
        }
    }

    #[test]
    fn shown_name_matches_itself(negate: bool, names in vec(vec(1..=255u8, 1..16), 1..16)) {
        let shown = names.iter().map(|name| {
            let mut shown = Vec::new();
            escape::name(&mut shown, name);
            shown
        });
        let shown: Vec<_> = shown.collect();
        prop_assert_eq!(escape::parse_names(&shown.join(&b',')), Ok(names.clone()));
        let text = [if negate { &b"!"[..] } else { b"" }, &shown.join(&b',')].concat();
        let comms = Comms::from_argument(OsStr::from_bytes(&text)).unwrap();
        for name in &names {
            let mut comm = [0; 16];
            comm[..name.len()].copy_from_slice(name);
            prop_assert_eq!(comms.passes(&comm), !negate);
        }
        prop_assert_eq!(comms.passes(&[0; 16]), negate);
    }

    #[test]
    fn states_are_single_bits(negate: bool, states in vec(1..=11usize, 1..12)) {
        let states: Vec<_> = states.into_iter().filter(|state| *state != 6).collect(); // TIME_WAIT
        prop_assume!(!states.is_empty());
        let items: Vec<_> = states.iter().map(|&state| crate::abi::names::TCP_STATES[state].to_lowercase()).collect();
        let mask = states.iter().fold(0, |mask, state| mask | 1 << state);
        let parsed: States = list(negate, &items).parse().unwrap();
        prop_assert_eq!(parsed.mask(), if negate { !mask } else { mask });
    }

    #[test]
    fn parsers_never_panic(text in "[!,0-9a-f:./%x\\\\ -]{0,24}|\\PC{0,24}", bytes: Vec<u8>) {
        let _ = text.parse::<Numbers>();
        let _ = text.parse::<Ports>();
        let _ = text.parse::<Cidrs>();
        let _ = text.parse::<States>();
        let _ = text.parse::<Namespaces>();
        let _ = Comms::from_argument(OsStr::from_bytes(&bytes));
    }
}
