// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of numbers, ports, networks and names, as users write them.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};

use super::Fill;
use crate::abi::types;
use crate::output::{address, escape};

/// Splits `[!]a,b,c`.
///
/// # Errors
/// A sentence, if the list or an element is empty.
pub fn split(text: &str) -> Result<(bool, Vec<&str>), String> {
    let (negate, list) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let items: Vec<_> = list.split(',').map(str::trim).collect();
    if items.iter().any(|item| item.is_empty()) {
        return Err("the list has an empty element".into());
    }
    Ok((negate, items))
}

/// The kernel half's arrays are of fixed size.
pub(super) fn limit<T>(items: Vec<T>, max: usize) -> Result<Vec<T>, String> {
    match items.len() {
        n if n > max => Err(format!("{n} elements, but at most {max} are allowed")),
        _ => Ok(items),
    }
}

/// `7` or `3-9`, both ends included.
fn range<T: FromStr + PartialOrd + Copy>(
    text: &str,
    what: &str,
) -> Result<RangeInclusive<T>, String> {
    let number = |digits: &str| {
        digits
            .parse::<T>()
            .map_err(|_| format!("'{digits}' is not {what}"))
    };
    let Some((lo, hi)) = text.split_once('-') else {
        return number(text).map(|n| n..=n);
    };
    let (lo, hi) = (number(lo)?, number(hi)?);
    if lo > hi {
        return Err(format!("the range '{text}' is reversed"));
    }
    Ok(lo..=hi)
}

/// Process or user ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    negate: bool,
    ranges: Vec<RangeInclusive<u32>>,
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (negate, items) = split(text)?;
        let ranges = items
            .into_iter()
            .map(|item| range(item, "a number (0-4294967295)"));
        Ok(Self {
            negate,
            ranges: limit(ranges.collect::<Result<_, _>>()?, types::MAX_RANGES)?,
        })
    }
}

impl Numbers {
    /// Whether the list lets this number pass.
    pub fn passes(&self, number: u32) -> bool {
        self.ranges.iter().any(|range| range.contains(&number)) != self.negate
    }
}

impl Fill for Numbers {
    type To = types::range_list;

    fn fill(&self, to: &mut types::range_list) {
        to.n = self.ranges.len() as u32;
        to.negate = self.negate.into();
        for (to, range) in to.range.iter_mut().zip(&self.ranges) {
            (to.lo, to.hi) = (*range.start(), *range.end());
        }
    }
}

/// Ports, as one bit each: a list of any length costs the kernel one load.
#[derive(Clone, Debug, PartialEq)]
pub struct Ports {
    negate: bool,
    bits: Box<[u8; 8192]>,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (negate, items) = split(text)?;
        let mut bits = Box::new([0; 8192]);
        for item in items {
            for port in range::<u16>(item, "a port (0-65535)")? {
                bits[usize::from(port >> 3)] |= 1 << (port & 7);
            }
        }
        Ok(Self { negate, bits })
    }
}

impl Ports {
    /// Whether the list names this port, with `!` before it or without.
    pub fn names(&self, port: u16) -> bool {
        let byte = self.bits.get(usize::from(port >> 3));
        byte.is_some_and(|byte| byte >> (port & 7) & 1 != 0)
    }

    /// Whether the list lets something with these ports pass.
    pub fn passes(&self, ports: &[u16]) -> bool {
        ports.iter().any(|&port| self.names(port)) != self.negate
    }
}

impl Fill for Ports {
    type To = types::port_set;

    fn fill(&self, to: &mut types::port_set) {
        to.negate = self.negate.into();
        to.bits = *self.bits;
    }
}

/// Networks, IPv4 and IPv6 together.
#[derive(Clone, Debug, PartialEq)]
pub struct Cidrs {
    negate: bool,
    /// Each with the index of its link, or 0 for any.
    nets: Vec<(Ipv6Net, u32)>,
}

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (negate, items) = split(text)?;
        let nets = items.into_iter().map(zoned).collect::<Result<_, _>>()?;
        Ok(Self {
            negate,
            nets: limit(nets, types::MAX_CIDRS)?,
        })
    }
}

impl Cidrs {
    /// Whether one of them is on a certain link.
    pub fn has_zone(&self) -> bool {
        self.nets.iter().any(|(_, ifindex)| *ifindex != 0)
    }

