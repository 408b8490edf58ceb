// SPDX-License-Identifier: MIT OR Apache-2.0
//! A look at the sockets that are there: it makes the kernel half count them and what they have carried, and hands over the
//! listeners.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use libbpf_rs::ProgramMut;

use super::bpf::types::listener_now;
use super::labels::{OTHER, Writer};
use super::model::{Is, Page};
use super::text::label;
use crate::abi::types::Record;
use crate::aggregate::group::Group;
use crate::kernel::holders::SocketIterator;
use crate::kernel::iter;
use crate::output::message;

crate::record!(listener_now, super::bpf::types::head);

/// Listeners that are told apart; a host with more has them as one.
const MOST: usize = 4096;

/// What a listener has dropped that is remembered: since the run began, or since it was made.
struct Drops {
    before: u32,
    look: u64,
}

/// Sums of the listeners of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Queues {
    accept_queue: u64,
    accept_queue_max: u64,
    syn_queue: u64,
    /// Since the run began.
    drops: u64,
    /// Whether a listener is there.
    now: bool,
    /// When one was last.
    since: Option<Instant>,
}

/// Looks, again and again.
pub(super) struct Look {
    sockets: SocketIterator,
    /// By its cookie.
    drops: HashMap<u64, Drops>,
    /// By its labels.
    listeners: HashMap<String, Queues>,
    looks: u64,
    expire: Duration,
    /// How long the last one took.
    pub(super) took: Duration,
}

impl Look {
    /// With privileges, as it starts a process that keeps some.
    ///
    /// # Errors
    /// When the kernel has no such iterator (before 5.9).
    pub(super) fn new(program: &ProgramMut<'_>, expire: Duration) -> Result<Self> {
        let link = iter::attach(program, None)?;
        let report = |n| message::unvisited("tcptools", "open sockets", n);
        Ok(Self {
            sockets: SocketIterator::by_namespace(&link, report)?,
            drops: HashMap::new(),
            listeners: HashMap::new(),
            looks: 0,
            expire,
            took: Duration::ZERO,
        })
    }

    /// See [`SocketIterator::unvisited`].
    pub(super) fn unvisited(&self) -> u64 {
        self.sockets.unvisited()
    }

    /// Looks. Sums of listeners that are gone stay.
    ///
    /// # Errors
    /// When the iterator cannot be read.
    pub(super) fn run(&mut self, labels: &Writer) -> Result<()> {
        let begun = Instant::now();
        self.looks += 1;
        for queues in self.listeners.values_mut() {
            *queues = Queues {
                drops: queues.drops,
                since: queues.since,
                ..Queues::default()
            };
        }
        let (looks, drops, listeners) = (self.looks, &mut self.drops, &mut self.listeners);
        let mut now = listener_now::default();
        let visited = self.sockets.each(size_of::<listener_now>(), |bytes| {
            if plain::copy_from_bytes(&mut now, bytes).is_ok() {
                see(&now, labels, looks, drops, listeners);
            }
        });
        drops.retain(|_, seen| seen.look == looks);
        self.expire(begun, &other(labels));
        self.took = begun.elapsed();
        visited
    }

    /// Adds what listeners have dropped that have gone for long to those of the label `other`.
    fn expire(&mut self, now: Instant, other: &str) {
        let mut gone = 0;
        self.listeners.retain(|labels, queues| {
            if queues.now {
                queues.since = Some(now);
            }
            let since = queues.since.unwrap_or(now);
            let stays = labels == other || now.duration_since(since) < self.expire;
            gone += if stays { 0 } else { queues.drops };
            stays
        });
        if gone > 0 {
            self.listeners.entry(other.to_owned()).or_default().drops += gone;
        }
    }

    /// Writes the listeners.
    pub(super) fn write(&self, page: &mut Page) {
        for (labels, queues) in &self.listeners {
            let mut put = |is, n| page.add(is, labels.clone(), n);
            if queues.now {
                put(Is::AcceptQueue, queues.accept_queue);
                put(Is::AcceptQueueMax, queues.accept_queue_max);
                put(Is::SynQueue, queues.syn_queue);
            }
            put(Is::ListenerDrops, queues.drops);
        }
    }
}

fn see(
    now: &listener_now,
    writer: &Writer,
    look: u64,
    drops: &mut HashMap<u64, Drops>,
    listeners: &mut HashMap<String, Queues>,
) {
    // What a listener has dropped before the run is not the run's.
    let first = if look == 1 { now.drops } else { 0 };
    let seen = drops.entry(now.head.cookie).or_insert(Drops {
        before: first,
        look,
    });
    let grown = now.drops.wrapping_sub(seen.before);
    *seen = Drops {
        before: now.drops,
        look,
    };
    let mut labels = labels_of(now, writer);
    if listeners.len() >= MOST && !listeners.contains_key(&labels) {
        labels = other(writer);
    }
    let queues = listeners.entry(labels).or_default();
    queues.accept_queue += u64::from(now.accept_queue);
    queues.accept_queue_max += u64::from(now.accept_queue_max);
    queues.syn_queue += u64::from(now.syn_queue);
    queues.drops += u64::from(grown);
    queues.now = true;
}

/// Its address and namespace, before the user's labels, of which it may be one.
fn labels_of(now: &listener_now, writer: &Writer) -> String {
    let head = now.head();
    // SAFETY: integers only, with explicit padding, so all its bytes have values.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            (&raw const now.labels).cast::<u8>(),
            size_of_val(&now.labels),
        )
    };
    let users = Group::from_bytes(bytes).map(|group| writer.write(&group));
    let users = users.unwrap_or_default();
    let mut labels = String::new();
    let mut address = Vec::new();
    head.local().write(&mut address);
    let own = [
        ("laddr", String::from_utf8_lossy(&address).into_owned()),
        ("lport", head.flow.lport.to_string()),
        ("netns", head.netns.to_string()),
    ];
    for (name, value) in own {
        if !writer.has(name) {
            label(&mut labels, name, &value);
        }
    }
    join(labels, &users)
}

fn other(writer: &Writer) -> String {
    let mut labels = String::new();
    for name in ["laddr", "lport", "netns"] {
        if !writer.has(name) {
            label(&mut labels, name, OTHER);
        }
    }
    join(labels, &writer.other())
}

/// Labels behind others.
pub(super) fn join(mut labels: String, more: &str) -> String {
    if !labels.is_empty() && !more.is_empty() {
        labels.push(',');
    }
    labels.push_str(more);
    labels
}
