// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers, memory, and what this host drops.

pub mod dropped_here;
mod drops;
pub mod forward_drops;
pub mod memory_pressure;
pub mod qdisc_drops;
pub mod receive_buffer_pruned;
pub mod udp_overflow;
