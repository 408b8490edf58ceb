// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers, memory, and what this host drops.
