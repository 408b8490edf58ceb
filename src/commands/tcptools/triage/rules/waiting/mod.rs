// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are open and do not move.

pub mod close_wait_leak;