    /// Whether the list lets these ends of a flow pass, each as it lies in a record.
    pub fn passes(&self, ends: &[[u8; 16]], flow: &types::flow) -> bool {
        let within = |&end: &[u8; 16]| {
            self.nets.iter().any(|(net, ifindex)| {
                family(net) == flow.family
                    && net.contains(&Ipv6Addr::from(end))
                    && [0, flow.ifindex].contains(ifindex)
            })
        };
        ends.iter().any(within) != self.negate
    }
}

/// `fe80::2`, `fe80::2%eth0`, `fe80::%eth0/10`: a network, and the index of its link or 0.
fn zoned(text: &str) -> Result<(Ipv6Net, u32), String> {
    let Some((addr, zone)) = text.split_once('%') else {
        return Ok((network(text)?, 0));
    };
    let net = match zone.split_once('/') {
        Some((_, prefix)) => network(&format!("{addr}/{prefix}"))?,
        None => network(addr)?,
    };
    if !address::is_link_local(net.network().into()) || net.prefix_len() < 10 {
        return Err(format!(
            "'{text}': only a link-local address (fe80::/10) can have an interface"
        ));
    }
    let zone = zone.split('/').next().unwrap_or_default();
    Ok((net, address::index(zone)?))
}

/// An address or a network, IPv4 in its mapped form: the form that the kernel half compares.
fn network(text: &str) -> Result<Ipv6Net, String> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("'{text}' is not an address or a network such as 10.0.0.0/8"))?;
    let mapped = |addr: Ipv4Addr| addr.to_ipv6_mapped();
    Ok(match net {
        IpNet::V4(v4) => Ipv6Net::new_assert(mapped(v4.network()), 96 + v4.prefix_len()),
        IpNet::V6(v6) => v6.trunc(),
    })
}

/// 4 for a network of mapped addresses, or 6: `::/0` is not IPv4.
fn family(net: &Ipv6Net) -> u8 {
    let mapped = net.prefix_len() >= 96 && net.network().to_ipv4_mapped().is_some();
    if mapped { 4 } else { 6 }
}

/// The two words of an address as it lies in memory.
fn words(octets: [u8; 16]) -> [u64; 2] {
    let (hi, lo) = octets.split_at(8);
    [hi, lo].map(|half| u64::from_ne_bytes(half.try_into().unwrap_or_default()))
}

impl Fill for Cidrs {
    type To = types::cidr_list;

    fn fill(&self, to: &mut types::cidr_list) {
        to.n = self.nets.len() as u32;
        to.negate = self.negate.into();
        for (to, (net, ifindex)) in to.cidr.iter_mut().zip(&self.nets) {
            to.ifindex = *ifindex;
            to.addr = words(net.network().octets());
            to.mask = words(net.netmask().octets());
            to.family = family(net).into();
        }
    }
}

/// Process names.
#[derive(Clone, Debug, PartialEq)]
pub struct Comms {
    negate: bool,
    comms: Vec<[u8; 16]>,
}

impl Comms {
    /// From an argument, whose bytes need not be UTF-8: a process's name need not be, either.
    ///
    /// # Errors
    /// A message for the user.
    pub fn from_argument(list: &OsStr) -> Result<Self, String> {
        let list = list.as_bytes();
        let (negate, list) = match list.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, list),
        };
        let names = escape::parse_names(list)?;
        let comms = names.iter().map(|name| padded(name));
        Ok(Self {
            negate,
            comms: limit(comms.collect::<Result<_, _>>()?, types::MAX_COMMS)?,
        })
    }
}

impl Comms {
    /// Whether the list lets this name pass, padded with zeros as in a record.
    pub fn passes(&self, comm: &[u8; 16]) -> bool {
        self.comms.contains(comm) != self.negate
    }
}

/// A name as the kernel keeps it.
fn padded(name: &[u8]) -> Result<[u8; 16], String> {
    let mut comm = [0; 16];
    let shown = String::from_utf8_lossy(name);
    match comm.get_mut(..name.len()) {
        _ if name.is_empty() => Err("the list has an empty element".into()),
        _ if name.contains(&0) => Err("a name has no NUL byte (\\x00)".into()),
        Some(to) if name.len() < 16 => {
            to.copy_from_slice(name);
            Ok(comm)
        }
        _ => Err(format!(
            "'{shown}' is longer than the 15 bytes that the kernel keeps"
        )),
    }
}

