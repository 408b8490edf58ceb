// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the way between the hosts does.

pub mod bufferbloat;
pub mod mtu_black_hole;
pub mod path_loss;
pub mod rwnd_limited;
mod streaks;
