// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a socket is, as rows show it: cgroup, unit, container, pod, and the name of the network namespace.
//!
//! A row copies text that was made once per cgroup. What is remembered is bounded, and each thread's own.

pub mod peer;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::Object;
use nix::time::{ClockId, clock_gettime};

use crate::abi::types::head;
use crate::kernel::cgroups::{self, Resolver, names};
use crate::kernel::namespaces::names::Names;
use crate::output::escape;

/// What is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The path of the cgroup.
    Cgroup,
    /// The systemd unit.
    Unit,
    /// The container's id.
    Container,
    /// The container by its name or by the beginning of its id.
    ContainerShort,
    /// What its user called it.
    ContainerName,
    /// What runs it.
    Runtime,
    /// The UID of its pod.
    Pod,
    /// All of these in one word: the container as in `ContainerShort`, or the unit, or else the innermost cgroup.
    Short,
}

const FIELDS: usize = Field::Short as usize + 1;

/// One value of a row, which is looked up when it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Whose {
    /// Of a socket with this cgroup and this process.
    Socket(u64, Option<u32>, Field),
    /// The name of a network namespace.
    Netns(u32),
}

impl Whose {
    /// What is shown of a record's socket.
    pub fn of(head: &head, field: Field) -> Self {
        Self::Socket(head.cgroup, head.pid(), field)
    }

    /// Hands over the text, [escaped](escape::name), and the same as JSON; `None` if it is not known.
    pub fn with<R>(self, write: impl FnOnce(Option<&Text>) -> R) -> R {
        MEMORY.with_borrow_mut(|memory| match self {
            Self::Socket(cgroup, pid, field) => write(
                memory
                    .socket(cgroup, pid)
                    .get(field as usize)
                    .and_then(Option::as_ref),
            ),
            Self::Netns(inode) => write(memory.netns(inode)),
        })
    }
}

/// Reads what takes root, before it is dropped; rows of this thread then say whose their sockets are.
pub fn open(object: &Object) {
    let resolver = Resolver::new(object);
    let mounted = resolver
        .containers()
        .filter_map(|c| Some((c.netns.clone()?, c.name.clone())));
    let names = Names::new(mounted);
    MEMORY.set(Memory {
        names,
        resolver: Some(resolver),
        ..Memory::default()
    });
}

/// A text that may be shown, in both forms.
pub struct Text {
    /// For tables and CSV.
    pub plain: Box<str>,
    /// With quotes.
    pub json: Box<str>,
}

impl Text {
    fn new(bytes: &[u8]) -> Self {
        let (mut plain, mut json) = (Vec::new(), Vec::new());
        escape::name(&mut plain, bytes);
        let plain = String::from_utf8_lossy(&plain).into_owned();
        escape::json(&mut json, &plain);
        Self {
            json: String::from_utf8_lossy(&json).into_owned().into(),
            plain: plain.into(),
        }
    }
}

type Fields = [Option<Text>; FIELDS];

/// How long an answer is believed that may change: what was not known yet, or what a process said.
const AGAIN: Duration = Duration::from_secs(1);
/// How much longer it is remembered: of a process that has ended, rows may still come.
const KEPT: Duration = Duration::from_secs(10);
/// Cgroups that are remembered; then all are forgotten.
const MAX_CGROUPS: usize = 4096;
/// So many answers are kept without a look at which are old.
const ROOM: usize = 256;

/// The process counts only where it is asked.
type Key = (u64, u32);

struct Known {
    fields: Rc<Fields>,
    until: Option<Duration>,
}

/// Some milliseconds exact, for a fifth of what an exact time costs: it is asked for each column.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

