// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interfaces, and addresses scoped to one of them: `fe80::2%eth0` (RFC 4007).

use std::ffi::CStr;
use std::fmt::{Display, Formatter, Result as Written};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;

use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::abi::types::head;
use crate::output::{digits, escape};

/// An interface of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    netns: u32,
    ifindex: u32,
}

impl Link {
    /// By the inode number of its namespace; `None` for the index 0, which no interface has.
    pub fn new(netns: u32, ifindex: u32) -> Option<Self> {
        (ifindex != 0).then_some(Self { netns, ifindex })
    }

    /// Its index.
    pub fn index(self) -> u32 {
        self.ifindex
    }

    /// Its name now, [escaped](escape::name): known in the namespace of this process only, where the kernel can be asked.
    pub fn name(self) -> Option<String> {
        if self.netns != own_netns() {
            return None;
        }
        let mut name = [0u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer is as large as the call wants it, and lives through it.
        let found = unsafe { libc::if_indextoname(self.ifindex, name.as_mut_ptr().cast()) };
        if found.is_null() {
            return None;
        }
        let mut shown = Vec::new();
        escape::name(
            &mut shown,
            CStr::from_bytes_until_nul(&name).ok()?.to_bytes(),
        );
        String::from_utf8(shown).ok()
    }
}

fn own_netns() -> u32 {
    static OWN: LazyLock<u32> = LazyLock::new(|| {
        let own = std::fs::metadata("/proc/self/ns/net");
        own.map_or(0, |file| file.ino() as u32)
    });
    *OWN
}

/// The index of an interface, by its number or by its name in this namespace, escaped as rows show it.
///
/// # Errors
/// A sentence, when there is none.
pub fn index(text: &str) -> Result<u32, String> {
    if let Ok(index @ 1..) = text.parse::<u32>() {
        return Ok(index);
    }
    let names = escape::parse_names(text.as_bytes())?;
    let found = match &names[..] {
        [name] => if_nametoindex(name.as_slice()).ok(),
        _ => None,
    };
    found.ok_or_else(|| {
        format!("no interface '{text}' in this network namespace; for one in another namespace, use its number (ip link)")
    })
}

/// Whether an address is scoped to a link.
pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// An address, with its link where it has one: shown as ss does, `%` and the interface's name, or its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Without the link.
    pub ip: IpAddr,
    link: Option<Link>,
}

impl Address {
    /// `link`: that of the flow, which is left out of an address that is not link-local.
    pub fn new(ip: IpAddr, link: Option<Link>) -> Self {
        let link = link.filter(|_| is_link_local(ip));
        Self { ip, link }
    }

    /// Whether the name of a link, or its number, is part of it.
    pub fn has_link(self) -> bool {
        self.link.is_some()
    }

    /// Writes it.
    pub fn write(self, out: &mut Vec<u8>) {
        digits::ip::ip(out, self.ip);
        if let Some(link) = self.link {
            out.push(b'%');
            match link.name() {
                Some(name) => out.extend_from_slice(name.as_bytes()),
                None => digits::integer(out, link.ifindex.into()),
            }
        }
    }

    /// Writes it with a port, as `SocketAddr` does.
    pub fn write_with_port(self, out: &mut Vec<u8>, port: u16) {
        if self.ip.is_ipv6() {
            out.push(b'[');
        }
        self.write(out);
        if self.ip.is_ipv6() {
            out.push(b']');
        }
        out.push(b':');
        digits::integer(out, port.into());
    }

    /// The same as a text.
    pub fn with_port(self, port: u16) -> String {
        text(|out| self.write_with_port(out, port))
    }
}

impl head {
    /// The local address, with its link if it is a link-local one.
    pub fn local(&self) -> Address {
        Address::new(self.flow.local(), self.link())
    }

    /// The remote address, with its link if it is a link-local one.
    pub fn remote(&self) -> Address {
        Address::new(self.flow.remote(), self.link())
    }

    /// The link that a link-local address of the flow belongs to, where it is known.
    pub fn link(&self) -> Option<Link> {
        Link::new(self.netns, self.flow.ifindex)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self { ip, link: None }
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        IpAddr::V6(ip).into()
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> Written {
        f.write_str(&text(|out| self.write(out)))
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, link: Option<Link>) -> Address {
        Address::new(text.parse().expect("an address"), link)
    }

    #[test]
    fn only_link_local_addresses_have_zones() {
        let other = Link::new(1, 7);
        assert_eq!(address("fe80::2", other).to_string(), "fe80::2%7");
        assert_eq!(address("fe80::2", other).with_port(80), "[fe80::2%7]:80");
        assert_eq!(address("fe80::2", Link::new(1, 0)).to_string(), "fe80::2");
        assert_eq!(address("2001:db8::2", other).to_string(), "2001:db8::2");
        assert_eq!(address("10.0.0.1", other).with_port(80), "10.0.0.1:80");
    }

    #[test]
    fn link_of_own_namespace_has_name() {
        let lo = index("lo").expect("every namespace has it");
        assert_eq!(index(&lo.to_string()), Ok(lo));
        let here = address("fe80::2", Link::new(own_netns(), lo));
        assert_eq!(here.to_string(), "fe80::2%lo");
        for wrong in ["no-such-link", "0", "-1", "", "a,b"] {
            assert!(index(wrong).is_err(), "{wrong}");
        }
    }
}
