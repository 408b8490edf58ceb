// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that do not take their connections.

pub mod listener_overflow;
