// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel half and this half share: records, flows, TCP's states and enums, the skeletons.

pub mod app_bytes;
pub mod enums;
pub mod flow;
pub mod known;
pub mod names;
#[cfg(test)]
pub(crate) mod noise;
pub mod packed;
pub mod skeleton;
pub mod types;
