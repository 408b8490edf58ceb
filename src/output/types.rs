// SPDX-License-Identifier: MIT OR Apache-2.0
//! The type of each key of JSON, which is the same in every command. The golden rows are compared with it.

/// The number of the schema of records: another one if a key goes, or changes its type, its unit or its meaning.
pub const VERSION: u32 = 1;

/// What a value is, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A number of things, a time, an amount: without decimals.
    Integer,
    /// With decimals.
    Number,
    /// Text.
    String,
    /// `true` or `false`.
    Boolean,
    /// Text each.
    Strings,
    /// Ranges of a histogram: `[{"lo_us": 8, "hi_us": 15, "count": 3}]`, with the measure's unit in the names.
    Buckets,
}

const NUMBERS: &[&str] = &[
    "accepts_per_s",
    "drops_per_s",
    "elapsed_s",
    "limited_percent",
    "not_open_percent",
    "percent",
    "retrans_percent",
];

const BOOLEANS: &[&str] = &[
    "active_open",
    "after_shutdown",
    "by_timer",
    "closed",
    "count_at_least",
    "counted",
    "delivery_rate_app_limited",
    "dropped_here",
    "in_state_at_least",
    "keepalive",
    "measured",
    "nodelay",
    "oldest_at_least",
    "orphan",
    "partial",
    "pipelined",
    "rcvbuf_locked",
    "syn_sent",
    "why_at_least",
];

const STRINGS: &[&str] = &[
    "boot_id",
    "by",
    "ca_name",
    "ca_state",
    "cause",
    "cgroup",
    "close_reason",
    "comm",
    "container",
    "container_name",
    "count_unit",
    "direction",
    "drop_reason",
    "drop_unknown",
    "drop_where",
    "error",
    "event",
    "flags",
    "growth",
    "held_by",
    "hint",
    "host",
    "ifname",
    "kind",
    "laddr",
    "measure",
    "most_comm",
    "mptcp",
    "name",
    "netns_name",
    "new_ca_state",
    "new_state",
    "old_ca_state",
    "old_state",
    "oldest_comm",
    "oldest_laddr",
    "oldest_raddr",
    "options",
    "outcome",
    "peer_comm",
    "peer_laddr",
    "peer_raddr",
    "peer_source",
    "pid_source",
    "pod",
    "proto",
    "raddr",
    "raddr_name",
    "reason",
    "role",
    "runtime",
    "sample",
    "see",
    "skaddr",
    "socket_family",
    "state",
    "tcp_flags",
    "time",
    "timer",
    "tool",
    "trigger_flags",
    "ts",
    "tune",
    "type",
    "unit",
    "verdict",
    "where",
    "why",
];

/// The type of a key; what is in no list is a number without decimals.
pub fn of(key: &str) -> Type {
    let lists = [
        (NUMBERS, Type::Number),
        (BOOLEANS, Type::Boolean),
        (STRINGS, Type::String),
        (&["stack"][..], Type::Strings),
        (&["buckets"], Type::Buckets),
    ];
    let list = lists.iter().find(|(keys, _)| keys.contains(&key));
    list.map_or(Type::Integer, |(_, of)| *of)
}

/// The unit that the end of a number's key names.
pub fn unit(key: &str) -> Option<&'static str> {
    const UNITS: &[(&str, &str)] = &[
        ("_bytes_per_s", "bytes per second"),
        ("_per_s", "1 per second"),
        ("_us", "microseconds"),
        ("_ns", "nanoseconds"),
        ("_s", "seconds"),
        ("_bytes", "bytes"),
        ("_pages", "pages of memory"),
        ("_percent", "percent"),
    ];
    let number = matches!(of(key), Type::Integer | Type::Number);
    let named = UNITS.iter().find(|(end, _)| key.ends_with(end));
    named.filter(|_| number).map(|(_, unit)| *unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_by_keys() {
        let units = [
            ("srtt_us", Some("microseconds")),
            ("boot_ns", Some("nanoseconds")),
            ("pacing_rate_bytes_per_s", Some("bytes per second")),
            ("accepts_per_s", Some("1 per second")),
            ("rx_bytes", Some("bytes")),
            ("retrans_percent", Some("percent")),
            ("bytes_acked", None),
            ("lport", None),
        ];
        for (key, expected) in units {
            assert_eq!(unit(key), expected, "{key}");
        }
    }
}
