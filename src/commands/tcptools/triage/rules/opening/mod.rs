// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are not opened, or slowly.

pub mod connect_refused;
pub mod connect_timeout;
pub mod connect_unreachable;
pub mod connection_churn;
mod dropped;
pub mod no_ports;
mod opens;
pub mod slow_handshake;
