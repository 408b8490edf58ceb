// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types as they lie in a file of BTF (include/uapi/linux/btf.h).

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::ops::Deref;

use super::Bytes;

/// `enum { BTF_KIND_UNKN, ... }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Kind {
    Int = 1,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    /// In the order of their numbers, from 1.
    const ALL: [Self; 19] = [
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::Datasec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    /// Of this number.
    fn of(info: u32) -> Option<Self> {
        let number = usize::try_from(info >> 24 & 0x1f).ok()?;
        Self::ALL.get(number.checked_sub(1)?).copied()
    }

    /// Whether types of this kind are asked for by name.
    pub(crate) const fn is_named(self) -> bool {
        use Kind::{Enum, Enum64, Struct, Typedef, Union};
        matches!(self, Struct | Union | Typedef | Enum | Enum64)
    }

    /// Words that follow a type: always, and for each of its elements.
    const fn tail(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (1, 0),
            Self::Array => (3, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 3),
            Self::Enum | Self::FuncProto => (0, 2),
            _ => (0, 0),
        }
    }
}

/// `struct btf_type`, and what follows it.
#[derive(Clone, Copy)]
pub(crate) struct Type<'t> {
    /// Position of its name.
    pub name: u32,
    /// Number of elements, kind, and a flag.
    pub info: u32,
    /// `size` or `type`, by its kind.
    pub of: u32,
    /// In words of 32 bits.
    tail: &'t [u8],
    pub kind: Kind,
}

impl<'t> Type<'t> {
    /// What follows it, in groups of `N` words: its elements, or the whole.
    pub(crate) fn tail<const N: usize>(self) -> impl Iterator<Item = [u32; N]> + 't {
        let (words, _) = self.tail.as_chunks::<4>();
        let (groups, _) = words.as_chunks::<N>();
        groups.iter().map(|words| words.map(u32::from_ne_bytes))
    }
}

/// All types of a file.
pub(crate) struct Types<B = Bytes> {
    bytes: B,
    /// Where the section of types begins, and that of names.
    types: usize,
    names: usize,
    /// Where each type lies in its section; the first one has the number 1.
    at: Vec<u32>,
    /// Those that are asked for by name: where the name is, and the number.
    named: Vec<(u32, u32)>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn two_words(bytes: &[u8]) -> Option<[u32; 2]> {
    Some([word(bytes, 0)?, word(bytes, 4)?])
}

/// Bytes of a type of this kind, and of what follows it.
#[inline]
fn size(kind: Kind, info: u32) -> Option<usize> {
    let elements = usize::try_from(info & 0xffff).ok()?;
    let (fixed, each) = kind.tail();
    let words = elements.checked_mul(each)?.checked_add(fixed)?;
    words.checked_mul(4)?.checked_add(12)
}

fn read(bytes: &[u8]) -> Option<Type<'_>> {
    let (name, info, of) = (word(bytes, 0)?, word(bytes, 4)?, word(bytes, 8)?);
    let kind = Kind::of(info)?;
    let tail = bytes.get(12..size(kind, info)?)?;
    Some(Type {
        name,
        info,
        of,
        tail,
        kind,
    })
}

