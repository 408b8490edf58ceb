// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket's two ends, as the kernel half recorded them.

use std::net::{IpAddr, Ipv6Addr};

use crate::abi::types::{PID_SOURCES, flow, head, trim_nul};

/// An address of a record: IPv4 lies there as `::ffff:a.b.c.d`.
fn address(bytes: &[u8; 16], family: u8) -> IpAddr {
    let v6 = Ipv6Addr::from(*bytes);
    match v6.to_ipv4_mapped() {
        Some(v4) if family == 4 => IpAddr::V4(v4),
        _ => IpAddr::V6(v6),
    }
}

impl flow {
    /// The local address; unspecified before the kernel has chosen one.
    pub fn local(&self) -> IpAddr {
        address(&self.laddr, self.family)
    }

    /// The remote address; unspecified for a listener.
    pub fn remote(&self) -> IpAddr {
        address(&self.raddr, self.family)
    }
}

impl flow {
    /// Address and port: the local ones, and the remote ones.
    pub fn ends(&self) -> [([u8; 16], u16); 2] {
        [(self.laddr, self.lport), (self.raddr, self.rport)]
    }
}

impl head {
    /// The owner's process id (thread group id), where it is known.
    pub fn pid(&self) -> Option<u32> {
        self.pid_source()
            .map(|_| self.owner.pid)
            .filter(|&pid| pid != 0)
    }

    /// The owner's name, as `ps -p` shows it, without its padding; any byte but NUL may be in it.
    pub fn comm(&self) -> Option<&[u8]> {
        self.pid_source()?;
        // Where only the records of tracepoints tell, a thread may have acted whose process is gone.
        self.owner.comm[0].ne(&0).then_some(())?;
        Some(trim_nul(&self.owner.comm))
    }

    /// How the owner is known: `socket`, `listener` or `seed`.
    pub fn pid_source(&self) -> Option<&'static str> {
        *PID_SOURCES.get(self.owner.source as usize)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4_in_ipv4_flows() {
        let mapped = "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(address(&mapped, 4).to_string(), "192.0.2.1");
        assert_eq!(address(&mapped, 6).to_string(), "::ffff:192.0.2.1");
        let v6 = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(address(&v6, 6).to_string(), "2001:db8::1");
    }

    #[test]
    fn unknown_owner_has_no_pid_or_name() {
        let mut head = head::default();
        head.owner.pid = 7;
        assert_eq!((head.pid(), head.comm()), (None, None));
        head.owner.source = 2;
        head.owner.comm[..4].copy_from_slice(b"sshd");
        assert_eq!((head.pid(), head.comm()), (Some(7), Some(&b"sshd"[..])));
        assert_eq!(head.pid_source(), Some("listener"));
    }
}
