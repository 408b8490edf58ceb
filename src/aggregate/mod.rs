// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts, histograms, totals and top lists, all bounded.

pub mod bounded;
pub mod buckets;
pub mod by;
pub mod counts;
mod distribution;
pub mod group;
pub mod hist_keys;
pub mod histograms;
pub mod keys;
pub mod table;
pub mod top;
pub mod totals;
