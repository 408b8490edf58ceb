// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the listeners of a summary are, and whose: who has them open when they are shown.

use std::collections::HashMap;

use anyhow::Result;
use tcptools::holders::Holders;
use tcptools::table::Table;
use tcptools::types::{Record, head};

use super::bpf::types::listener_now;

tcptools::record!(listener_now, super::bpf::types::head);

/// What is known of listeners, by their key in the kernel half's tables.
pub struct Listeners {
    heads: Table,
    now: Holders,
}

impl Listeners {
    /// `heads`: as they were at the first open; `now`: the iterator.
    pub fn new(heads: Table, now: Holders) -> Self {
        Self { heads, now }
    }

    /// The head of each listener's row. One that is closed by now keeps the owner that it had.
    ///
    /// # Errors
    /// When the caller may no longer use BPF.
    pub fn heads(&mut self) -> Result<HashMap<Vec<u8>, head>> {
        let mut heads = HashMap::new();
        for (key, value) in self.heads.read()? {
            let mut head = head::default();
            if plain::copy_from_bytes(&mut head, &value).is_ok() {
                heads.insert(key, head);
            }
        }
        for chunk in self.now.run()?.chunks_exact(size_of::<listener_now>()) {
            let mut now = listener_now::default();
            if plain::copy_from_bytes(&mut now, chunk).is_err() {
                continue;
            }
            let key = chunk.get(size_of::<head>()..).unwrap_or_default();
            if let Some(head) = heads.get_mut(key) {
                head.owner = now.head().owner;
            }
        }
        Ok(heads)
    }
}
