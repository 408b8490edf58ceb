// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types that a command's programs read, out of the kernel's: what libbpf relocates the programs by.
//!
//! It compares each type of the programs with every type of its target, so that a small target saves a third of the
//! time of a start. A type that the target lacks is not looked for in the kernel's modules, whose types it would
//! load for that: nothing that the programs read is a module's.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use libbpf_rs::{AsRawLibbpf, ObjectBuilder, OpenObject, libbpf_sys};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::types::{Kind, Type, Types};

/// A file in memory, for [`ObjectBuilder::btf_custom_path`]: named when an object is opened, filled when its types are
/// known, read when it is loaded, until when this must live.
pub(crate) struct Subset(File);

impl Subset {
    /// Makes the builder's object take its target from here. `None`, and the object takes all of the kernel's types,
    /// where the kernel has none that can be read, or /proc does not show descriptors.
    pub(crate) fn new(builder: &mut ObjectBuilder) -> Option<Self> {
        super::kernel()?;
        let file = File::from(memfd_create(c"tcptools-types", MFdFlags::MFD_CLOEXEC).ok()?);
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        path.exists().then_some(())?;
        builder.btf_custom_path(path).ok()?;
        Some(Self(file))
    }

    /// Writes the types that this object reads.
    ///
    /// # Errors
    /// When memory is short.
    pub(crate) fn fill(&mut self, object: &OpenObject) -> Result<()> {
        let kernel = super::kernel().context("no types")?;
        let own = own_types(object).context("no types in the programs")?;
        self.0.write_all(&extract(&kernel, &Names::of(&own)))?;
        Ok(())
    }
}

/// The types of the programs themselves.
fn own_types(object: &OpenObject) -> Option<Types<&[u8]>> {
    let mut size = 0;
    // SAFETY: the object has these types as long as it lives, and only loading changes them.
    let bytes = unsafe {
        let btf = libbpf_sys::bpf_object__btf(object.as_libbpf_object().as_ptr());
        let data = libbpf_sys::btf__raw_data(btf.as_ref()?, &raw mut size);
        std::slice::from_raw_parts(data.cast::<u8>().as_ref()?, size as usize)
    };
    Types::new(bytes)
}

/// Names of types and of their members, as programs use them.
#[derive(Default)]
struct Names<'o> {
    types: Set<'o>,
    members: HashSet<&'o [u8]>,
}

/// Names, and which beginnings they have: most of the kernel's 30,000 are told apart by that.
struct Set<'o> {
    names: HashSet<&'o [u8]>,
    beginnings: Vec<bool>,
}

impl Default for Set<'_> {
    fn default() -> Self {
        Self {
            names: HashSet::new(),
            beginnings: vec![false; 1 << 16],
        }
    }
}

/// A number below 2^16 for how a name begins; `text` may go on behind the name's end, a 0.
fn beginning(text: &[u8]) -> usize {
    let letters = text.iter().take(5).take_while(|&&byte| byte != 0);
    let all = letters.fold(0u64, |all, &byte| all << 8 | u64::from(byte));
    usize::try_from(all.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48).unwrap_or(0)
}

impl<'o> Set<'o> {
    fn insert(&mut self, name: &'o [u8]) {
        self.names.insert(name);
        if let Some(there) = self.beginnings.get_mut(beginning(name)) {
            *there = true;
        }
    }

    /// Whether the name at the beginning of `text` is one of them.
    fn has(&self, types: &Types, at: u32) -> bool {
        let there = self.beginnings.get(beginning(types.text(at)));
        there == Some(&true) && self.names.contains(types.name(at))
    }
}

impl<'o> Names<'o> {
    fn of(own: &'o Types<&[u8]>) -> Self {
        let mut names = Self::default();
        for t in own.iter() {
            let name = own.name(t.name);
            if !name.is_empty() && t.kind.is_named() {
                names.types.insert(essential(name));
            }
            let members = members(t).map(|[name, ..]| own.name(name));
            for name in members.filter(|name| !name.is_empty()) {
                names.members.insert(name);
                names.members.insert(essential(name));
            }
        }
        names
    }
}

