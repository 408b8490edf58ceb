// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a listener, from two readings of its queues.

/// What was seen of a listener; `None`: not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// The same connection was first in the accept queue at both readings: accept() took none.
    pub stuck: bool,
    /// Connections that wait for accept(); the most, if that is known.
    pub accept_queue: Option<u32>,
    pub accept_queue_max: Option<u32>,
    pub syn_queue: Option<u32>,
    pub syn_queue_max: Option<u32>,
    /// `net.ipv4.tcp_syncookies`: 0 off, 1 when the SYN queue is full, 2 always.
    pub syncookies: u32,
    /// Growth of `sk_drops` between the readings.
    pub new_drops: Option<u32>,
    /// Since the last SYN cookie, up to [`COOKIE_STEP_US`] more.
    pub syn_cookie_us: Option<u64>,
    pub interval_us: u64,
}

/// The kernel notes the time of a SYN cookie once a second (`include/net/tcp.h: tcp_synq_overflow`).
const COOKIE_STEP_US: u64 = 1_000_000;

/// From the best to the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    #[default]
    Nothing,
    /// The SYN queue is full, and SYNs are answered without being queued.
    SynCookies,
    /// SYNs, or the last packets of handshakes, were dropped, and it is none of the others.
    Dropping,
    /// The accept queue was full, or the SYN queue is, without cookies.
    Full,
    /// A connection waits, and accept() took none.
    NotAccepting,
}

impl Verdict {
    /// What explains most.
    pub fn of(seen: &Seen) -> Self {
        let dropping = seen.new_drops.is_some_and(|drops| drops != 0);
        // One more than the limit is admitted (include/net/sock.h: sk_acceptq_is_full).
        let accept_full = seen.accept_queue.zip(seen.accept_queue_max);
        let accept_full = accept_full.is_some_and(|(queue, max)| queue > max);
        // As many as the limit are one less than full since 6.13: then nothing is dropped yet.
        let syn_full = seen.syn_queue.zip(seen.syn_queue_max);
        let syn_full = syn_full.is_some_and(|(queue, max)| queue >= max) && dropping;
        let recently = seen.interval_us.saturating_add(COOKIE_STEP_US);
        let cookies = seen.syn_cookie_us.is_some_and(|us| us <= recently);
        match () {
            () if seen.stuck => Self::NotAccepting,
            () if accept_full || syn_full && seen.syncookies == 0 => Self::Full,
            // A flood that is answered with cookies has a few drops, too. With 2 they are no sign of anything.
            () if cookies && seen.syncookies == 1 => Self::SynCookies,
            () if dropping => Self::Dropping,
            () => Self::Nothing,
        }
    }

    /// As in a row, from the number in it; `None` for nothing.
    pub fn name(number: u32) -> Option<&'static str> {
        let names = ["SYN cookies", "dropping", "full", "not accepting"];
        names.get(number.checked_sub(1)? as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn seen(accept_queue: u32, new_drops: u32) -> Seen {
        Seen {
            accept_queue: Some(accept_queue),
            accept_queue_max: Some(4),
            syn_queue: Some(0),
            syn_queue_max: Some(4),
            syncookies: 1,
            new_drops: Some(new_drops),
            interval_us: SECOND,
            ..Seen::default()
        }
    }

    #[test]
    fn worst_that_applies() {
        use Verdict::*;
        let stuck = |seen| Seen {
            stuck: true,
            ..seen
        };
        let syns = |seen, syn_queue, syncookies| Seen {
            syn_queue: Some(syn_queue),
            syncookies,
            ..seen
        };
        let cookie = |seen, us| Seen {
            syn_cookie_us: Some(us),
            ..seen
        };
        for (seen, verdict) in [
            (Seen::default(), Nothing),
            (seen(0, 0), Nothing),
            // The limit is not yet full.
            (seen(4, 0), Nothing),
            (seen(5, 0), Full),
            (seen(5, 9), Full),
            (seen(4, 1), Dropping),
            (stuck(seen(1, 0)), NotAccepting),
            (stuck(seen(5, 9)), NotAccepting),
            (cookie(seen(0, 0), 0), SynCookies),
            (cookie(seen(0, 0), 2 * SECOND), SynCookies),
            (cookie(seen(0, 0), 2 * SECOND + 1), Nothing),
            (cookie(seen(0, 1), 0), SynCookies),
            (cookie(seen(0, 1), 2 * SECOND + 1), Dropping),
            (cookie(seen(5, 1), 0), Full),
            // Always on.
            (cookie(syns(seen(0, 0), 0, 2), 0), Nothing),
            // Off: the rest is dropped.
            (syns(seen(0, 0), 4, 0), Nothing),
            (syns(seen(0, 3), 4, 0), Full),
            (syns(seen(0, 3), 3, 0), Dropping),
            (syns(seen(0, 3), 5, 1), Dropping),
        ] {
            assert_eq!(Verdict::of(&seen), verdict, "{seen:?}");
        }
    }

    #[test]
    fn empty_backlog_holds_one() {
        let one = |accept_queue| Seen {
            accept_queue_max: Some(0),
            ..seen(accept_queue, 0)
        };
        assert_eq!(Verdict::of(&one(0)), Verdict::Nothing);
        assert_eq!(Verdict::of(&one(1)), Verdict::Full);
    }

    #[test]
    fn names_follow_the_order() {
        let all = [
            Verdict::Nothing,
            Verdict::SynCookies,
            Verdict::Dropping,
            Verdict::Full,
            Verdict::NotAccepting,
        ];
        let names = all.map(|verdict| Verdict::name(verdict as u32));
        let expected = [
            None,
            Some("SYN cookies"),
            Some("dropping"),
            Some("full"),
            Some("not accepting"),
        ];
        assert_eq!(names, expected);
        assert!(all.is_sorted() && Verdict::name(u32::MAX).is_none());
    }
}
