// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that do not take their connections.

pub mod listener_not_accepting;
pub mod listener_overflow;
mod look;
pub mod reuseport_imbalance;
pub mod syn_flood;
