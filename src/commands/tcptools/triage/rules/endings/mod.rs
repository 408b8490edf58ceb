// SPDX-License-Identifier: MIT OR Apache-2.0
//! How connections end.

mod ends;
pub mod nat_broken;
pub mod reset_idle_race;
pub mod reset_storm;
pub mod reset_unread_data;
