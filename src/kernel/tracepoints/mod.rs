// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracepoints of the running kernel: from tracefs where it may be read, and from BTF, which always may.
//!
//! tracefs has the categories and the fields of the records; BTF has the arguments that `tp_btf` programs get, and the
//! records of those whose class is known. What neither says stays unknown.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod arguments;
mod btf;
mod category;
pub mod drops;
pub(crate) mod tracefs;

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::kernel::mounts;

pub(crate) use btf::Types as KernelTypes;
pub(crate) use category::class as class_of;
pub use tracefs::{
    events as tracefs_events, fields as tracefs_fields, remedy as tracefs_remedy,
    symbols as tracefs_symbols,
};

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type, as C writes it but with the dimension of an array at its end.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes from the beginning of the record.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Whether it may be negative, as far as is known: BTF has it in the type.
    #[serde(skip)]
    pub signed: bool,
}

impl Field {
    /// As C declares it: `__u8 saddr[28]`.
    pub fn declaration(&self) -> String {
        match self.kind.find('[') {
            Some(at)
                if !self.kind.starts_with("__data_loc") && !self.kind.starts_with("__rel_loc") =>
            {
                format!("{} {}{}", &self.kind[..at], self.name, &self.kind[at..])
            }
            _ => format!("{} {}", self.kind, self.name),
        }
    }
}

/// An argument of a `tp_btf` program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Argument {
    /// Its name, where the kernel tells.
    pub name: Option<String>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Argument {
    /// As C declares it: `struct sock *sk`.
    pub fn declaration(&self) -> String {
        match &self.name {
            Some(name) if self.kind.ends_with('*') => format!("{}{name}", self.kind),
            Some(name) => format!("{} {name}", self.kind),
            None => self.kind.clone(),
        }
    }
}

/// `char`, `[8]` makes `char[8]`; an array of arrays keeps the order of C.
fn with_dimension(element: &str, dimension: &str) -> String {
    match element.find('[') {
        Some(at) if !dimension.is_empty() => {
            format!("{}{dimension}{}", &element[..at], &element[at..])
        }
        _ => format!("{element}{dimension}"),
    }
}

/// What a tracepoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// The directory in tracefs.
    Known(String),
    /// It has none: a bare tracepoint, for `tp_btf` and raw tracepoint programs only.
    None,
    /// Only tracefs can tell.
    Unknown,
}

impl Category {
    /// Its name, if it is known and has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Known(name) => Some(name),
            _ => None,
        }
    }
}

/// A tracepoint's name. It sorts by category, those without one last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tracepoint {
    /// Its category.
    pub category: Category,
    /// Its event.
    pub event: String,
}

impl Tracepoint {
    /// `tcp:tcp_probe`; `-:event` where there is no category, `?:event` where it is not known.
    pub fn full_name(&self) -> String {
        let category = match &self.category {
            Category::Known(name) => name,
            Category::None => "-",
            Category::Unknown => "?",
        };
        format!("{category}:{}", self.event)
    }
}

/// Where the tracepoints of this kernel are described.
pub struct Kernel {
    types: Option<btf::Types>,
    events: Option<PathBuf>,
}

impl Kernel {
    /// Opens what this process may read.
    ///
    /// # Errors
    /// When that is nothing: neither BTF nor tracefs.
    pub fn open() -> Result<Self> {
        // Since 5.5 these have tracepoints.
        let types = btf::Types::load().ok();
        let types = types.filter(|types| types.events().next().is_some());
        let events = tracefs::events();
        if let (None, Err(error)) = (&types, &events) {
            if let Some(trouble) = mounts::sys() {
                bail!("{trouble}");
            }
            let (why, remedy) = tracefs::remedy(error.kind());
            bail!("this kernel's BTF lists no tracepoints, and {why}: {remedy}");
        }
        let events = events.ok();
        Ok(Self { types, events })
    }

    /// Whether categories and records come from tracefs.
    pub fn has_tracefs(&self) -> bool {
        self.events.is_some()
    }

