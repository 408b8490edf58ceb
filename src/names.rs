// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of kernel values: from the running kernel's BTF, because numbers move between releases.

use std::collections::HashMap;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Enum;

use crate::tracepoints::{tracefs_events, tracefs_symbols};

/// `enum tcp_ca_state` (include/uapi/linux/tcp.h), those that tell of a reduced window.
#[allow(missing_docs)] // the names say it
pub mod ca_state {
    pub const CWR: u8 = 2;
    pub const RECOVERY: u8 = 3;
    pub const LOSS: u8 = 4;
}

/// TCP states, as `include/net/tcp_states.h` numbers them.
#[allow(missing_docs)] // the names say it
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;
}

/// TCP states by their numbers in `include/net/tcp_states.h`: ABI, so a table is right.
pub const TCP_STATES: [&str; 14] = [
    "UNKNOWN",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
    "BOUND_INACTIVE",
];

/// The name of a TCP state; `UNKNOWN` for a number that no kernel uses yet.
pub fn tcp_state(state: u8) -> &'static str {
    TCP_STATES.get(state as usize).unwrap_or(&TCP_STATES[0])
}

/// The name of an error that a connection may end with; `None` for 0 and for what none does.
pub fn errno(number: u8) -> Option<&'static str> {
    // include/uapi/asm-generic/errno*.h; those of net/ipv4/icmp.c: icmp_err_convert, net/ipv6/icmp.c: tab_unreach.
    Some(match number {
        13 => "EACCES",
        32 => "EPIPE",
        64 => "ENONET",
        71 => "EPROTO",
        90 => "EMSGSIZE",
        92 => "ENOPROTOOPT",
        95 => "EOPNOTSUPP",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        _ => return None,
    })
}

/// The enumerators of one kernel enum.
#[derive(Debug, Default)]
pub struct Names(HashMap<i64, String>);

impl Names {
    /// Reads `enum <name>` from the kernel's BTF, and takes `prefix` off every enumerator.
    ///
    /// Empty when the kernel has no such enum (or no BTF): then [`Names::get`] knows nothing and numbers are shown.
    pub fn from_kernel(name: &str, prefix: &str) -> Self {
        let Ok(btf) = Btf::from_vmlinux() else {
            return Self::default();
        };
        let Some(kernel_enum) = btf.type_by_name::<Enum<'_>>(name) else {
            return Self::default();
        };
        let named = kernel_enum.iter().filter_map(|m| {
            let name = m.name?.to_str()?;
            Some((m.value, name.strip_prefix(prefix)?.to_owned()))
        });
        Self(named.collect())
    }

    /// Reads the names that the record of a tracepoint has for a field, from tracefs: where there is no BTF.
    ///
    /// Empty when tracefs cannot be read, or the kernel has no such field.
    pub fn from_record(category: &str, event: &str, field: &str) -> Self {
        let Ok(events) = tracefs_events() else {
            return Self::default();
        };
        Self(
            tracefs_symbols(&events, category, event, field)
                .into_iter()
                .collect(),
        )
    }

    /// The name of a value, if the kernel has one for it.
    pub fn get(&self, value: i64) -> Option<&str> {
        self.0.get(&value).map(String::as_str)
    }

    /// Every name, in the order of the values.
    pub fn all(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(value, _)| **value);
        all.into_iter().map(|(_, name)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_those_of_the_header() {
        assert_eq!(tcp_state(1), "ESTABLISHED");
        assert_eq!(tcp_state(12), "NEW_SYN_RECV");
        assert_eq!(tcp_state(200), "UNKNOWN");
    }

    #[test]
    fn an_enum_that_no_kernel_has_is_empty() {
        assert!(Names::from_kernel("no_such_enum", "").0.is_empty());
    }
}
