// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client of `tcptools metrics` sends.

use crate::commands::tcptools::metrics::http::{Asked, read};

/// A request, as far as it has come. What is answered before its end stays the answer.
pub fn http(bytes: &[u8]) {
    let whole = read(bytes).asked;
    for end in 0..bytes.len().min(256) {
        let asked = read(&bytes[..end]).asked;
        let settled = !matches!(asked, Asked::More);
        assert!(!settled || bytes.len() > 8192 || asked == whole, "{end}");
    }
}