    /// All tracepoints, sorted.
    ///
    /// # Errors
    /// When tracefs cannot be read after all.
    pub fn tracepoints(&self) -> Result<Vec<Tracepoint>> {
        let mut all = vec![];
        if let Some(events) = &self.events {
            let known = tracefs::list(events)?;
            all.extend(known.into_iter().map(|(category, event)| Tracepoint {
                category: Category::Known(category),
                event,
            }));
        }
        let listed: HashSet<String> = all.iter().map(|t: &Tracepoint| t.event.clone()).collect();
        let in_btf = self.types.iter().flat_map(btf::Types::events);
        all.extend(
            in_btf
                .filter(|e| !listed.contains(*e))
                .map(|event| Tracepoint {
                    category: self.category(event),
                    event: event.to_owned(),
                }),
        );
        all.sort();
        Ok(all)
    }

    /// Of an event that tracefs does not list.
    fn category(&self, event: &str) -> Category {
        match (&self.events, category::of(event)) {
            (Some(_), _) => Category::None,
            (None, Some(name)) => Category::Known(name.to_owned()),
            (None, None) => Category::Unknown,
        }
    }

    /// The fields of its record, or `None` when they are not known.
    pub fn fields(&self, tracepoint: &Tracepoint) -> Option<Vec<Field>> {
        let event = &tracepoint.event;
        if let Some(events) = &self.events {
            return tracefs::fields(events, tracepoint.category.name()?, event);
        }
        let types = self.types.as_ref()?;
        types
            .fields(event)
            .or_else(|| types.fields(category::class(event)?))
    }

    /// The arguments of a `tp_btf` program, or `None` when the event is not in the kernel's BTF.
    pub fn arguments(&self, tracepoint: &Tracepoint) -> Option<Vec<Argument>> {
        self.types.as_ref()?.arguments(&tracepoint.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_c() {
        let field = |kind: &str| Field {
            name: "x".into(),
            kind: kind.into(),
            offset: 8,
            size: 4,
            signed: false,
        };
        assert_eq!(field("__u8[2][4]").declaration(), "__u8 x[2][4]");
        assert_eq!(
            field("__data_loc char[]").declaration(),
            "__data_loc char[] x"
        );
        assert_eq!(
            with_dimension(&with_dimension("int", "[4]"), "[2]"),
            "int[2][4]"
        );
        let kind = "struct sock *".to_owned();
        let argument = |name| Argument {
            name,
            kind: kind.clone(),
        };
        assert_eq!(argument(Some("sk".into())).declaration(), "struct sock *sk");
        assert_eq!(argument(None).declaration(), "struct sock *");
    }

    /// Needs no privilege: BTF alone.
    #[test]
    fn btf_has_arguments_and_record() {
        let Ok(types) = btf::Types::load() else {
            assert!(!std::path::Path::new(crate::kernel::problem::KERNEL_BTF).exists());
            return;
        };
        let kernel = Kernel {
            types: Some(types),
            events: None,
        };
        let all = kernel.tracepoints().unwrap();
        let find = |name: &str| all.iter().find(|t| t.full_name() == name).cloned().unwrap();
        let state = find("sock:inet_sock_set_state");
        let arguments: Vec<_> = kernel
            .arguments(&state)
            .unwrap()
            .iter()
            .map(|a| a.declaration().replace("const ", ""))
            .collect();
        assert_eq!(arguments[0], "struct sock *sk");
        assert_eq!(
            arguments[1..],
            ["int oldstate", "int newstate"].map(ToOwned::to_owned)
        );
        let fields = kernel
            .fields(&find("tcp:tcp_destroy_sock"))
            .expect("the class is known");
        let cookie = fields.iter().find(|f| f.name == "sock_cookie").unwrap();
        assert_eq!((cookie.kind.as_str(), cookie.size), ("__u64", 8));
        let address = fields.iter().find(|f| f.name == "saddr_v6").unwrap();
        assert_eq!(address.declaration(), "__u8 saddr_v6[16]");
        assert!(find("?:sched_switch").category.name().is_none());
    }
}
