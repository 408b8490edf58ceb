// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP's states, congestion states and errors: numbers that are ABI, and their names.

use crate::abi::skeleton::types::{tcp_ca_state, tcp_state as c_state};
use crate::by_number;

/// Congestion states (`include/uapi/linux/tcp.h`), those that tell of a reduced window.
#[allow(missing_docs)] // the names say it
pub mod ca_state {
    crate::enumerators! { super::tcp_ca_state as u8:
        pub CWR = TCP_CA_CWR,
        pub RECOVERY = TCP_CA_RECOVERY,
        pub LOSS = TCP_CA_LOSS,
    }
}

/// Congestion states, by their numbers in `include/uapi/linux/tcp.h`: ABI, so a table is right.
pub const CA_STATES: [&str; 5] = by_number! { tcp_ca_state:
    TCP_CA_OPEN => "open",
    TCP_CA_DISORDER => "disorder",
    TCP_CA_CWR => "cwr",
    TCP_CA_RECOVERY => "recovery",
    TCP_CA_LOSS => "loss",
};

/// The name of a congestion state; `None` for a number that no kernel uses yet.
pub fn ca_state_name(state: u8) -> Option<&'static str> {
    CA_STATES.get(usize::from(state)).copied()
}

/// A slow-start threshold that was never set, in segments: `TCP_INFINITE_SSTHRESH` of `include/net/tcp.h`.
pub const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;

/// The TCP states of [`TCP_STATES`], as numbers and as names.
macro_rules! tcp_states {
    ($($name:ident = $c:ident),* $(,)?) => {
        /// TCP states, as `include/net/tcp_states.h` numbers them.
        #[allow(missing_docs)] // the names say it
        pub mod state {
            crate::enumerators! { super::c_state as u8: $(pub $name = $c),* }
        }

        /// TCP states by their numbers in `include/net/tcp_states.h`: ABI, so a table is right.
        pub const TCP_STATES: [&str; 14] = {
            let mut names = ["UNKNOWN"; 14];
            $(names[state::$name as usize] = stringify!($name);)*
            names
        };
    };
}

tcp_states! {
    ESTABLISHED = TCP_ESTABLISHED,
    SYN_SENT = TCP_SYN_SENT,
    SYN_RECV = TCP_SYN_RECV,
    FIN_WAIT1 = TCP_FIN_WAIT1,
    FIN_WAIT2 = TCP_FIN_WAIT2,
    TIME_WAIT = TCP_TIME_WAIT,
    CLOSE = TCP_CLOSE,
    CLOSE_WAIT = TCP_CLOSE_WAIT,
    LAST_ACK = TCP_LAST_ACK,
    LISTEN = TCP_LISTEN,
    CLOSING = TCP_CLOSING,
    NEW_SYN_RECV = TCP_NEW_SYN_RECV,
    BOUND_INACTIVE = TCP_BOUND_INACTIVE,
}

/// The name of a TCP state; `UNKNOWN` for a number that no kernel uses yet.
pub fn tcp_state(state: u8) -> &'static str {
    TCP_STATES.get(state as usize).unwrap_or(&TCP_STATES[0])
}

/// The name of an error that a connection or a segment may end with; `None` for 0 and for what none does.
pub fn errno(number: impl Into<u32>) -> Option<&'static str> {
    // include/uapi/asm-generic/errno*.h; those of net/ipv4/icmp.c: icmp_err_convert, net/ipv6/icmp.c: tab_unreach; of
    // net/ipv4/tcp_output.c: __tcp_retransmit_skb and what it calls.
    Some(match number.into() {
        1 => "EPERM",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        16 => "EBUSY",
        22 => "EINVAL",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_match_header() {
        assert_eq!(tcp_state(1), "ESTABLISHED");
        assert_eq!(tcp_state(12), "NEW_SYN_RECV");
        assert_eq!(tcp_state(200), "UNKNOWN");
    }
}
