// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules: each a file with its kind, what it remembers of the rows, and when that is a finding.
//!
//! A new rule is one file, and one line in [`RULES`].

mod buffers;
mod endings;
mod listeners;
mod listening;
mod looks;
mod opening;
mod path;
mod server;
#[cfg(test)]
mod testing;
mod waiting;

use super::finding::Finding;
use super::kind::{Kind, Limits};
use crate::commands::tcptools::feed::Row;

/// What remembers rows, and finds something in them.
///
/// It sees every row of every command, in order, and keeps sums: memory must not grow with the number of rows.
pub trait Rule {
    fn see(&mut self, row: &Row, limits: &Limits);

    /// `seconds`: how long was looked.
    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding>;
}

/// A line of the table.
pub struct Entry {
    pub kind: &'static Kind,
    pub make: fn() -> Box<dyn Rule>,
}

/// `rule!(module::Type)`: its kind is `module::KIND`.
macro_rules! rule {
    ($room:ident::$module:ident::$state:ident) => {
        Entry {
            kind: &$room::$module::KIND,
            make: || Box::new($room::$module::$state::default()),
        }
    };
}

/// Causes before effects: among findings of one severity, that of the first line comes first.
pub const RULES: &[Entry] = &[
    // Listeners.
    rule!(listeners::listener_not_accepting::ListenerNotAccepting),
    rule!(listeners::listener_overflow::ListenerOverflow),
    rule!(listeners::syn_flood::SynFlood),
    rule!(listeners::reuseport_imbalance::ReuseportImbalance),
    // Opening connections.
    rule!(opening::no_ports::NoPorts),
    rule!(opening::connect_unreachable::ConnectUnreachable),
    rule!(opening::connect_refused::ConnectRefused),
    rule!(opening::connect_timeout::ConnectTimeout),
    rule!(opening::slow_handshake::SlowHandshake),
    rule!(opening::connection_churn::ConnectionChurn),
    // The path.
    rule!(path::mtu_black_hole::MtuBlackHole),
    rule!(path::bufferbloat::Bufferbloat),
    rule!(path::path_loss::PathLoss),
    rule!(path::rwnd_limited::RwndLimited),
    // Buffers and memory.
    rule!(buffers::memory_pressure::MemoryPressure),
    rule!(buffers::udp_overflow::UdpOverflow),
    rule!(buffers::receive_buffer_pruned::ReceiveBufferPruned),
    rule!(buffers::dropped_here::DroppedHere),
    rule!(buffers::qdisc_drops::QdiscDrops),
    rule!(buffers::forward_drops::ForwardDrops),
    // Waiting connections.
    rule!(waiting::close_wait_leak::CloseWaitLeak),
    rule!(waiting::no_answer::NoAnswer),
    rule!(waiting::reader_stalled::ReaderStalled),
    rule!(waiting::peer_window_zero::PeerWindowZero),
    rule!(waiting::nagle_delay::NagleDelay),
    rule!(waiting::slow_server::SlowServer),
    rule!(waiting::idle_restart::IdleRestart),
    // Endings.
    rule!(endings::nat_broken::NatBroken),
    rule!(endings::reset_idle_race::ResetIdleRace),
    rule!(endings::reset_unread_data::ResetUnreadData),
    rule!(endings::reset_storm::ResetStorm),
];

/// Where it stands in the table.
pub fn place(kind: &Kind) -> usize {
    RULES
        .iter()
        .position(|rule| rule.kind == kind)
        .unwrap_or(RULES.len())
}
