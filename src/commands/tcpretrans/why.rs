// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--why`: whether this host threw the segment away before it was sent again.

use libbpf_rs::skel::Skel;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::error::Usage;
use crate::kernel::tracepoints::drops;
use crate::kernel::{clock, symbols};
use crate::output::Column;
use crate::output::column::*;
use crate::output::units::unless;
use crate::output::value::Value;
use crate::session::constants;
use crate::session::skipped::Skipped;
use crate::{by_number, enumerators};
use anyhow::Result;

use super::bpf::types::{self, retrans};
use super::bpf::{OpenTcpretransSkel, TcpretransSkel};

/// What the columns say of each verdict: whether this host dropped it, and why that is not known.
const VERDICTS: [(Option<bool>, Option<&str>); 9] = by_number! { types::drop_verdict:
    DROP_NOT_ASKED => (None, None),
    DROP_NONE => (Some(false), None),
    DROP_ALL => (Some(true), None),
    DROP_PART => (None, Some("part")),
    DROP_TRANSLATED => (None, Some("translated")),
    DROP_BEFORE_START => (None, Some("before_start")),
    DROP_FORGOTTEN => (None, Some("forgotten")),
    DROP_MISSED => (None, Some("missed")),
    DROP_COPY => (None, Some("copy")),
};
enumerators! { types::drop_verdict as u8:
    NONE = DROP_NONE,
    ALL = DROP_ALL,
    PART = DROP_PART,
    MISSED = DROP_MISSED,
    COPY = DROP_COPY,
}

/// `DROP_LASTS_NS` of `bpf/tcpretrans/why.bpf.h`: for how long a drop may explain a retransmission.
const LASTS_NS: u64 = 120_000_000_000;

/// What throws away a copy for a raw or packet socket, which before 6.11 looks like the segment itself.
const COPIERS: [&str; 6] = [
    "packet_rcv",
    "packet_rcv_spkt",
    "tpacket_rcv",
    "raw_rcv",
    "raw_rcv_skb",
    "rawv6_rcv_skb",
];

#[rustfmt::skip] // one line per column
pub(super) fn columns() -> Vec<Column<retrans>> {
    columns! { |row, r: retrans|
        "dropped_here"  ALL     "HERE"        (5, 5)    => verdict(r).0;
        "drop_reason"   ALL     "DROP_REASON" (15, 24)  => is_found(r).then(|| drops::name(r.drop_reason)).flatten();
        "drop_where"    DETAIL  "DROP_WHERE"  (20, 20)  => place(r);
        "drop_netns"    JSON    "DROP_NETNS"  (10, 10)  => unless(r.drop_netns, 0);
        "drop_bytes"    JSON    "DROP_BYTES"  (10, 10).right => unless(r.drop_bytes, 0);
        "drop_unknown"  ALL     "UNKNOWN"     (12, 12)  => verdict(r).1;
    }
}

fn verdict(body: &retrans) -> (Option<bool>, Option<&'static str>) {
    let index = usize::from(body.verdict);
    VERDICTS.get(index).copied().unwrap_or_default()
}

/// Whether there is a drop that is the segment's, or may be.
fn is_found(body: &retrans) -> bool {
    body.drop_place != 0
}

fn place(body: &retrans) -> Value<'_> {
    // An address is not shown without having been asked for.
    let name = symbols::caller(body.drop_place);
    name.filter(|_| is_found(body)).into()
}

/// # Errors
/// A sentence, where the kernel does not say why it throws something away: then harmless drops cannot be told apart.
fn refusal() -> Result<(), Usage> {
    match drops::has_reason() {
        true => Ok(()),
        false => Err(Usage(
            "--why: this kernel gives no reason for a drop (before 5.17)".into(),
        )),
    }
}

/// Loads the program that sees drops, and makes room for them.
pub(super) fn configure(open: &mut OpenTcpretransSkel<'_>) -> Result<()> {
    refusal()?;
    drops::load();
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.why = true;
    rodata.has_reason = drops::has_reason();
    rodata.has_rx_sk = drops::has_socket();
    rodata.hidden = drops::harmless();
    open.maps
        .drops
        .set_max_entries(types::drop_table::DROP_BUCKETS.0)?;
    let progs = &mut open.progs;
    progs.note_drop.set_autoload(true);
    progs.retransmit_skb.set_autoload(false);
    progs.retransmit_skb_why.set_autoload(true);
    progs.retransmit_synack.set_autoload(false);
    progs.retransmit_synack_why.set_autoload(true);
    Ok(())
}

/// What only user space knows of drops.
pub(super) struct Why {
    /// Where the kernel half reads since when it sees them.
    since: MapHandle,
    /// Drops that the program was not run for: how many, and when that was noticed last.
    skipped: Skipped,
    missed: u64,
    noticed_ns: Option<u64>,
    has_socket: bool,
}

impl Why {
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn new(skel: &TcpretransSkel<'_>) -> Result<Self> {
        if !symbols::load_symbols() {
            crate::message!(
                "tcpretrans: the kernel hides its symbols (kernel.kptr_restrict), so functions are not shown"
            );
        }
        Ok(Self {
            since: MapHandle::try_from(&skel.maps.data_drops_seen)?,
            skipped: Skipped::of_program(skel.object(), "note_drop"),
            missed: 0,
            noticed_ns: None,
            has_socket: drops::has_socket(),
        })
    }

    /// From now on drops are seen.
    pub(super) fn attached(&self) {
        let now = clock::monotonic_ns().to_ne_bytes();
        // Without it, what became of SYN/ACKs stays unknown.
        if let Err(error) = self.since.update(&0u32.to_ne_bytes(), &now, MapFlags::ANY) {
            crate::message!("tcpretrans: --why: SYN/ACKs stay unknown: {error}");
        }
    }

    /// Takes back a verdict that the kernel half could not give.
    pub(super) fn review(&mut self, body: &mut retrans) {
        match body.verdict {
            NONE if self.has_missed(body.head.boot_ns) => body.verdict = MISSED,
            ALL | PART if !self.has_socket && is_copy(body) => body.verdict = COPY,
            _ => {}
        }
    }

    /// Whether a drop may have been missed in the time before `now_ns` that counts. The number is read later than the
    /// record was written, which errs on the safe side.
    fn has_missed(&mut self, now_ns: u64) -> bool {
        let missed = self.skipped.read();
        if missed != self.missed {
            self.missed = missed;
            self.noticed_ns = Some(now_ns);
        }
        let since = self.noticed_ns.map(|at| now_ns.saturating_sub(at));
        since.is_some_and(|since| since <= LASTS_NS)
    }
}

fn is_copy(body: &retrans) -> bool {
    symbols::caller(body.drop_place).is_some_and(|name| COPIERS.contains(&name))
}
