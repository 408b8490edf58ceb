// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections and groups as cells, and how wide these are.

use unicode_width::UnicodeWidthStr;

use super::super::columns::columns;
use super::super::groups::{self, Talker};
use super::super::traffic::Connection;
use crate::aggregate::{group::Group, keys::Keys};
use crate::output::column::{comm, local_end, peer_process, pid, remote_end};
use crate::output::{Column, Row, Shown, Value, cut};

/// A value as a table shows it: what foreign text could draw with is escaped.
pub(super) fn shown(value: &Value<'_>) -> String {
    let mut cell = Vec::new();
    value.table(&mut cell);
    String::from_utf8_lossy(&cell).into_owned()
}

/// Whether any of what identifies a connection, or its reason, has this text in it.
pub(super) fn matches(one: &Connection, text: &str) -> bool {
    let row = Row::from(one);
    let why = one.why().text().unwrap_or_default();
    let peer = peer(one);
    let cells = [pid(&row), comm(&row), local_end(&row), remote_end(&row)];
    let text = text.to_lowercase();
    let has = |cell: &str| cell.to_lowercase().contains(&text);
    let any = cells.iter().any(|value| has(&shown(value)));
    any || has(why) || peer.is_some_and(|peer| has(&peer))
}

/// The process at the other end, with `--peer`.
pub(super) fn peer(one: &Connection) -> Option<String> {
    let columns = peer_process::<Connection>();
    let column = columns.first()?;
    Some(shown(&column.value(&Row::from(one))))
}

/// A table that fits a width.
pub(super) struct Table {
    pub(super) titles: Vec<String>,
    pub(super) widths: Vec<usize>,
    pub(super) right: Vec<bool>,
    pub(super) rows: Vec<Vec<String>>,
    /// The column that says what is wrong.
    pub(super) why: Option<usize>,
}

/// Columns from left to right, by key or title, each with its rank: those of low rank are left out where there is no room.
type Plan = [(&'static str, u8)];

/// There only with `--peer`: whoever asks for it wants to see it.
const PEER: &str = "PEER";

const RATES: &Plan = &[
    ("pid", 6),
    ("comm", 1),
    ("laddr", 13),
    ("lport", 8),
    ("raddr", 2),
    ("rport", 5),
    (PEER, 3),
    ("state", 14),
    ("tx_bytes_per_s", 0),
    ("rx_bytes_per_s", 0),
    ("retrans_segs", 4),
    ("srtt_us", 7),
    ("min_rtt_us", 16),
    ("snd_cwnd", 15),
    ("rqueue_bytes", 11),
    ("wqueue_bytes", 12),
    ("age_us", 17),
    ("why_us", 10),
    ("why", 3),
];

const STALLED: &Plan = &[
    ("pid", 6),
    ("comm", 1),
    ("laddr", 11),
    ("lport", 7),
    ("raddr", 2),
    ("rport", 4),
    (PEER, 3),
    ("state", 10),
    ("rqueue_bytes", 8),
    ("wqueue_bytes", 5),
    ("snd_wnd_bytes", 13),
    ("retrans_segs", 14),
    ("srtt_us", 15),
    ("timer", 9),
    ("timer_us", 12),
    ("backoff", 12),
    ("why_us", 3),
    ("why", 0),
];

const GROUPS: &Plan = &[
    ("", 0),
    ("connections", 3),
    ("connections_closed", 6),
    ("tx_bytes_per_s", 1),
    ("rx_bytes_per_s", 1),
    ("retrans_segs", 5),
    ("max_srtt_us", 7),
    ("stalled", 4),
    ("why", 2),
    ("why_us", 8),
];

/// Connections in so many columns.
pub(super) fn connections(all: &[Connection], stalled: bool, room: usize) -> Table {
    let plan = if stalled { STALLED } else { RATES };
    let mut columns = columns(stalled);
    columns.extend(peer_process());
    fitted(&columns, plan, all.iter().map(Row::from), room)
}

/// Groups in so many columns.
pub(super) fn groups(all: &[Talker], keys: &Keys, room: usize) -> Table {
    let heads: Vec<_> = all.iter().map(|one| one.group.head(0)).collect();
    let rows = all.iter().zip(&heads);
    let rows = rows.map(|(body, head)| Row { head, body });
    fitted(&groups::columns(keys), GROUPS, rows, room)
}

/// What a group is called.
pub(super) fn group_name(keys: &Keys, group: &Group) -> String {
    let head = &group.head(0);
    let columns = keys.columns::<()>(|_| Vec::new());
    let names = columns
        .iter()
        .filter(|column| column.shown.has(Shown::NARROW));
    let names = names.map(|column| shown(&column.value(&Row { head, body: &() })));
    names.collect::<Vec<_>>().join(" ")
}

fn fitted<'r, E: 'r>(
    columns: &[Column<E>],
    plan: &Plan,
    rows: impl Iterator<Item = Row<'r, E>>,
    room: usize,
) -> Table {
    let of = |key: &str| -> Vec<&Column<E>> {
        let mut columns = columns.iter();
        match key {
            // What groups are made by.
            "" => columns
                .take_while(|column| column.key != "connections")
                .filter(|column| column.shown.has(Shown::NARROW))
                .collect(),
            key => columns
                .find(|column| column.key == key || column.heading == key)
                .into_iter()
                .collect(),
        }
    };
    let planned: Vec<_> = plan
        .iter()
        .flat_map(|(key, rank)| of(key).into_iter().map(|column| (column, *rank)))
        .collect();
    // A name whose escapes make it long is marked where it is cut.
    let cell = |column: &Column<E>, row: &Row<'r, E>| match column.value(row) {
        value @ (Value::Comm(_) | Value::Whose(_) | Value::Process(..)) => {
            let mut name = shown(&value).into_bytes();
            cut(&mut name, 0, column.width.1);
            String::from_utf8_lossy(&name).into_owned()
        }
        value => shown(&value),
    };
    let cells: Vec<Vec<String>> = rows
        .map(|row| {
            planned
                .iter()
                .map(|(column, _)| cell(column, &row))
                .collect()
        })
        .collect();
    let width = |at: usize, title: &str| {
        let cells = cells.iter().filter_map(|row| row.get(at));
        cells
            .map(|cell| cell.width())
            .max()
            .unwrap_or(0)
            .max(title.width())
    };
    let widths: Vec<_> = planned
        .iter()
        .enumerate()
        .map(|(at, (column, _))| width(at, column.title()))
        .collect();
    let kept = kept(
        &planned.iter().map(|(_, rank)| *rank).collect::<Vec<_>>(),
        &widths,
        room,
    );
    let pick = |row: &Vec<String>| kept.iter().filter_map(|&at| row.get(at).cloned()).collect();
    Table {
        titles: kept
            .iter()
            .map(|&at| planned[at].0.title().to_owned())
            .collect(),
        widths: kept.iter().map(|&at| widths[at]).collect(),
        right: kept.iter().map(|&at| planned[at].0.right).collect(),
        rows: cells.iter().map(pick).collect(),
        why: kept.iter().position(|&at| planned[at].0.key == "why"),
    }
}

/// The columns for which there is room, with a blank between them, by rank.
fn kept(ranks: &[u8], widths: &[usize], room: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by_key(|&at| ranks[at]);
    let mut used = 0;
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        let more = widths[at] + usize::from(!kept.is_empty());
        // What is needed most is cut rather than left out.
        if used + more <= room || kept.is_empty() {
            used += more;
            kept.push(at);
        }
    }
    kept.sort_unstable();
    kept
}
