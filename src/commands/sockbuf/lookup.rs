// SPDX-License-Identifier: MIT OR Apache-2.0
//! The owners of sockets that were opened after the start.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::abi::types::{Record, decode_all, head};
use crate::kernel::iter;
use crate::session::Interval;
use libbpf_rs::Link;

use super::bpf::types::overflow;

/// How often the files of all processes are visited for owners, at most.
const LOOKUP_EVERY: Duration = Duration::from_secs(1);

/// Maximum number of sockets without an owner that are remembered.
const MAX_VAIN: usize = 1 << 16;

/// After this time the owner of a socket without one is looked up again.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Finds the owners of sockets opened after the start, by running the scan again.
pub(super) struct Lookup {
    link: Link,
    every: Interval,
    /// Keys of sockets without an owner: the kernel's own, or closed since.
    vain: HashSet<u64>,
    /// The owners found, by key. A socket answers once, also for records that are still in the buffer.
    found: HashMap<u64, head>,
    forget: Interval,
}

impl Lookup {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            every: Interval::at_once(LOOKUP_EVERY),
            vain: HashSet::new(),
            found: HashMap::new(),
            forget: Interval::new(Some(FORGET_AFTER)),
        }
    }

    /// Whether it may run again.
    pub(super) fn has_rested(&self) -> bool {
        self.every.has_passed()
    }

    /// When it may run again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    /// Runs the scan, and completes the records that it helps.
    pub(super) fn complete<'r>(&mut self, records: impl Iterator<Item = &'r mut overflow>) {
        self.run();
        for body in records.filter(|body| body.head().pid_source().is_none()) {
            match self.answer(body) {
                Some(answer) => adopt(body, answer),
                None => self.in_vain(body.key),
            }
        }
    }

    fn run(&mut self) {
        self.every.restart();
        let bytes = iter::scan(&self.link).unwrap_or_else(|error| {
            crate::message!("sockbuf: cannot find the owners of new sockets: {error:#}");
            Vec::new()
        });
        let heads = decode_all::<head>(&bytes);
        self.found.extend(heads.map(|head| (head.cookie, head)));
    }

    /// Completes a record whose socket's owner was found after the record was made. Returns whether another scan may help.
    pub(super) fn try_complete(&self, body: &mut overflow) -> bool {
        if self.helps(body)
            && let Some(answer) = self.answer(body)
        {
            adopt(body, answer);
        }
        self.helps(body)
    }

    fn answer(&self, body: &overflow) -> Option<&head> {
        let answer = self.found.get(&body.key)?;
        (body.head.boot_ns < answer.boot_ns).then_some(answer)
    }

    /// No owner. If there are very many, some are looked up again sooner.
    fn in_vain(&mut self, key: u64) {
        if self.vain.len() >= MAX_VAIN {
            self.vain.clear();
        }
        self.vain.insert(key);
    }

    /// From time to time: forgets what is old.
    pub(super) fn refresh(&mut self) {
        if !self.forget.is_due() {
            return;
        }
        self.vain.clear();
        let newest = self.found.values().map(|head| head.boot_ns).max();
        let oldest = newest
            .unwrap_or(0)
            .saturating_sub(FORGET_AFTER.as_nanos() as u64);
        self.found.retain(|_, head| head.boot_ns >= oldest);
    }

    /// Whether the owner is unknown, and a scan may find it.
    pub(super) fn helps(&self, body: &overflow) -> bool {
        body.head().pid_source().is_none() && body.key != 0 && !self.vain.contains(&body.key)
    }
}

/// Completes a row with the owner found, and applies the filters to it.
fn adopt(body: &mut overflow, answer: &head) {
    body.head.owner.pid = answer.owner.pid;
    body.head.owner.comm = answer.owner.comm;
    body.head.owner.source = answer.owner.source;
    body.filter_deferred = u8::from(answer.event == 0);
}
