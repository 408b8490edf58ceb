// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the way between the hosts does.
