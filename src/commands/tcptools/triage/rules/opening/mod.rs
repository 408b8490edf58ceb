// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are not opened, or slowly.

pub mod connect_refused;