impl<B: Deref<Target = [u8]>> Types<B> {
    /// `None` if they are of another byte order, damaged, or have a kind that nothing is known of.
    pub(crate) fn new(bytes: B) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        let header = word(&bytes, 0)?.to_ne_bytes();
        let [first, second, version, _] = header;
        if u16::from_ne_bytes([first, second]) != MAGIC || version != 1 {
            return None;
        }
        let field = |at| usize::try_from(word(&bytes, at)?).ok();
        let header = field(4)?;
        let types = header.checked_add(field(8)?)?;
        let names = header.checked_add(field(16)?)?;
        let end = types.checked_add(field(12)?)?;
        let section = bytes.get(types..end)?;
        bytes.get(names..)?;
        // Most types have no more than one word.
        let mut at = Vec::with_capacity(section.len() / 20);
        let mut named = Vec::with_capacity(section.len() / 100);
        let mut position = 0usize;
        while let Some([name, info]) = section.get(position..).and_then(two_words) {
            let kind = Kind::of(info)?;
            at.push(u32::try_from(position).ok()?);
            if kind.is_named() && name != 0 {
                named.push((name, u32::try_from(at.len()).ok()?));
            }
            position = position.checked_add(size(kind, info)?)?;
        }
        (position == section.len()).then_some(Self {
            bytes,
            types,
            names,
            at,
            named,
        })
    }

    /// The type of this number; 0, `void`, is none.
    pub(crate) fn get(&self, number: u32) -> Option<Type<'_>> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let at = usize::try_from(*self.at.get(index)?).ok()?;
        read(self.bytes.get(self.types.checked_add(at)?..)?)
    }

    /// All types.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Type<'_>> {
        let section = self.bytes.get(self.types..).unwrap_or_default();
        self.at
            .iter()
            .filter_map(|&at| read(section.get(usize::try_from(at).ok()?..)?))
    }

    /// The structs, unions, enums and typedefs with a name: where that is, and the number of the type.
    pub(crate) fn named(&self) -> &[(u32, u32)] {
        &self.named
    }

    /// From this position of the section of names on: the name ends at the first 0.
    pub(crate) fn text(&self, at: u32) -> &[u8] {
        let at = usize::try_from(at).ok();
        let at = at.and_then(|at| self.names.checked_add(at));
        at.and_then(|at| self.bytes.get(at..)).unwrap_or_default()
    }

    /// A name; empty if there is none.
    pub(crate) fn name(&self, at: u32) -> &[u8] {
        let text = self.text(at);
        let end = text.iter().position(|&byte| byte == 0);
        text.get(..end.unwrap_or(0)).unwrap_or_default()
    }

    /// The first type of this kind and name, for kinds of [`Self::named`].
    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<(u32, Type<'_>)> {
        let called = |at| {
            let rest = self.text(at).strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.first() == Some(&0))
        };
        let mut called = self.named.iter().filter(|(at, _)| called(*at));
        called.find_map(|&(_, number)| {
            let t = self.get(number)?;
            (t.kind == kind).then_some((number, t))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `typedef struct { int a; } pair` would be three types; here are `int` and `typedef int number`.
    fn two_types() -> Vec<u8> {
        let names = b"\0int\0number\0";
        let words: [u32; 7] = [1, 1 << 24, 4, 32, 5, 8 << 24, 1];
        let mut bytes = [0x9f_eb_u16.swap_bytes().to_ne_bytes(), [1, 0]].concat();
        let types = u32::try_from(size_of_val(&words)).unwrap();
        for word in [24, 0, types, types, names.len() as u32]
            .into_iter()
            .chain(words)
        {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(names);
        bytes
    }

    #[test]
    fn types_are_found_by_kind_and_name() {
        let types = Types::new(two_types()).unwrap();
        let int = types.get(1).unwrap();
        assert_eq!((int.kind, int.of), (Kind::Int, 4));
        assert_eq!(int.tail().collect::<Vec<[u32; 1]>>(), [[32]]);
        let (number, named) = types.find(Kind::Typedef, "number").unwrap();
        assert_eq!((number, named.of), (2, 1));
        assert!(types.find(Kind::Typedef, "int").is_none());
        assert!(types.get(0).is_none() && types.get(3).is_none());
        assert_eq!(types.name(named.name), b"number");
    }

    #[test]
    fn damaged_types_are_refused() {
        let whole = two_types();
        assert!(Types::new(whole.get(..50).unwrap()).is_none());
        let mut unknown = whole.clone();
        unknown[24 + 7] = 31;
        assert!(Types::new(unknown).is_none());
        crate::abi::noise::damage(&whole, 5000, |bytes| {
            if let Some(types) = Types::new(bytes) {
                for t in types.iter() {
                    types.name(t.name);
                }
            }
        });
    }
}
