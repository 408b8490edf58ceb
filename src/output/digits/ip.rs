// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, as the standard library shows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::append;

/// `0.` to `255.`, and how long each is.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 2); 256];
    let mut n = 0;
    while n < 256 {
        let digits = [
            b'0' + (n / 100) as u8,
            b'0' + (n / 10 % 10) as u8,
            b'0' + (n % 10) as u8,
        ];
        octets[n] = match n {
            0..10 => ([digits[2], b'.', 0, 0], 2),
            10..100 => ([digits[1], digits[2], b'.', 0], 3),
            _ => ([digits[0], digits[1], digits[2], b'.'], 4),
        };
        n += 1;
    }
    octets
};

/// Dotted, or with colons as RFC 5952 has it.
pub fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => v4(out, ip),
        IpAddr::V6(ip) => v6(out, ip),
    }
}

fn v4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    for octet in ip.octets() {
        let (text, len) = &OCTETS[usize::from(octet)];
        append::first(out, text, usize::from(*len));
    }
    out.pop();
}

fn v6(out: &mut Vec<u8>, ip: Ipv6Addr) {
    if let Some(mapped) = ip.to_ipv4_mapped() {
        out.extend_from_slice(b"::ffff:");
        return v4(out, mapped);
    }
    let groups = ip.segments();
    let (zeros, count) = most_zeros(&groups);
    for (n, group) in groups.into_iter().enumerate() {
        match n {
            _ if (zeros..zeros + count).contains(&n) => {
                if n == zeros {
                    out.extend_from_slice(b"::");
                }
                continue;
            }
            0 => {}
            _ if n == zeros + count && count > 0 => {}
            _ => out.push(b':'),
        }
        hex(out, group);
    }
}

/// Where the first of the longest runs of two zeros or more begins, and how long it is: 0 if there is none.
fn most_zeros(groups: &[u16; 8]) -> (usize, usize) {
    let (mut best, mut run) = ((0, 1), (0, 0));
    for (n, group) in groups.iter().enumerate() {
        match group {
            0 => run.1 += 1,
            _ => run = (n + 1, 0),
        }
        if run.1 > best.1 {
            best = run;
        }
    }
    if best.1 > 1 { best } else { (0, 0) }
}

fn hex(out: &mut Vec<u8>, group: u16) {
    for shift in [12, 8, 4, 0] {
        let rest = group >> shift;
        if rest != 0 || shift == 0 {
            out.push(b"0123456789abcdef"[usize::from(rest & 0xf)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(address: IpAddr) -> String {
        let mut out = Vec::new();
        ip(&mut out, address);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn addresses_are_those_of_format(v4: u32, groups: [u16; 8], zeros: u8) {
            let v4 = Ipv4Addr::from(v4);
            let groups = std::array::from_fn(|n| groups[n] * u16::from(zeros >> n & 1 == 0));
            let v6 = Ipv6Addr::from(groups);
            for address in [v4.into(), v6.into(), v4.to_ipv6_mapped().into()] {
                let address: IpAddr = address;
                prop_assert_eq!(shown(address), address.to_string());
            }
        }
    }

    #[test]
    fn every_octet_in_every_place() {
        for octet in 0..=u8::MAX {
            for address in [
                [octet, 0, 10, 255],
                [127, octet, octet, 1],
                [9, 99, 100, octet],
            ] {
                let address = Ipv4Addr::from(address);
                assert_eq!(shown(address.into()), address.to_string());
            }
        }
    }

    #[test]
    fn every_place_of_zeros_and_every_length_of_a_group() {
        for zeros in 0..=u8::MAX {
            for group in [1_u16, 0x12, 0x123, 0x1234, 0xffff] {
                let at = |n: usize| group * u16::from(zeros >> n & 1 == 0);
                let address = IpAddr::from(std::array::from_fn::<u16, 8, _>(at));
                assert_eq!(shown(address), address.to_string());
            }
        }
    }
}