/// The members of a struct or union: name, type and offset.
fn members(t: Type<'_>) -> impl Iterator<Item = [u32; 3]> + '_ {
    let has = matches!(t.kind, Kind::Struct | Kind::Union);
    t.tail().filter(move |_| has)
}

/// A name without what tells apart several descriptions of one type: `sock` of `sock___old`
/// (libbpf: bpf_core_essential_name_len).
fn essential(name: &[u8]) -> &[u8] {
    let separates =
        |at: &[u8]| matches!(at, [a, b'_', b'_', b'_', b, ..] if *a != b'_' && *b != b'_');
    let mut at = (0..name.len()).rev();
    let last = at.find(|&at| name.get(at..).is_some_and(separates));
    let end = last.and_then(|at| at.checked_add(1));
    end.and_then(|end| name.get(..end)).unwrap_or(name)
}

/// A file of the kernel's types with these names, and of what lies in them.
fn extract(kernel: &Types, names: &Names<'_>) -> Vec<u8> {
    let mut made = Extract {
        kernel,
        names,
        numbers: HashMap::new(),
        count: 0,
        types: Vec::new(),
        texts: vec![0],
    };
    for &(name, number) in kernel.named() {
        if names.types.has(kernel, name) {
            // What a function's pointer takes is compared only for a type that is asked for itself.
            let follow = kernel.get(number).is_some_and(|t| t.kind == Kind::Typedef);
            made.copy(number, follow, 0);
        }
    }
    made.file()
}

/// What a program that uses every name in these types would be given of them.
#[cfg(any(test, fuzzing))]
pub(crate) fn whole(bytes: &[u8]) -> Option<Vec<u8>> {
    let own = Types::new(bytes)?;
    let kernel = Types::new(super::Bytes::Copied(bytes.to_vec()))?;
    Some(extract(&kernel, &Names::of(&own)))
}

/// Types under construction.
struct Extract<'k, 'n> {
    kernel: &'k Types,
    names: &'k Names<'n>,
    /// The new number of each of the kernel's, with pointers followed or not.
    numbers: HashMap<(u32, bool), u32>,
    count: u32,
    types: Vec<u8>,
    texts: Vec<u8>,
}

impl Extract<'_, '_> {
    /// Copies a type and those in it, and returns its new number. What a pointer points to is left out, unless
    /// `follow`. `depth` ends what damaged types could make endless.
    fn copy(&mut self, number: u32, follow: bool, depth: u8) -> u32 {
        if let Some(&made) = self.numbers.get(&(number, follow)) {
            return made;
        }
        let Some(t) = self.kernel.get(number).filter(|_| depth < 32) else {
            return 0;
        };
        let depth = depth.saturating_add(1);
        let mut tail: Vec<u32> = Vec::new();
        let mut of = t.of;
        let mut elements = t.info & 0xffff;
        match t.kind {
            Kind::Ptr if !follow => of = 0,
            Kind::Ptr
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::TypeTag => of = self.copy(t.of, follow, depth),
            Kind::Int => tail.extend(t.tail::<1>().flatten()),
            Kind::Fwd | Kind::Float => {}
            Kind::Array => {
                let array = t.tail::<3>().next().unwrap_or_default();
                let [element, index, count] = array;
                let element = self.copy(element, follow, depth);
                tail = vec![element, self.copy(index, false, depth), count];
            }
            Kind::Struct | Kind::Union => (tail, elements) = self.members(t, depth),
            Kind::Enum => {
                for [name, value] in t.tail() {
                    tail.extend([self.text(name), value]);
                }
            }
            Kind::Enum64 => {
                for [name, low, high] in t.tail() {
                    tail.extend([self.text(name), low, high]);
                }
            }
            Kind::FuncProto => {
                of = self.copy(t.of, follow, depth);
                for [_, kind] in t.tail() {
                    tail.extend([0, self.copy(kind, follow, depth)]);
                }
            }
            Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag => return 0,
        }
        let name = self.text(t.name);
        let info = t.info & !0xffff | elements;
        let words = [name, info, of].into_iter().chain(tail);
        self.types.extend(words.flat_map(u32::to_ne_bytes));
        self.count = self.count.saturating_add(1);
        self.numbers.insert((number, follow), self.count);
        self.count
    }

    /// The members whose names programs use, and those without a name, which may have such members; and how many.
    fn members(&mut self, t: Type<'_>, depth: u8) -> (Vec<u32>, u32) {
        let (mut tail, mut count) = (Vec::new(), 0u32);
        for [at, kind, offset] in members(t) {
            let name = self.kernel.name(at);
            if name.is_empty() || self.names.members.contains(name) {
                tail.extend([self.text(at), self.copy(kind, false, depth), offset]);
                count = count.saturating_add(1);
            }
        }
        (tail, count)
    }

    /// The position of a copy of this name.
    fn text(&mut self, at: u32) -> u32 {
        let name = self.kernel.name(at);
        if name.is_empty() {
            return 0;
        }
        let start = u32::try_from(self.texts.len()).unwrap_or(0);
        self.texts.extend_from_slice(name);
        self.texts.push(0);
        start
    }

    /// `struct btf_header`, types, names.
    fn file(self) -> Vec<u8> {
        const MAGIC: u32 = 0xeb9f;
        /// In a word with the magic number.
        const VERSION: u32 = if cfg!(target_endian = "little") {
            1 << 16
        } else {
            1 << 8
        };
        const MAGIC_SHIFT: u32 = if cfg!(target_endian = "little") {
            0
        } else {
            16
        };
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0);
        let (types, texts) = (size(&self.types), size(&self.texts));
        let header = [MAGIC << MAGIC_SHIFT | VERSION, 24, 0, types, types, texts];
        let header = header.into_iter().flat_map(u32::to_ne_bytes);
        header.chain(self.types).chain(self.texts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::btf;

    #[test]
    fn flavors_have_one_essential_name() {
        for (name, is) in [
            ("sock", "sock"),
            ("sock___old", "sock"),
            ("a___b___c", "a___b"),
            ("sock___", "sock___"),
            ("____old", "____old"),
            ("sock____old", "sock____old"),
            ("", ""),
        ] {
            assert_eq!(essential(name.as_bytes()), is.as_bytes(), "{name}");
        }
    }

    #[test]
    fn set_compares_whole_names() {
        let Some(kernel) = btf::kernel() else { return };
        let mut set = Set::default();
        set.insert(b"tcp_sock");
        let (_, tcp_sock) = kernel.find(Kind::Struct, "tcp_sock").unwrap();
        assert!(set.has(&kernel, tcp_sock.name));
        let (_, other) = kernel.find(Kind::Struct, "tcp_sock_af_ops").unwrap();
        assert!(!set.has(&kernel, other.name));
    }

    #[test]
    fn members_lie_where_they_do_in_the_kernel() {
        let Some(kernel) = btf::kernel() else { return };
        let mut names = Names::default();
        names.types.insert(b"inet_sock");
        for member in ["inet_sport", "sk", "__sk_common", "skc_family"] {
            names.members.insert(member.as_bytes());
        }
        let bytes = extract(&kernel, &names);
        let part = Types::new(bytes.as_slice()).unwrap();
        let both = ["inet_sock", "sock", "sock_common"].map(|name| {
            let (_, whole) = kernel.find(Kind::Struct, name).unwrap();
            let (_, copy) = part.find(Kind::Struct, name).unwrap();
            assert_eq!(copy.of, whole.of, "size of {name}");
            let all: Vec<_> = members(whole)
                .map(|[at, _, offset]| (kernel.name(at), offset))
                .collect();
            for [at, _, offset] in members(copy) {
                assert!(all.contains(&(part.name(at), offset)), "{name}");
            }
            (members(copy).count(), all.len())
        });
        assert!(both.iter().all(|(copied, all)| *copied > 0 && copied < all));
        assert!(part.find(Kind::Struct, "tcp_sock").is_none());
    }
}