impl Fill for Comms {
    type To = types::comm_list;

    fn fill(&self, to: &mut types::comm_list) {
        to.n = self.comms.len() as u32;
        to.negate = self.negate.into();
        for (to, comm) in to.comm.iter_mut().zip(&self.comms) {
            *to = words(*comm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(ports: &str, port: u16) -> bool {
        ports.parse::<Ports>().unwrap().names(port)
    }

    #[test]
    fn ports_are_lists_with_ranges() {
        for port in [22, 8000, 8005, 8010, 65535] {
            assert!(has("22,8000-8010, 65535", port));
        }
        assert!(!has("22,8000-8010", 8011) && !has("22,8000-8010", 23));
        assert!("!22".parse::<Ports>().unwrap().negate);
        // 443 and 47873 are the same bytes in the other order.
        assert!(has("443", 443) && !has("443", 47873));
    }

    #[test]
    fn parse_errors_name_the_fault() {
        let error = |text: &str| text.parse::<Ports>().unwrap_err();
        assert_eq!(error("65536"), "'65536' is not a port (0-65535)");
        assert_eq!(error("http"), "'http' is not a port (0-65535)");
        assert_eq!(error("80,"), "the list has an empty element");
        assert_eq!(error("!"), "the list has an empty element");
        assert_eq!(error("9-7"), "the range '9-7' is reversed");
        assert!("1.2.3".parse::<Cidrs>().unwrap_err().contains("'1.2.3'"));
        assert!("10.0.0.0/33".parse::<Cidrs>().is_err());
        let name = |list: &str| Comms::from_argument(OsStr::new(list)).unwrap_err();
        assert!(name("sixteen-letters-").contains("15 bytes"));
        assert!(name("a\\x00").contains("NUL") && name("a,").contains("empty"));
        assert!(name(r"a\b").contains(r"write \\"));
        assert!("-1".parse::<Numbers>().is_err());
    }

    #[test]
    fn names_are_bytes_with_escapes() {
        let parse = |list: &[u8]| Comms::from_argument(OsStr::from_bytes(list)).unwrap();
        let comms = |list: &[u8]| {
            let unpadded = |comm: &[u8; 16]| comm.iter().copied().filter(|&b| b != 0).collect();
            parse(list)
                .comms
                .iter()
                .map(unpadded)
                .collect::<Vec<Vec<u8>>>()
        };
        assert_eq!(comms(b"nginx, redis"), [&b"nginx"[..], b"redis"]);
        assert_eq!(comms(br"a\,b,\x21c"), [&b"a,b"[..], b"!c"]);
        assert_eq!(comms(b"\xff\xfe"), comms(br"\xff\xfe"));
        assert!(parse(b"!a").negate && !parse(br"\!a").negate);
    }

    #[test]
    fn long_list_is_rejected() {
        let list = |n: usize| vec!["1"; n].join(",");
        assert!(list(64).parse::<Numbers>().is_ok());
        assert!(
            list(65)
                .parse::<Numbers>()
                .unwrap_err()
                .contains("at most 64")
        );
    }

    #[test]
    fn ipv4_networks_compare_as_mapped() {
        let Cidrs { nets, .. } = "10.1.2.3/8".parse().unwrap();
        assert_eq!(nets[0].0.to_string(), "::ffff:10.0.0.0/104");
        let Cidrs { nets, negate } = "!2001:db8::1".parse().unwrap();
        assert!(negate && nets[0].0.prefix_len() == 128);
    }

    #[test]
    fn link_local_address_takes_zone() {
        let zoned = |text: &str| text.parse::<Cidrs>().map(|list| list.nets[0].1);
        let lo = address::index("lo").unwrap();
        assert_eq!(zoned("fe80::2%lo"), Ok(lo));
        assert_eq!((zoned("fe80::%7/64"), zoned("fe80::2")), (Ok(7), Ok(0)));
        for wrong in [
            "10.0.0.1%lo",
            "2001:db8::1%lo",
            "fe80::2%",
            "fe80::2%no-such",
            "::/0%lo",
            "fe80::%lo/9",
        ] {
            assert!(zoned(wrong).is_err(), "{wrong}");
        }
    }
}
