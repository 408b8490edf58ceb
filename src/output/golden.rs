// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fixed records in every format, compared with `tests/golden/`. Needs no kernel.

use super::types::{self, Type};
use super::{Column, Format, Row, Rows, Style};
use crate::abi::known::KNOWN_ALL;
use crate::abi::types::{Record, flow, head, owner, pid_source};
use crate::kernel::cgroups::{
    Whose,
    names::{names, pod_uid},
};

#[path = "../../tests/tools/golden.rs"]
pub(crate) mod files;

/// What is done with each kind of rows that a command has: compared with a file here, made of any bytes elsewhere
/// (`src/fuzz/`).
pub trait Kinds: Sized {
    /// Rows that are made of records. `mend` makes a record possible of which every byte is the same.
    fn records<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self;

    /// Sums that are made of records.
    fn sums<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self;

    /// Sums that are none: examples of them.
    fn lines<E>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        all: &[(head, E)],
    ) -> Self;
}

/// The rows of a command, in every format, one kind after another.
pub struct Golden {
    tool: &'static str,
    text: String,
}

impl Golden {
    pub fn new(tool: &'static str) -> Self {
        let text = String::new();
        Self { tool, text }
    }

    fn written<E>(
        mut self,
        event: &str,
        all: &[(head, E)],
        rows: impl Fn(Style) -> Rows<E>,
    ) -> Self {
        let formats = [
            ("table", Format::Table, false),
            ("wide", Format::Table, true),
            ("csv", Format::Csv, false),
            ("json", Format::Json, false),
        ];
        for (name, format, wide) in formats {
            let style = Style {
                format,
                wide,
                header: true,
                ..Style::default()
            };
            let (mut rows, mut out) = (rows(style), Vec::new());
            rows.header(&mut out);
            for (head, body) in all {
                rows.row(&mut out, event, &Row { head, body });
            }
            let text = String::from_utf8(out).expect("UTF-8");
            if format == Format::Json {
                text.lines().for_each(has_types);
            }
            self.text += &format!("== {event}, {name}\n{}\n", without_date(&text));
        }
        self
    }

    pub fn check(self) {
        files::check(&format!("rows/{}.txt", self.tool), &self.text);
    }
}

/// Each value is of the type that its key has in every command.
fn has_types(line: &str) {
    let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
    for (key, value) in row.as_object().expect("an object") {
        let is = match types::of(key) {
            Type::Integer => value.is_u64(),
            Type::Number => value.is_number(),
            Type::String => value.is_string(),
            Type::Boolean => value.is_boolean(),
            Type::Strings | Type::Buckets => value.is_array(),
        };
        assert!(
            is || value.is_null(),
            "{key} is {value} (src/output/types.rs)"
        );
    }
}

impl Kinds for Golden {
    /// Of one socket each: one that knows nothing, one of an IPv4 and one of an IPv6 socket. `mend` makes them the same
    /// on every kernel, too.
    fn records<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        remember();
        let (tool, records) = (self.tool, made(mend));
        self.written(event, &records, |style| {
            Rows::new(tool, style, columns()).expect("columns")
        })
    }

    fn sums<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let sums = made(mend);
        self.lines(event, columns, &sums)
    }

    fn lines<E>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        all: &[(head, E)],
    ) -> Self {
        let tool = self.tool;
        self.written(event, all, |style| {
            Rows::sums(tool, style, columns()).expect("columns")
        })
    }
}

/// The date is that of the run: the host's clocks since boot and since 1970 differ by it.
fn without_date(text: &str) -> String {
    let is_date =
        |word: &str| word.len() == 30 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let words = text.split_inclusive(['"', ',']);
    let masked = words.map(|word| {
        let bare = word.trim_end_matches(['"', ',']);
        match is_date(bare) {
            true => word.replace(bare, "DATE"),
            false => word.to_owned(),
        }
    });
    masked.collect()
}

fn made<E: Record>(mend: impl Fn(&mut E)) -> Vec<(head, E)> {
    let bodies = [0, 1, 3].map(|byte| {
        let mut body = filled::<E>(byte);
        mend(&mut body);
        body
    });
    let records = heads().into_iter().zip(bodies);
    let records = records.map(|(head, body)| (head, body.with_head(&head)));
    records.collect()
}

/// A body of which every byte is this.
fn filled<E: Record>(byte: u8) -> E {
    let bytes = vec![byte; size_of::<E>()];
    // SAFETY: as many bytes as it has, and every bit pattern is a value of a record.
    unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
}

/// The third of [`heads`] is in a pod.
fn remember() {
    let path = "/kubepods.slice/kubepods-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope";
    let names = names(path.as_bytes());
    let whose = Whose {
        path: path.into(),
        unit: None,
        container: names.container.map(<[u8]>::to_vec),
        runtime: names.runtime,
        container_name: Some("web, \"it\"\u{1b}[m".into()),
        pod: names.pod.map(pod_uid),
    };
    super::whose::remember(7, &whose);
}

/// Nobody's socket, of which no address is known; one of curl's; one of a server's.
pub fn heads() -> [head; 3] {
    let owned = |pid: u32, name: &[u8], source| {
        let mut owner = owner {
            pid,
            source,
            ..owner::default()
        };
        for (to, from) in owner.comm.iter_mut().zip(name) {
            *to = *from as _;
        }
        owner
    };
    let v4 = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, last];
    let v6 = |last| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let flow = |family, laddr, raddr, lport, rport| flow {
        family,
        laddr,
        raddr,
        lport,
        rport,
        ..flow::default()
    };
    [
        head::default(),
        head {
            boot_ns: 1_000_000_001,
            cookie: 4097,
            cgroup: 0,
            flow: flow(4, v4(1), v4(2), 49_152, 443),
            netns: 4_026_531_840,
            owner: owned(4711, b"curl", pid_source::SOCKET),
            uid: 1000,
            event: 0,
            known: KNOWN_ALL,
        },
        head {
            boot_ns: 2_500_000_000,
            cookie: 4098,
            cgroup: 7,
            flow: flow(6, v6(1), v6(2), 80, 65_535),
            netns: 4_026_531_840,
            owner: owned(80, b"server, \"it\"", pid_source::LISTENER),
            uid: 0,
            event: 1,
            known: KNOWN_ALL,
        },
    ]
}
