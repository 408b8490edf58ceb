// SPDX-License-Identifier: MIT OR Apache-2.0
//! Columns: what a row is made of, whatever the format.

use super::Row;
use crate::abi::known::{KNOWN_NETNS, KNOWN_UID};
use crate::abi::types::head;
use crate::output::whose::{Field, Whose, peer};
use crate::output::{units::unless, value::Value};

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
    /// No layout: on request only (`--columns`).
    pub const REQUEST: Self = Self(0);
    /// Everything but the 80-column table.
    pub const DETAIL: Self = Self(6);

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
    /// The bits of `head.known` without which its value is unknown ([`crate::abi::known`]).
    pub needs: u16,
    /// Takes the value from a record.
    pub get: for<'a> fn(&Row<'a, E>) -> Value<'a>,
}

// Not derived: that would ask for a record that can be copied.
impl<E> Clone for Column<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Column<E> {}

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
            needs: 0,
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

    /// How many columns of a table it takes.
    pub fn room(&self, wide: bool) -> usize {
        let (narrow, in_wide) = self.width;
        let width = if wide { in_wide } else { narrow };
        width.max(self.title().len())
    }

    /// Whether a user calls it so: its JSON key or its heading, in any case.
    pub fn is_named(&self, name: &str) -> bool {
        self.key.eq_ignore_ascii_case(name) || self.heading.eq_ignore_ascii_case(name)
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

    /// Unknown in a record whose `head.known` lacks one of these bits ([`crate::abi::known`]).
    pub const fn needs(mut self, known: u16) -> Self {
        self.needs = known;
        self
    }

    /// The value in a row.
    pub fn value<'a>(&self, row: &Row<'a, E>) -> Value<'a> {
        match row.head.known & self.needs == self.needs {
            true => (self.get)(row),
            false => Value::Unknown,
        }
    }
}

/// A table of columns, one a line: `"key" SHOWN "HEADING" (narrow, wide).right if KNOWN_X => value;`. Gives a
/// `Vec<Column<record>>`.
///
/// - `SHOWN` is a constant of [`Shown`], or an expression in parentheses.
/// - Without a heading and its two widths, tables show the key, when asked for the column.
/// - `.right` aligns it to the right, `if` names what [`Column::needs`]; both may be left out.
/// - The value is anything that [`Value`] is made from: a number, text, a `bool`, an `Option` of these, or what a
///   function of [`output::units`](crate::output::units) gives a unit.
macro_rules! columns {
    (|$row:ident, $body:ident: $record:ty| $(
        $key:literal $shown:tt $($heading:literal ($narrow:literal, $wide:literal))? $(.$right:ident)?
            $(if $known:expr)? => $value:expr;
    )*) => {
        vec![$({
            let heading = concat!($($heading)?);
            let width = $crate::output::column::columns!(@width $($narrow, $wide)?);
            let column = $crate::output::Column::<$record>::new($key, heading, width, |$row| {
                let $body = $row.body;
                let _ = $body; // not every column is of the body
                $crate::output::value::Value::from($value)
            });
            column.shown($crate::output::column::columns!(@shown $shown))$(.$right())?$(.needs($known))?
        }),*]
    };
    (@width) => { (0, 0) };
    (@width $narrow:literal, $wide:literal) => { ($narrow, $wide) };
    (@shown ($shown:expr)) => { $shown };
    (@shown $shown:ident) => { $crate::output::Shown::$shown };
}
pub(crate) use columns;

/// The columns that begin every JSON record; the table and CSV get theirs from the tool, in its peers' order.
pub fn common_columns<E>() -> Vec<Column<E>> {
    let mut columns = columns! { |row, body: E|
        "boot_ns"     JSON                 => row.head.boot_ns;
    };
    columns.extend(socket_columns());
    columns.extend(peer_fields());
    columns
}

/// The same, for a command's rows: a column of its own that JSON has under the same key takes the place of the shared one,
/// and is taken out of `own`.
pub fn leading_columns<E>(own: &mut Vec<Column<E>>) -> Vec<Column<E>> {
    let mut columns = common_columns();
    for column in &mut columns {
        let instead = |c: &Column<E>| c.key == column.key && c.shown.has(Shown::JSON);
        if let Some(index) = own.iter().position(instead) {
            *column = own.remove(index);
        }
    }
    columns
}

