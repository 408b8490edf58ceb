// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links, and the addresses that mean something only on one of them: `fe80::2%eth0` (RFC 4007).

use std::ffi::CStr;
use std::fmt::{Display, Formatter, Result as Written};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;

use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::output::escape;

/// An interface of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        format!("there is no interface '{text}' in this network namespace; that of another one has a number (ip link)")
    })
}

/// Whether an address means something on one link only.
pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// An address, with its link where it has one: shown as ss does, `%` and the interface's name, or its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Whether it is shown with a link, whose name may be anything.
    pub fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// With a port, as `SocketAddr` writes it.
    pub fn with_port(self, port: u16) -> String {
        match self.ip {
            IpAddr::V4(_) => format!("{self}:{port}"),
            IpAddr::V6(_) => format!("[{self}]:{port}"),
        }
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
        write!(f, "{}", self.ip)?;
        match self.link {
            None => Ok(()),
            Some(link) => match link.name() {
                Some(name) => write!(f, "%{name}"),
                None => write!(f, "%{}", link.ifindex),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, link: Option<Link>) -> Address {
        Address::new(text.parse().expect("an address"), link)
    }

    #[test]
    fn only_a_link_local_address_has_a_zone() {
        let other = Link::new(1, 7);
        assert_eq!(address("fe80::2", other).to_string(), "fe80::2%7");
        assert_eq!(address("fe80::2", other).with_port(80), "[fe80::2%7]:80");
        assert_eq!(address("fe80::2", Link::new(1, 0)).to_string(), "fe80::2");
        assert_eq!(address("2001:db8::2", other).to_string(), "2001:db8::2");
        assert_eq!(address("10.0.0.1", other).with_port(80), "10.0.0.1:80");
    }

    #[test]
    fn a_link_of_this_namespace_has_a_name() {
        let lo = index("lo").expect("every namespace has it");
        assert_eq!(index(&lo.to_string()), Ok(lo));
        let here = address("fe80::2", Link::new(own_netns(), lo));
        assert_eq!(here.to_string(), "fe80::2%lo");
        for wrong in ["no-such-link", "0", "-1", "", "a,b"] {
            assert!(index(wrong).is_err(), "{wrong}");
        }
    }
}
