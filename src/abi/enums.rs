// SPDX-License-Identifier: MIT OR Apache-2.0
//! The enums of the kernel half: a number is written once, in C (`EXPORT_ENUM` of `src/bpf/common/filter.bpf.h`).

use crate::abi::skeleton::types as exported;

/// Constants of the type that records hold a C enum in: `enumerators! { bpf::types::kind as u8: SYN = KIND_SYN, ... }`.
#[macro_export]
macro_rules! enumerators {
    ($enum:ty as $int:ty: $($(#[$meta:meta])* $vis:vis $name:ident = $c:ident),* $(,)?) => {
        $($(#[$meta])* $vis const $name: $int = {
            let number = <$enum>::$c.0;
            assert!(number <= <$int>::MAX as u32);
            number as $int
        };)*
    };
}

/// A table by the numbers of a C enum: `by_number! { bpf::types::kind: KIND_SYN => "syn", ... }`. It does not compile with
/// a gap.
#[macro_export]
macro_rules! by_number {
    ($enum:ty: $($c:ident => $value:expr),* $(,)?) => {{
        let entries = [$((<$enum>::$c.0 as usize, $value)),*];
        let mut table = [entries[0].1; { [$(<$enum>::$c),*].len() }];
        let mut seen = 0u64;
        let mut at = 0;
        while at < entries.len() {
            table[entries[at].0] = entries[at].1;
            seen |= 1 << entries[at].0;
            at += 1;
        }
        assert!(seen.count_ones() as usize == entries.len());
        table
    }};
}

/// Which tracepoint a record is of (`trace_event.kind` of `src/bpf/common/fallback/fallback.bpf.h`).
#[allow(missing_docs)]
pub mod trace_kind {
    enumerators! { super::exported::trace_kind as u32:
        pub STATE = TRACE_STATE,
        pub RETRANSMIT = TRACE_RETRANSMIT,
        pub SYNACK = TRACE_SYNACK,
        pub SEND_RESET = TRACE_SEND_RESET,
        pub RECEIVE_RESET = TRACE_RECEIVE_RESET,
        pub DESTROY = TRACE_DESTROY,
        pub READ = TRACE_READ,
        pub PROBE = TRACE_PROBE,
        pub EXCEED_BUF_LIMIT = TRACE_EXCEED_BUF_LIMIT,
        pub RCVQUEUE_FULL = TRACE_RCVQUEUE_FULL,
        pub UDP_FAIL = TRACE_UDP_FAIL,
    }
}

/// `close_event.known` of `src/bpf/common/fallback/fallback.bpf.h`.
#[allow(missing_docs)]
pub mod known {
    enumerators! { super::exported::trace_known as u8:
        pub ERROR = KNOWN_ERROR,
        pub TCP = KNOWN_TCP,
    }
}

/// How the owner of a socket is known (`owner.source` of `src/bpf/common/filter.bpf.h`).
#[allow(missing_docs)]
pub mod pid_source {
    enumerators! { super::exported::pid_source as u8:
        pub UNKNOWN = PID_UNKNOWN,
        pub SOCKET = PID_SOCKET,
        pub LISTENER = PID_LISTENER,
        pub SCAN = PID_SCAN,
    }
}

/// The names of [`pid_source`] in JSON.
pub const PID_SOURCES: [Option<&str>; 4] = by_number! { exported::pid_source:
    PID_UNKNOWN => None,
    PID_SOCKET => Some("socket"),
    PID_LISTENER => Some("listener"),
    PID_SCAN => Some("scan"),
};
