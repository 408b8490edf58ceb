// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: totals, with the share of the segments sent.

use std::time::Instant;

use crate::abi::types::{Record, decode, decode_all, decode_stack};
use crate::aggregate::totals::{Sent, Totals};
use crate::kernel::holders::Holders;
use crate::session::{Figures, Handler, Printer};

use super::MIN_BYTES;
use super::bpf::types::{retrans, total};

/// Totals: of closed sockets from their records, of open ones from an iterator, of SYN/ACKs one by one.
pub(super) struct Summary {
    pub(super) totals: Totals,
    pub(super) open: Holders,
}

impl Summary {
    fn add_total(&mut self, body: &total) {
        let sent = Sent {
            segs_out: body.sent.segs_out.into(),
            data_segs_out: body.sent.data_segs_out.into(),
            dsack_dups: body.sent.dsack_dups.into(),
            reord_seen: body.sent.reord_seen.into(),
            retrans: body.sent.retrans.map(u64::from),
            ..Sent::default()
        };
        self.totals.add(body.head(), &sent);
    }

    fn print(&mut self, out: &mut Printer) {
        match self.open.run() {
            Ok(bytes) => decode_all(&bytes).for_each(|body| self.add_total(&body)),
            Err(error) => {
                crate::message!("tcpretrans: sockets still open are not in the totals: {error:#}")
            }
        }
        self.totals.print(out);
    }
}

impl Handler for Summary {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.totals.header(out);
    }

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<total>(record).filter(|body| body.head.event == TOTAL) {
            self.add_total(body);
        } else if let Some(body) = decode_stack::<retrans>(record, MIN_BYTES) {
            let mut sent = Sent::default();
            sent.retrans[usize::from(body.kind)] = body.segs.into();
            self.totals.add(body.head(), &sent);
        }
    }

    fn shows(&self) -> crate::session::Shows {
        self.totals.interval().into()
    }

    fn uncounted(&self) -> u64 {
        self.totals.uncounted()
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.totals.is_due() {
            self.print(out);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.totals.every.due()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn unvisited(&self) -> u64 {
        self.open.unvisited()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.totals.summary(out, fields);
    }
}

crate::enumerators! { super::bpf::types::event_kind as u16: TOTAL = TOTAL }