#[derive(Default)]
struct Memory {
    resolver: Option<Resolver>,
    names: Names,
    known: HashMap<Key, Known>,
    /// With so many in it, old ones are forgotten first.
    room: usize,
    /// The last one: the columns of a row ask one after the other.
    last: Option<(Key, Option<Duration>, Rc<Fields>)>,
    /// Names of namespaces, and until when they hold.
    netns: (HashMap<u32, Option<Text>>, Duration),
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Memory {
    fn socket(&mut self, cgroup: u64, pid: Option<u32>) -> &Fields {
        let asks = self
            .resolver
            .as_ref()
            .is_some_and(|r| r.asks_process(cgroup));
        let key = (cgroup, if asks { pid.unwrap_or(0) } else { 0 });
        let valid = |until: Option<Duration>| until.is_none_or(|until| now() < until);
        let is_last = self
            .last
            .as_ref()
            .is_some_and(|(last, until, _)| *last == key && valid(*until));
        if !is_last {
            let known = self.known.get(&key).filter(|known| valid(known.until));
            let (until, fields) = match known {
                Some(known) => (known.until, Rc::clone(&known.fields)),
                None => self.resolve(key, pid),
            };
            self.last = Some((key, until, fields));
        }
        match &self.last {
            Some((_, _, fields)) => fields,
            None => &NOTHING,
        }
    }

    fn resolve(&mut self, key: Key, pid: Option<u32>) -> (Option<Duration>, Rc<Fields>) {
        let whose = self.resolver.as_ref().and_then(|r| r.whose(key.0, pid));
        let again = (key.1 != 0 || whose.is_none()).then(|| now() + AGAIN);
        let fields = match (whose, self.known.get(&key)) {
            (Some(whose), _) => Rc::new(shown(&whose)),
            // Its process has ended.
            (None, Some(before)) => Rc::clone(&before.fields),
            (None, None) => Rc::new(NOTHING),
        };
        self.make_room(now());
        let known = Known {
            fields: Rc::clone(&fields),
            until: again,
        };
        self.known.insert(key, known);
        (again, fields)
    }

    /// Forgets processes that nobody has asked for. What holds for good stays, unless there is too much.
    fn make_room(&mut self, now: Duration) {
        if self.known.len() < self.room {
            return;
        }
        let fresh = |until: Duration| now < until.saturating_add(KEPT);
        self.known.retain(|_, known| known.until.is_none_or(fresh));
        if self.known.len() >= MAX_CGROUPS {
            self.known.clear();
        }
        self.room = self.known.len().saturating_mul(2).clamp(ROOM, MAX_CGROUPS);
    }

    fn netns(&mut self, inode: u32) -> Option<&Text> {
        let (known, until) = &mut self.netns;
        if now() >= *until || known.len() >= MAX_CGROUPS {
            known.clear();
            *until = now() + AGAIN;
            self.names.refresh();
        }
        let name = known.entry(inode);
        let name = name.or_insert_with(|| self.names.name(inode).map(Text::new));
        name.as_ref()
    }
}

const NOTHING: Fields = [const { None }; FIELDS];

/// The beginning of an id that runtimes show and take.
const SHORT_ID: usize = 12;

fn shown(whose: &cgroups::Whose) -> Fields {
    let text = |bytes: Option<&[u8]>| bytes.map(Text::new);
    let id = whose.container.as_deref();
    let short = id.map(|id| match names::is_id(id) {
        true => id.get(..SHORT_ID).unwrap_or(id),
        false => id,
    });
    let name = whose.container_name.as_deref().map(str::as_bytes);
    let innermost = whose.path.rsplit(|&byte| byte == b'/').next();
    let mut fields = NOTHING;
    for (field, value) in [
        (Field::Cgroup, text(Some(&whose.path))),
        (Field::Unit, text(whose.unit.as_deref())),
        (Field::Container, text(id)),
        (Field::ContainerShort, text(name.or(short))),
        (Field::ContainerName, text(name)),
        (Field::Runtime, text(whose.runtime.map(str::as_bytes))),
        (Field::Pod, text(whose.pod.as_deref().map(str::as_bytes))),
        (
            Field::Short,
            text(
                name.or(short)
                    .or(whose.unit.as_deref())
                    .or(innermost)
                    .filter(|text| !text.is_empty()),
            ),
        ),
    ] {
        if let Some(to) = fields.get_mut(field as usize) {
            *to = value;
        }
    }
    fields
}

/// Makes this thread know a cgroup, for tests of rows.
#[cfg(any(test, fuzzing))]
pub(crate) fn remember(cgroup: u64, whose: &cgroups::Whose) {
    let known = Known {
        fields: Rc::new(shown(whose)),
        until: None,
    };
    MEMORY.with_borrow_mut(|memory| memory.known.insert((cgroup, 0), known));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes come and go: those of the last seconds are remembered, and each cgroup that has an answer for good.
    #[test]
    fn old_answers_are_forgotten() {
        let mut memory = Memory::default();
        for second in 0..10_000_u32 {
            let now = Duration::from_secs(second.into());
            memory.make_room(now);
            let mut know = |key, until| {
                let fields = Rc::new(NOTHING);
                memory.known.insert(key, Known { fields, until });
            };
            know((1, second), Some(now + AGAIN));
            know((second.min(99).into(), 0), None);
        }
        let for_good = |known: &&Known| known.until.is_none();
        assert_eq!(memory.known.values().filter(for_good).count(), 100);
        assert!(memory.known.len() <= ROOM, "{}", memory.known.len());
        assert!(memory.known.contains_key(&(1, 9_999)));
    }

    #[test]
    fn everything_is_forgotten_beyond_a_bound() {
        let mut memory = Memory::default();
        for cgroup in 0..100_000 {
            memory.make_room(Duration::ZERO);
            let fields = Rc::new(NOTHING);
            let until = None;
            memory.known.insert((cgroup, 0), Known { fields, until });
            assert!(memory.known.len() <= MAX_CGROUPS);
        }
    }
}
