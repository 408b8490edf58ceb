// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list that is read, printed and read again is the same list: what the kernel half would get of it is compared.

use clap::Parser;
use proptest::collection::vec;
use proptest::prelude::*;

use super::arguments::{Filters, filters};

/// `!` or nothing, and 1 to 8 elements.
fn list(element: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let sign = prop_oneof![Just("!"), Just("")];
    (sign, vec(element, 1..9)).prop_map(|(sign, all)| format!("{sign}{}", all.join(",")))
}

fn range(most: u32) -> impl Strategy<Value = String> {
    let number = prop_oneof![0..=most, 0..=most.min(9)];
    (number.clone(), number).prop_map(|(a, b)| match a == b {
        true => a.to_string(),
        false => format!("{}-{}", a.min(b), a.max(b)),
    })
}

fn network() -> impl Strategy<Value = String> {
    let v4 = (any::<std::net::Ipv4Addr>(), 0..=32u8).prop_map(|(a, n)| format!("{a}/{n}"));
    let v6 = (any::<std::net::Ipv6Addr>(), 0..=128u8).prop_map(|(a, n)| format!("{a}/{n}"));
    let mapped = (any::<u32>(), 96..=128u8)
        .prop_map(|(a, n)| format!("{}/{n}", std::net::Ipv4Addr::from(a).to_ipv6_mapped()));
    let zoned =
        (any::<u16>(), 1..99u32, 10..=128u8).prop_map(|(a, z, n)| format!("fe80::{a:x}%{z}/{n}"));
    prop_oneof![v4, v6, mapped, zoned]
}

/// The words of a command line, some of them filters.
fn words() -> impl Strategy<Value = Vec<String>> {
    let flag = |name: &'static str, list: BoxedStrategy<String>| {
        proptest::option::of(list.prop_map(move |list| format!("{name}={list}"))).boxed()
    };
    let id = (4_194_305..u32::MAX).prop_map(|id| id.to_string());
    let cgroup = any::<u64>().prop_map(|id| format!("id:{id}"));
    let name = "[a-zA-Z0-9:/_.-]{1,15}|(\\\\x(0[1-9a-f]|[1-9a-f][0-9a-f])){1,15}";
    let all = vec![
        flag("--pid", list(range(u32::MAX)).boxed()),
        flag("--uid", list(range(u32::MAX)).boxed()),
        flag("--lport", list(range(65_535)).boxed()),
        flag("--rport", list(range(65_535)).boxed()),
        flag("--port", list(range(65_535)).boxed()),
        flag("--laddr", list(network()).boxed()),
        flag("--raddr", list(network()).boxed()),
        flag("--addr", list(network()).boxed()),
        flag("--netns", list(id).boxed()),
        flag("--cgroup", list(cgroup).boxed()),
        flag("--comm", list(name).boxed()),
        proptest::option::of(prop_oneof![Just("-4".to_owned()), Just("-6".to_owned())]).boxed(),
    ];
    all.prop_map(|all| all.into_iter().flatten().collect())
}

proptest! {
    #[test]
    fn filters_survive_being_printed(words in words()) {
        let given = Filters::try_parse_from(&words);
        prop_assert!(given.is_ok(), "{:?}: {}", words, given.err().map(|e| e.to_string()).unwrap_or_default());
        filters(&given.expect("checked").filter);
    }

    #[test]
    fn other_lists_survive_being_printed(
        states in list("established|syn-sent|syn_recv|fin-wait-1|close|listen|all".prop_map(String::from)),
        ca in list("open|Disorder|TCP_CA_CWR|recovery|loss".prop_map(String::from)),
        columns in "[+-]?[a-z]{1,9}(,[+-]?[a-z]{1,9}){0,4}",
        time in "[0-9]{1,9}(\\.[0-9]{1,9})?(ms|s|m|h)?",
    ) {
        for text in [states, ca, columns, time] {
            super::arguments(text.as_bytes());
        }
    }
}