/// Those of the socket: a sum has its own time.
pub fn socket_columns<E>() -> Vec<Column<E>> {
    columns! { |row, body: E|
        "netns"       JSON if KNOWN_NETNS  => netns(row);
        "cookie"      JSON                 => cookie(row);
        "family"      JSON                 => family(row);
        "laddr"       JSON                 => laddr(row);
        "lport"       JSON                 => lport(row);
        "raddr"       JSON                 => raddr(row);
        "rport"       JSON                 => rport(row);
        "ifindex"     JSON                 => ifindex(row);
        "ifname"      JSON                 => ifname(row);
        "pid"         JSON                 => pid(row);
        "comm"        JSON                 => comm(row);
        "uid"         JSON if KNOWN_UID    => uid(row);
        "pid_source"  JSON                 => pid_source(row);
        "cgroup"         JSON => whose(row, Field::Cgroup);
        "unit"           JSON => whose(row, Field::Unit);
        "container"      JSON => whose(row, Field::Container);
        "container_name" JSON => whose(row, Field::ContainerName);
        "runtime"        JSON => whose(row, Field::Runtime);
        "pod"            JSON => whose(row, Field::Pod);
        "netns_name"     JSON if KNOWN_NETNS => netns_name(row);
    }
}

/// The columns that end every wide row.
pub fn wide_columns<E>() -> Vec<Column<E>> {
    let mut columns = columns! { |row, body: E|
        "whose" WIDE "WHOSE" (15, 15) => whose(row, Field::Short);
    };
    columns.extend(peer_process());
    columns
}

/// Of the other end, in JSON and CSV; none unless the user asked for it.
fn peer_fields<E>() -> Vec<Column<E>> {
    if !peer::show() {
        return Vec::new();
    }
    columns! { |row, body: E|
        "peer_pid"    JSON => peer(row).and_then(|peer| peer.pid());
        "peer_comm"   JSON => peer(row).and_then(|peer| peer.comm().map(|_| Value::Name(peer.owner.comm)));
        "peer_netns"  JSON => peer(row).and_then(|peer| unless(peer.netns, 0));
        "peer_cookie" JSON => peer(row).and_then(|peer| unless(peer.cookie, 0));
        "peer_laddr"  JSON => peer(row).map(|peer| Value::Addr(peer.local()));
        "peer_lport"  JSON => peer(row).map(|peer| peer.flow.lport);
        "peer_raddr"  JSON => peer(row).map(|peer| Value::Addr(peer.remote()));
        "peer_rport"  JSON => peer(row).map(|peer| peer.flow.rport);
        "peer_source" JSON => peer::of(row.head).map(|other| other.source);
    }
}

/// The same, in a table.
pub fn peer_process<E>() -> Vec<Column<E>> {
    if !peer::show() {
        return Vec::new();
    }
    columns! { |row, body: E|
        "" TEXT "PEER" (15, 23) => peer(row).map(|peer| match peer.comm() {
            Some(_) => Value::Process(peer.pid().unwrap_or(0), peer.owner.comm),
            // Of a socket whose owner is not known, or on another host.
            None => Value::Endpoint(peer.local(), peer.flow.lport),
        });
    }
}

fn peer<E>(row: &Row<'_, E>) -> Option<head> {
    peer::of(row.head).map(|other| other.head)
}

/// The inode number of the network namespace, for a column.
pub fn netns<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    unless(row.head.netns, 0).into() // no namespace has it
}

/// The name of the network namespace, for a column.
pub fn netns_name<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    Value::Whose(Whose::Netns(row.head.netns))
}

/// Whose the socket is, for a column: a container's, a unit's, a cgroup's.
pub fn whose<'a, E>(row: &Row<'a, E>, field: Field) -> Value<'a> {
    Value::Whose(Whose::of(row.head, field))
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
    unless(row.head.cookie, 0).into()
}

/// The socket's user, for a column.
pub fn uid<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    unless(row.head.uid, u32::MAX).into() // no user has it
}

/// The owner's process id, for a column.
pub fn pid<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.pid().into()
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

/// The local address with its port, for a column of a table.
pub fn local_end<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    Value::Endpoint(row.head.local(), row.head.flow.lport)
}

/// The remote address with its port, for a column of a table.
pub fn remote_end<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    Value::Endpoint(row.head.remote(), row.head.flow.rport)
}

/// The index of the link that a link-local address belongs to, for a column.
pub fn ifindex<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.link().map(|link| link.index()).into()
}

/// Its name, for a column: known in the command's own network namespace only.
pub fn ifname<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.link().map_or(Value::Unknown, Value::Link)
}

/// How the owner is known, for a column.
pub fn pid_source<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.pid_source().into()
}

/// The owner's name, for a column.
pub fn comm<'a, E>(row: &Row<'a, E>) -> Value<'a> {
    row.head.comm().map_or(Value::Unknown, Value::Comm)
}
