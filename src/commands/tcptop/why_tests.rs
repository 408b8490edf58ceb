// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every reason, and what is none.

use super::bpf::types::conn;
use super::why::{Course, Why, why, words};
use super::{flag, timer};
use crate::abi::names::{ca_state, state};

const MS: u64 = 1000;

/// A connection that is open for a minute, and did something a moment ago; nothing is in a queue.
fn moving() -> conn {
    let mut now = conn {
        state: state::ESTABLISHED,
        flags: flag::ACTIVE_OPEN | flag::KEEPALIVE,
        snd_wnd: 65_536,
        snd_cwnd: 10,
        snd_mss: 1448,
        rtt_us: 1000,
        data_segs_out: 7,
        data_segs_in: 7,
        last_data_sent_ms: 10,
        last_data_recv_ms: 10,
        last_ack_recv_ms: 10,
        ..conn::default()
    };
    (now.start_ns, now.head.boot_ns) = (1, 60_000_000_001);
    now
}

/// It has sent so much, of which so much waits to be sent.
fn sending(wqueue: u32, notsent: u32, unacked: u32) -> conn {
    conn {
        wqueue,
        notsent,
        unacked,
        chrono: 1,
        chrono_us: 5000 * MS,
        timer: timer::RETRANSMIT,
        ..moving()
    }
}

/// The last interval was a second.
fn second() -> Course {
    Course {
        interval_us: 1000 * MS,
        ..Course::default()
    }
}

/// A connection, how it went, and what is expected: words, milliseconds, whether it may be longer.
type Case = (&'static str, conn, Course, &'static str, u64, bool);

#[rustfmt::skip] // one case per line
fn stuck_at_sending() -> Vec<Case> {
    let persist = conn {
        snd_wnd: 0,
        timer: timer::PERSIST,
        chrono: 2,
        chrono_us: 3000 * MS,
        ..sending(5000, 5000, 0)
    };
    let no_ack = conn {
        last_ack_recv_ms: 4000,
        retransmits: 4,
        backoff: 4,
        ..sending(100, 0, 1)
    };
    let lost = conn {
        lost_out: 2,
        ca_state: ca_state::RECOVERY,
        ..sending(20_000, 0, 14)
    };
    let held = conn {
        last_data_sent_ms: 30,
        ..sending(300, 200, 1)
    };
    let limited = |rwnd: u64, sndbuf: u64| Course {
        rwnd_limited_us: rwnd * MS,
        sndbuf_limited_us: sndbuf * MS,
        ..second()
    };
    vec![
        ("window of 0", persist, second(), "zero_window", 3000, false),
        ("window for less than a segment", conn { snd_wnd: 700, ..persist }, second(), "zero_window", 3000, false),
        ("and it was not seen to begin", conn { chrono: 1, ..persist }, Course { unacked_us: 700 * MS, ..second() }, "zero_window", 700, true),
        ("closed meanwhile", conn { flags: flag::ORPHAN, state: state::FIN_WAIT1, ..persist }, second(), "zero_window orphan", 3000, false),
        ("RTOs", no_ack, second(), "no_ack", 4000, false),
        ("no RTO yet", conn { retransmits: 0, ..no_ack }, second(), "no_ack", 4000, false),
        ("busy for a shorter time than since the last ACK", conn { chrono_us: 1500 * MS, ..no_ack }, second(), "no_ack", 1500, false),
        ("ACKs of nothing new", conn { last_ack_recv_ms: 5, ..no_ack }, Course { unacked_us: 2500 * MS, ..second() }, "no_ack", 2500, false),
        ("a SYN", conn { state: state::SYN_SENT, chrono: 0, rtt_us: 0, ..no_ack }, second(), "no_ack", 60_000, false),
        ("keepalives", conn { wqueue: 0, unacked: 0, chrono: 0, timer: timer::KEEPALIVE, probes: 2, last_data_recv_ms: 9000, ..no_ack }, second(), "no_ack", 4000, false),
        ("recovery", lost, second(), "retransmitting", 10, true),
        ("an RTO a moment ago", conn { retransmits: 1, lost_out: 1, ca_state: ca_state::LOSS, last_ack_recv_ms: 300, ..sending(7, 0, 1) }, second(), "retransmitting", 300, true),
        ("sent again in the interval", sending(7, 0, 1), Course { retrans: 3, ..second() }, "retransmitting", 10, true),
        ("Nagle", held, second(), "nagle", 30, false),
        ("cork", conn { flags: flag::CORK, unacked: 0, wqueue: 200, ..held }, second(), "cork", 5000, true),
        ("send buffer", sending(9000, 0, 7), limited(0, 900), "sndbuf", 900, true),
        ("window", sending(9000, 0, 7), limited(900, 0), "rwnd", 900, true),
    ]
}

