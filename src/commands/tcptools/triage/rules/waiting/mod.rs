// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are open and do not move.

pub mod close_wait_leak;
pub mod idle_restart;
pub mod nagle_delay;
pub mod no_answer;
pub mod peer_window_zero;
pub mod reader_stalled;
pub mod slow_server;
