// SPDX-License-Identifier: MIT OR Apache-2.0
//! Columns: what a row is made of, whatever the format.

use super::Row;
use crate::value::Value;

/// In which layouts a column appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(u8);

impl Shown {
    /// The table of 80 columns.
    pub const NARROW: Self = Self(1);
    /// The wide table.
    pub const WIDE: Self = Self(2);
    /// JSON Lines and CSV, which have the same fields.
    pub const JSON: Self = Self(4);
    /// Every layout.
    pub const ALL: Self = Self(7);
    /// Both tables.
    pub const TEXT: Self = Self(3);
    /// Everything but the 80-column table.
    pub const DETAIL: Self = Self(6);

    /// In either of the two.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two have a layout in common.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One column of a tool.
pub struct Column<E> {
    /// JSON key: snake_case, with its unit.
    pub key: &'static str,
    /// Heading in the table and in CSV.
    pub heading: &'static str,
    /// Width in the narrow and in the wide table.
    pub width: (usize, usize),
    /// Aligned to the right.
    pub right: bool,
    /// Where it appears.
    pub shown: Shown,
    /// Takes the value from a record.
    pub get: for<'a> fn(&Row<'a, E>) -> Value<'a>,
}

impl<E> Column<E> {
    /// A left-aligned column that every layout shows.
    pub const fn new(
        key: &'static str,
        heading: &'static str,
        width: (usize, usize),
        get: for<'a> fn(&Row<'a, E>) -> Value<'a>,
    ) -> Self {
        Self {
            key,
            heading,
            width,
            right: false,
            shown: Shown::ALL,
            get,
        }
    }

    /// The heading; the key where the column was made for JSON only.
    pub const fn title(&self) -> &'static str {
        if self.heading.is_empty() {
            self.key
        } else {
            self.heading
        }
    }

    /// Aligned to the right, as numbers are.
    pub const fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// Shown in these layouts only.
    pub const fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }
}

/// The columns that begin every JSON record; the table and CSV get theirs from the tool, in its peers' order.
pub fn common_columns<E>() -> Vec<Column<E>> {
    let json = |key, get| Column::new(key, "", (0, 0), get).shown(Shown::JSON);
    vec![
        json("boot_ns", |r| Value::Int(r.head.boot_ns)),
        json("netns", |r| match r.head.netns {
            0 => Value::Unknown, // no namespace has it
            netns => Value::Int(netns.into()),
        }),
        json("cookie", cookie),
        json("family", family),
        json("laddr", laddr),
        json("lport", lport),
        json("raddr", raddr),
        json("rport", rport),
        json("ifindex", ifindex),
        json("ifname", ifname),
        json("pid", pid),
        json("comm", comm),
        json("uid", uid),
        json("pid_source", pid_source),
    ]
}

/// An address or port, for a column: unknown for a socket that has none, as of AF_PACKET.
pub fn of_flow<'a, E>(row: &Row<'_, E>, value: Value<'a>) -> Value<'a> {
    match row.head.flow.family {
        0 => Value::Unknown,
        _ => value,
    }
}

/// The socket's cookie, for a column: unknown where there is no socket, or the kernel does not tell.
pub fn cookie<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    match row.head.cookie {
        0 => Value::Unknown,
        cookie => Value::Int(cookie),
    }
}

/// The socket's user, for a column.
pub fn uid<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    match row.head.uid {
        u32::MAX => Value::Unknown, // no user has it
        uid => Value::Int(uid.into()),
    }
}

/// The owner's process id, for a column.
pub fn pid<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head
        .pid()
        .map_or(Value::Unknown, |pid| Value::Int(pid.into()))
}

/// 4 or 6, for a column.
pub fn family<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Int(row.head.flow.family.into()))
}

/// The local address, for a column.
pub fn laddr<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Addr(row.head.local()))
}

/// The local port, for a column.
pub fn lport<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    match row.head.flow.lport {
        0 => of_flow(row, Value::Int(0)),
        // All that the record of a tracepoint may tell.
        port => Value::Int(port.into()),
    }
}

/// The remote address, for a column.
pub fn raddr<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Addr(row.head.remote()))
}

/// The remote port, for a column.
pub fn rport<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    of_flow(row, Value::Int(row.head.flow.rport.into()))
}

/// The index of the link that a link-local address belongs to, for a column.
pub fn ifindex<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    let link = row.head.link();
    link.map_or(Value::Unknown, |link| Value::Int(link.index().into()))
}

/// Its name, for a column: known in the command's own network namespace only.
pub fn ifname<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.link().map_or(Value::Unknown, Value::Link)
}

/// How the owner is known, for a column.
pub fn pid_source<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.pid_source().map_or(Value::Unknown, Value::Text)
}

/// The owner's name, for a column.
pub fn comm<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.comm().map_or(Value::Unknown, Value::Comm)
}
