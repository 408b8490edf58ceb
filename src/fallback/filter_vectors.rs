// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test vectors of the filters, for this half and for the kernel half (`tests/live/fallback/filters.rs`). Both have
//! the types of `abi::types` in the module above.

use std::net::Ipv6Addr;

use super::{flow, owner, pid_source};

/// Local and remote address and port, link, and owner.
type Subject = (
    &'static str,
    u16,
    &'static str,
    u16,
    u32,
    Option<(u32, &'static str)>,
);

const SUBJECTS: [Subject; 4] = [
    (
        "::ffff:10.0.0.1",
        40_000,
        "::ffff:10.0.0.2",
        443,
        0,
        Some((12, "curl")),
    ),
    ("2001:db8::1", 443, "2001:db8::2", 40_000, 0, None),
    ("fe80::1", 22, "fe80::2", 22, 1, Some((4_000_000, "sshd"))),
    (
        "::ffff:192.168.1.255",
        0,
        "::ffff:255.255.255.255",
        65_535,
        0,
        Some((1, "123456789012345")),
    ),
];

/// Arguments, and a `1` for each subject that passes.
pub const CASES: &[(&[&str], &str)] = &[
    (&[], "1111"),
    (&["-4"], "1001"),
    (&["-6"], "0110"),
    (&["--lport", "443"], "0100"),
    (&["--lport", "!443"], "1011"),
    (&["--lport", "0,22-22"], "0011"),
    (&["--rport", "443,65535"], "1001"),
    (&["--rport", "!0-443"], "0101"),
    (&["--port", "443"], "1100"),
    (&["--port", "!443"], "0011"),
    (&["--port", "0-65535"], "1111"),
    (&["--laddr", "10.0.0.1"], "1000"),
    (&["--laddr", "::/0"], "0110"),
    (&["--laddr", "0.0.0.0/0"], "1001"),
    (&["--laddr", "!192.168.1.254/31,fe80::/10"], "1100"),
    (&["--raddr", "10.0.0.1"], "0000"),
    (&["--raddr", "!10.0.0.0/24"], "0111"),
    (&["--raddr", "2001:db8::/32,255.255.255.255"], "0101"),
    (&["--addr", "10.0.0.2,2001:db8::1/128"], "1100"),
    (&["--addr", "!10.0.0.0/30"], "0111"),
    (&["--addr", "fe80::2%1"], "0010"),
    (&["--addr", "fe80::2%4294967295"], "0000"),
    (&["--addr", "!fe80::%1/10"], "1101"),
    (&["--pid", "10-12"], "1000"),
    (&["--pid", "!12"], "0011"),
    (&["--pid", "0"], "0000"),
    (&["--pid", "1,4000000-4294967295"], "0011"),
    (&["--comm", "curl,123456789012345"], "1001"),
    (&["--comm", "cur"], "0000"),
    (&["--comm", "!sshd"], "1001"),
];

fn octets(addr: &str) -> [u8; 16] {
    addr.parse::<Ipv6Addr>()
        .unwrap_or(Ipv6Addr::UNSPECIFIED)
        .octets()
}

/// Each subject, as a record has it.
pub fn subjects() -> impl Iterator<Item = (flow, owner)> {
    SUBJECTS
        .into_iter()
        .map(|(laddr, lport, raddr, rport, ifindex, whose)| {
            let mut owner = owner::default();
            if let Some((pid, name)) = whose {
                (owner.pid, owner.source) = (pid, pid_source::SOCKET);
                owner.comm[..name.len()].copy_from_slice(name.as_bytes());
            }
            let flow = flow {
                laddr: octets(laddr),
                raddr: octets(raddr),
                lport,
                rport,
                ifindex,
                family: if laddr.starts_with("::ffff:") { 4 } else { 6 },
                ..flow::default()
            };
            (flow, owner)
        })
}

/// Cases, and cases of two filters, which let pass what both do: arguments, and a `bool` for each subject.
pub fn cases() -> impl Iterator<Item = (Vec<&'static str>, Vec<bool>)> {
    let pairs = CASES.iter().enumerate().flat_map(|(i, one)| {
        let others = CASES.iter().skip(i.max(3)).step_by(5);
        others
            .filter(|other| one.0.first() != other.0.first())
            .map(move |other| (one, other))
    });
    let none: &(&[&str], &str) = &(&[], "1111");
    let singles = CASES.iter().map(move |one| (one, none));
    singles.chain(pairs).map(|(one, other)| {
        let passes = |case: &(&[&str], &str), at: usize| case.1.as_bytes()[at] == b'1';
        let both = (0..SUBJECTS.len()).map(|at| passes(one, at) && passes(other, at));
        ([one.0, other.0].concat(), both.collect())
    })
}
