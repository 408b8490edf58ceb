// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands that print records: their kinds of rows, and what takes their records.

use crate::commands as all;
use crate::output::Style;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Of a list of commands, at its end those that have no handler of single records.
macro_rules! commands {
    ($($tool:ident),*; $($other:ident),*) => {
        /// Each command.
        pub(crate) const TOOLS: &[&str] = &[$(stringify!($tool),)* $(stringify!($other)),*];

        /// Hands over each kind of rows of a command.
        pub(crate) fn kinds<K: Kinds>(tool: &str, to: K) -> K {
            match tool {
                $(stringify!($tool) => all::$tool::golden::rows(to),)*
                $(stringify!($other) => all::$other::golden::rows(to),)*
                _ => to,
            }
        }

        /// What takes the records of each command.
        pub(crate) const HANDLERS: &[(&str, fn(&Style) -> Handlers)] =
            &[$((stringify!($tool), all::$tool::golden::handlers)),*];
    };
}

commands! {
    sockbuf, tcpaccept, tcpcong, tcpconnect, tcpdrop, tcpinfo, tcplat, tcplife, tcpprobe, tcprcvspace, tcpreset,
    tcpretrans, tcpstates; tcptop
}