#[rustfmt::skip] // one case per line
fn stuck_at_receiving() -> Vec<Case> {
    let unread = conn {
        rqueue: 5000,
        last_data_recv_ms: 700,
        last_ack_recv_ms: 700,
        ..moving()
    };
    let fin = conn {
        state: state::CLOSE_WAIT,
        rqueue: 1,
        last_ack_recv_ms: 900,
        ..moving()
    };
    vec![
        ("nobody reads", unread, second(), "unread", 700, true),
        ("and more comes", conn { last_data_recv_ms: 1, ..unread }, Course { unread_us: 9000 * MS, ..second() }, "unread", 9000, true),
        ("nobody accepts", conn { flags: flag::UNACCEPTED, ..unread }, second(), "unaccepted", 700, true),
        ("nobody closes", fin, second(), "close_wait", 900, true),
        ("and the FIN was read", conn { rqueue: 0, ..fin }, second(), "close_wait", 900, true),
        ("nor reads", conn { rqueue: 2, last_data_recv_ms: 900, ..fin }, second(), "unread", 900, true),
        ("both", conn { snd_wnd: 0, wqueue: 9, notsent: 9, chrono: 2, chrono_us: 400 * MS, ..unread }, second(), "zero_window unread", 400, false),
    ]
}

#[rustfmt::skip] // one case per line
fn quiet() -> Vec<Case> {
    let silent = |sent, received, flags| conn {
        last_data_sent_ms: sent,
        last_data_recv_ms: received,
        last_ack_recv_ms: sent,
        flags,
        ..moving()
    };
    let never = conn {
        data_segs_in: 0,
        data_segs_out: 0,
        ..silent(0, 0, 0)
    };
    vec![
        ("a request", silent(300, 9000, flag::ACTIVE_OPEN), second(), "no_answer", 300, false),
        ("the first one", conn { data_segs_in: 0, ..silent(300, 0, flag::ACTIVE_OPEN) }, second(), "no_answer", 300, false),
        ("its other end", silent(9000, 300, 0), second(), "unanswered", 300, false),
        ("the first one's", conn { data_segs_out: 0, ..silent(0, 300, 0) }, second(), "unanswered", 300, false),
        ("after an answer", silent(9000, 8000, flag::ACTIVE_OPEN), second(), "idle", 8000, false),
        ("at its other end", silent(8000, 9000, 0), second(), "idle", 8000, false),
        ("nothing was ever sent", never, second(), "idle", 60_000, false),
        ("an orphan", conn { state: state::FIN_WAIT2, last_ack_recv_ms: 50, ..silent(90, 90, flag::ORPHAN) }, second(), "orphan", 50, true),
    ]
}

#[rustfmt::skip] // one case per line
fn unhindered() -> Vec<Case> {
    let none = |name, now, course| (name, now, course, "", 0, false);
    vec![
        none("it moves", moving(), second()),
        none("data is in flight", sending(9000, 0, 7), second()),
        none("on a long way", conn { rtt_us: 900_000, last_ack_recv_ms: 1500, ..sending(9000, 0, 7) }, second()),
        none("more than a segment in flight", sending(3100, 200, 2), second()),
        none("TCP_NODELAY", conn { flags: flag::NODELAY, ..sending(300, 200, 1) }, second()),
        none("the congestion window is full", conn { snd_cwnd: 1, ..sending(300, 200, 1) }, second()),
        none("limited for less than half of the time", sending(9000, 0, 7), Course { rwnd_limited_us: 400 * MS, sndbuf_limited_us: 400 * MS, ..second() }),
        none("limited, and seen for the first time", sending(9000, 0, 7), Course { sndbuf_limited_us: 400 * MS, ..Course::default() }),
        none("a reader that waits for its turn", conn { rqueue: 9, last_data_recv_ms: 100, ..moving() }, second()),
        none("a FIN a moment ago", conn { state: state::CLOSE_WAIT, rqueue: 1, last_ack_recv_ms: 9, ..moving() }, second()),
        none("idle with keepalive", conn { last_data_sent_ms: 9000, last_data_recv_ms: 9000, last_ack_recv_ms: 50, ..moving() }, second()),
        none("a quick answer is awaited", conn { last_data_sent_ms: 100, last_data_recv_ms: 500, ..moving() }, second()),
        none("sent again before", conn { wqueue: 0, ..moving() }, Course { retrans: 3, ..second() }),
    ]
}

#[test]
fn every_reason_is_told_and_nothing_else() {
    let cases = [
        stuck_at_sending(),
        stuck_at_receiving(),
        quiet(),
        unhindered(),
    ]
    .concat();
    let mut told = std::collections::BTreeSet::new();
    for (name, now, course, text, ms, at_least) in cases {
        let found = why(&now, &course);
        assert_eq!(found.text().unwrap_or_default(), text, "{name}: {found:?}");
        assert_eq!(
            (found.us, found.at_least),
            (ms * MS, at_least),
            "{name}: {found:?}"
        );
        assert_eq!(found.is_any(), !text.is_empty(), "{name}");
        told.extend(text.split(' ').filter(|word| !word.is_empty()));
    }
    assert_eq!(told, words().collect());
}

#[test]
fn any_numbers_have_words() {
    let any = Why {
        send: 255,
        receive: 255,
        quiet: 255,
        orphan: 255,
        ..Why::default()
    };
    assert_eq!(any.text(), Some("rwnd close_wait idle orphan"));
    crate::abi::noise::damage(&vec![0; size_of::<conn>()], 2000, |bytes| {
        let mut now = conn::default();
        if plain::copy_from_bytes(&mut now, bytes).is_ok() {
            let _ = why(&now, &second()).text();
        }
    });
}
