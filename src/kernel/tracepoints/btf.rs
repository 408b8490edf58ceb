// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tracepoints from the kernel's BTF, which every user may read.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use libbpf_rs::AsRawLibbpf;
use libbpf_rs::btf::types::{Array, FuncProto, Fwd, FwdKind, MemberAttr, Struct};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, TypeId};

use super::{Argument, Field, with_dimension};

/// What the kernel's BTF knows of tracepoints.
pub struct Types {
    btf: Btf<'static>,
    /// `typedef void (*btf_trace_<event>)(void *, ...)`.
    typedefs: BTreeMap<String, TypeId>,
    /// The prototypes of `int __traceiter_<event>(void *__data, ...)`, which have the names of the arguments (5.10).
    iterators: HashMap<String, TypeId>,
    /// `struct trace_event_raw_<class>`.
    records: HashMap<String, TypeId>,
}

impl Types {
    /// Reads the running kernel's BTF.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn load() -> Result<Self> {
        Ok(Self::new(Btf::from_vmlinux()?))
    }

    /// A kernel's, of this one or of another.
    pub fn new(btf: Btf<'static>) -> Self {
        let (mut typedefs, mut iterators, mut records) =
            (BTreeMap::new(), HashMap::new(), HashMap::new());
        for t in btf.type_by_kind::<BtfType<'_>>() {
            let Some(name) = t.name().and_then(|name| name.to_str()) else {
                continue;
            };
            let tail = |prefix| name.strip_prefix(prefix).map(str::to_owned);
            match t.kind() {
                BtfKind::Typedef => {
                    tail("btf_trace_").map(|event| typedefs.insert(event, t.type_id()));
                }
                BtfKind::Func => {
                    let prototype = t.next_type().map(|t| t.type_id());
                    tail("__traceiter_")
                        .zip(prototype)
                        .map(|(event, id)| iterators.insert(event, id));
                }
                BtfKind::Struct => {
                    tail("trace_event_raw_").map(|class| records.insert(class, t.type_id()));
                }
                _ => {}
            }
        }
        Self {
            btf,
            typedefs,
            iterators,
            records,
        }
    }

    /// Bytes of a struct, if there is one of this name.
    pub fn size_of(&self, name: &str) -> Option<usize> {
        let id = self.btf.type_by_name::<Struct<'_>>(name)?.type_id();
        usize::try_from(self.size(id)).ok()
    }

    /// Every tracepoint's event.
    pub fn events(&self) -> impl Iterator<Item = &str> {
        self.typedefs.keys().map(String::as_str)
    }

    /// What a `tp_btf` program gets, or `None` for an event that is not in BTF (a module's, a system call's).
    pub fn arguments(&self, event: &str) -> Option<Vec<Argument>> {
        let prototype = self.prototype(*self.typedefs.get(event)?)?;
        let named = self.iterators.get(event);
        let named = named.and_then(|id| self.btf.type_by_id::<FuncProto<'_>>(*id));
        let source = named
            .filter(|n| n.len() == prototype.len())
            .unwrap_or(prototype);
        // The first one is the probe's own data.
        let arguments = source.iter().skip(1).map(|p| Argument {
            name: p.name.and_then(|n| n.to_str()).map(str::to_owned),
            kind: self.text(p.ty, 0),
        });
        Some(arguments.collect())
    }

    /// The fields of a class of records, without the header that every record has.
    pub fn fields(&self, class: &str) -> Option<Vec<Field>> {
        let record: Struct<'_> = self.btf.type_by_id(*self.records.get(class)?)?;
        let fields = record.iter().filter_map(|member| {
            let name = member.name?.to_str()?;
            let MemberAttr::Normal { offset } = member.attr else {
                return None;
            };
            let own = name != "ent" && name != "__data";
            own.then(|| Field {
                name: name.to_owned(),
                kind: self.text(member.ty, 0),
                offset: offset / 8,
                size: self.size(member.ty),
                signed: false,
            })
        });
        Some(fields.collect())
    }

    /// What a typedef of a pointer to a function leads to. Damaged types may lead round in a circle.
    fn prototype(&self, typedef: TypeId) -> Option<FuncProto<'_>> {
        let mut at: BtfType<'_> = self.btf.type_by_id(typedef)?;
        for _ in 0..16 {
            if at.kind() == BtfKind::FuncProto {
                return FuncProto::try_from(at).ok();
            }
            at = at.next_type()?;
        }
        None
    }

    /// Bytes of a type; 0 for one that has none.
    fn size(&self, id: TypeId) -> u32 {
        let btf = self.btf.as_libbpf_object().as_ptr();
        // SAFETY: `btf` is valid as long as `self`; an id that does not exist gives a negative number.
        let size = unsafe { libbpf_rs::libbpf_sys::btf__resolve_size(btf, id.into()) };
        u32::try_from(size).unwrap_or(0)
    }

    /// A type as tracefs writes it: `struct sock *`, `__u8[28]`. `depth` ends what a damaged BTF could make endless.
    fn text(&self, id: TypeId, depth: u8) -> String {
        let Some(t) = self.btf.type_by_id::<BtfType<'_>>(id) else {
            return "?".into();
        };
        let name = t.name().and_then(|n| n.to_str()).unwrap_or("(anonymous)");
        let deeper = depth.saturating_add(1);
        let inner = || match t.next_type() {
            Some(next) if depth < 16 => self.text(next.type_id(), deeper),
            _ => "?".into(),
        };
        match t.kind() {
            BtfKind::Void => "void".into(),
            BtfKind::Struct => format!("struct {name}"),
            BtfKind::Union => format!("union {name}"),
            BtfKind::Enum | BtfKind::Enum64 => format!("enum {name}"),
            BtfKind::Fwd => match Fwd::try_from(t).map(|f| f.kind()) {
                Ok(FwdKind::Union) => format!("union {name}"),
                _ => format!("struct {name}"),
            },
            BtfKind::FuncProto => "void (*)()".into(),
            BtfKind::Ptr => pointer(&inner()),
            BtfKind::Const => qualified(&inner(), "const"),
            BtfKind::Volatile => qualified(&inner(), "volatile"),
            BtfKind::Restrict | BtfKind::TypeTag => inner(),
            BtfKind::Array => match Array::try_from(t) {
                Ok(array) if depth < 16 => {
                    let element = self.text(array.ty(), deeper);
                    with_dimension(&element, &format!("[{}]", array.capacity()))
                }
                _ => "?".into(),
            },
            BtfKind::Int => integer(name).to_owned(),
            _ => name.to_owned(),
        }
    }
}

/// The compiler's names of integers, as people and tracefs write them.
fn integer(name: &str) -> &str {
    match name {
        "short int" => "short",
        "short unsigned int" => "unsigned short",
        "long int" => "long",
        "long unsigned int" => "unsigned long",
        "long long int" => "long long",
        "long long unsigned int" => "unsigned long long",
        _ => name,
    }
}

fn pointer(to: &str) -> String {
    match to {
        // What it returns and takes is of no use to somebody who reads a record.
        "void (*)()" => to.to_owned(),
        _ if to.ends_with('*') => format!("{to}*"),
        _ => format!("{to} *"),
    }
}

/// A qualifier belongs behind a pointer, and before everything else.
fn qualified(kind: &str, qualifier: &str) -> String {
    match kind.ends_with('*') {
        true => format!("{kind} {qualifier}"),
        false => format!("{qualifier} {kind}"),
    }
}
