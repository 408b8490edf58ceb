// SPDX-License-Identifier: MIT OR Apache-2.0
//! The history of a connection's congestion control in bounded memory, for plots.

use std::collections::HashMap;

use crate::abi::names::ca_state;
use crate::aggregate::bounded::Bounded;

/// How many connections are followed at once: those with most samples. Samples of others are counted.
pub const MAX_TRACES: usize = 64;
/// Of how many others it is counted who has how many samples.
const MAX_OTHERS: usize = 4096;
/// How many points a line has at most: twice a picture's width in pixels.
pub const MAX_POINTS: usize = 2000;
/// How many events of a connection are drawn.
pub const MAX_MARKS: usize = 2000;

pub use crate::abi::names::INFINITE_SSTHRESH;

/// A value at a time, in nanoseconds since boot.
pub type Point = (u64, u32);

/// Values over time. When there are too many, of every few neighbours the lowest and the highest stay, so that a line
/// through them has the outline of the whole.
#[derive(Clone, Debug)]
pub struct Series {
    points: Vec<Point>,
    /// The group that is being filled, of `span` values.
    group: Vec<Point>,
    span: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            points: Vec::new(),
            group: Vec::new(),
            span: 2,
        }
    }
}

/// The lowest and the highest of some neighbours, in the order of time.
fn extremes(group: &[Point]) -> impl Iterator<Item = Point> {
    let low = (0..group.len()).min_by_key(|&i| group[i].1);
    let high = (0..group.len()).max_by_key(|&i| group[i].1);
    let (first, last) = (low.min(high), low.max(high));
    let last = last.filter(|_| first != last);
    [first, last].into_iter().flatten().map(|i| group[i])
}

impl Series {
    /// The next value; time does not run backwards.
    pub fn push(&mut self, point: Point) {
        self.group.push(point);
        if self.group.len() < self.span {
            return;
        }
        self.points.extend(extremes(&self.group));
        self.group.clear();
        if self.points.len() >= MAX_POINTS {
            self.points = self.points.chunks(4).flat_map(extremes).collect();
            self.span *= 2;
        }
    }

    /// What is left of the values, in the order of time.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        let last = self.group.last().copied();
        let group = extremes(&self.group).filter(move |p| Some(*p) != last);
        self.points.iter().copied().chain(group).chain(last)
    }

    /// The lowest and the highest value.
    pub fn range(&self) -> Option<(u32, u32)> {
        let values = || self.points().map(|p| p.1);
        Some((values().min()?, values().max()?))
    }
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A segment was sent again.
    Retransmit,
    /// The window was reduced without a loss: ECN, a full local queue, or a loss that a probe repaired (CWR).
    Reduced,
    /// Acknowledgements showed a loss: fast recovery started.
    Recovery,
    /// The retransmission timer fired.
    Rto,
}

/// An event, where it belongs on the lines.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Nanoseconds since boot.
    pub boot_ns: u64,
    /// What happened.
    pub event: Event,
    /// Congestion window at that time, in segments.
    pub cwnd: u32,
}

/// A sample of a connection's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Nanoseconds since boot.
    pub boot_ns: u64,
    /// Congestion window, in segments.
    pub cwnd: u32,
    /// Slow-start threshold, in segments, or [`INFINITE_SSTHRESH`].
    pub ssthresh: u32,
    /// Smoothed round-trip time in microseconds; 0: none measured.
    pub srtt_us: u32,
    /// `enum tcp_ca_state` (`include/uapi/linux/tcp.h`).
    pub ca_state: u8,
    /// How often the timer has fired for the segment that is due (`icsk_retransmits`).
    pub retransmits: u8,
    /// The first byte that is not acknowledged.
    pub snd_una: u32,
    /// Segments sent again, since the connection began.
    pub total_retrans: u32,
}

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Who and with whom, for a title.
    pub title: String,
    /// Whose it is, for the one who writes the title.
    pub pid: Option<u32>,
    /// Number of samples, drawn or not.
    pub samples: u64,
    /// Congestion window, in segments.
    pub cwnd: Series,
    /// Slow-start threshold, in segments.
    pub ssthresh: Series,
    /// Smoothed round-trip time, in microseconds.
    pub srtt: Series,
    /// Events, the first [`MAX_MARKS`] of them.
    pub marks: Vec<Mark>,
    /// How often fast recovery began.
    pub recoveries: u64,
    /// How often the timer fired.
    pub rtos: u64,
    first_retrans: Option<u32>,
    last: Moment,
    /// `retransmits` and `snd_una` of the last time-out: another one has another pair.
    last_rto: Option<(u8, u32)>,
}

impl Trace {
    /// A sample: the state when a segment came in.
    pub fn sample(&mut self, now: Moment) {
        self.samples += 1;
        self.windows(now);
        if now.srtt_us != 0 {
            self.srtt.push((now.boot_ns, now.srtt_us));
        }
        self.first_retrans.get_or_insert(now.total_retrans);
        self.follow(now);
    }

    /// A segment was just sent again.
    pub fn retransmit(&mut self, now: Moment) {
        self.first_retrans
            .get_or_insert(now.total_retrans.saturating_sub(1));
        self.windows(now);
        self.mark(now, Event::Retransmit);
        self.follow(now);
    }

    fn windows(&mut self, now: Moment) {
        self.cwnd.push((now.boot_ns, now.cwnd));
        self.ssthresh.push((now.boot_ns, now.ssthresh));
    }

    /// Segments sent again while this was followed.
    pub fn retransmitted(&self) -> u32 {
        let first = self.first_retrans.unwrap_or(0);
        self.last.total_retrans.saturating_sub(first)
    }

    /// The last moment that was seen.
    pub fn last(&self) -> &Moment {
        &self.last
    }

    /// Events show as a change of the congestion state; a second time-out in a row changes only the back-off.
    fn follow(&mut self, now: Moment) {
        let changed = now.ca_state != self.last.ca_state;
        let timeout = (now.retransmits, now.snd_una);
        match now.ca_state {
            // Without a time-out it is a path whose MTU has shrunk (tcp_simple_retransmit).
            ca_state::LOSS if now.retransmits != 0 && self.last_rto != Some(timeout) => {
                self.rtos += 1;
                self.last_rto = Some(timeout);
                self.mark(now, Event::Rto);
            }
            ca_state::RECOVERY if changed => {
                self.recoveries += 1;
                self.mark(now, Event::Recovery);
            }
            ca_state::CWR if changed => self.mark(now, Event::Reduced),
            _ => {}
        }
        self.last = now;
    }

    fn mark(&mut self, now: Moment, event: Event) {
        if self.marks.len() < MAX_MARKS {
            let (boot_ns, cwnd) = (now.boot_ns, now.cwnd);
            self.marks.push(Mark {
                boot_ns,
                event,
                cwnd,
            });
        }
    }
}

/// Every connection that is followed, by its cookie.
#[derive(Debug)]
pub struct Traces {
    traces: HashMap<u64, Trace>,
    /// Samples of connections that are not followed.
    pub refused: u64,
    others: Bounded<u64, u64>,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            traces: HashMap::new(),
            refused: 0,
            others: Bounded::new(MAX_OTHERS),
        }
    }
}

impl Traces {
    /// The trace of a connection; `None` when there are [`MAX_TRACES`] others that have more samples. One that comes to
    /// have more takes the place of the one with fewest, which is forgotten.
    pub fn get(&mut self, cookie: u64) -> Option<&mut Trace> {
        if self.traces.len() >= MAX_TRACES && !self.traces.contains_key(&cookie) {
            let samples = self.others.entry(cookie, |_| 0);
            *samples += 1;
            let fewest = self.traces.iter().min_by_key(|(_, trace)| trace.samples);
            let (least, fewest) = fewest.map(|(cookie, trace)| (*cookie, trace.samples))?;
            if *samples <= fewest {
                self.refused += 1;
                return None;
            }
            *samples = 0;
            self.traces.remove(&least);
            self.refused += fewest;
            *self.others.entry(least, |_| 0) = fewest;
        }
        Some(self.traces.entry(cookie).or_default())
    }

    /// Those that have samples, the ones with most of them first.
    pub fn busiest(&self) -> Vec<&Trace> {
        let mut all: Vec<_> = self.traces.values().filter(|t| t.samples != 0).collect();
        all.sort_by(|a, b| b.samples.cmp(&a.samples).then(a.title.cmp(&b.title)));
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn extremes_are_kept(values in vec(any::<u32>(), 1..20_000)) {
            let mut series = Series::default();
            for (time, &value) in (0..).zip(&values) {
                series.push((time, value));
            }
            let points: Vec<_> = series.points().collect();
            prop_assert!(points.len() <= MAX_POINTS + 3 && points.is_sorted_by_key(|p| p.0));
            prop_assert!(points.iter().all(|&(time, value)| values[time as usize] == value));
            prop_assert_eq!(series.range(), values.iter().min().copied().zip(values.iter().max().copied()));
        }
    }

    #[test]
    fn thinning_keeps_outline() {
        let mut series = Series::default();
        (0..999).for_each(|t| series.push((t, (t * 7 % 31) as u32)));
        let all: Vec<_> = (0..999).map(|t| (t, (t * 7 % 31) as u32)).collect();
        assert_eq!(series.points().collect::<Vec<_>>(), all);

        let mut series = Series::default();
        for t in 0..1_000_000u64 {
            let value = if t == 123_456 {
                9999
            } else {
                100 + (t % 50) as u32
            };
            series.push((t, value));
        }
        let points: Vec<_> = series.points().collect();
        assert!(points.len() <= MAX_POINTS, "{}", points.len());
        assert!(points.is_sorted_by_key(|p| p.0));
        assert_eq!(series.range(), Some((100, 9999)));
        assert_eq!(points.last().unwrap().0, 999_999);
        let early = points.iter().filter(|p| p.0 < 500_000).count();
        assert!((points.len() / 3..points.len() * 2 / 3).contains(&early));
    }

    fn events(moments: &[(u8, u8, u32, bool)]) -> Vec<Event> {
        let mut trace = Trace::default();
        for &(ca_state, retransmits, snd_una, sent) in moments {
            let now = Moment {
                ca_state,
                retransmits,
                snd_una,
                ..Moment::default()
            };
            if sent {
                trace.retransmit(now);
            } else {
                trace.sample(now);
            }
        }
        let shown = trace.marks.iter().map(|m| m.event);
        shown.filter(|e| *e != Event::Retransmit).collect()
    }

    #[test]
    fn each_timeout_counts_once() {
        use Event::{Recovery, Rto};
        // Recovery with two segments sent again, then back to open.
        let recovery = [
            (0, 0, 1, false),
            (3, 0, 1, true),
            (3, 0, 2, true),
            (0, 0, 9, false),
        ];
        assert_eq!(events(&recovery), [Recovery]);
        // The timer fires twice for the same byte, then an acknowledgement has more sent again.
        let backoff = [
            (4, 1, 1, true),
            (4, 2, 1, true),
            (4, 2, 1, false),
            (4, 0, 5, true),
        ];
        assert_eq!(events(&backoff), [Rto, Rto]);
        // Only a sample tells of it; then none at all, for want of a time-out.
        let sampled = [(0, 0, 1, false), (4, 1, 1, false), (4, 0, 2, false)];
        assert_eq!(events(&sampled), [Rto]);
        assert_eq!(events(&[(0, 0, 1, false), (4, 0, 1, true)]), []);
        // A tail-loss probe is no event of its own.
        assert_eq!(events(&[(0, 0, 1, true)]), []);
    }

    #[test]
    fn excess_connections_are_counted() {
        let mut traces = Traces::default();
        let mut sample = |cookie: u64| {
            if let Some(trace) = traces.get(cookie) {
                trace.title = cookie.to_string();
                trace.sample(Moment::default());
            }
        };
        for cookie in 0..MAX_TRACES as u64 {
            (0..=cookie).for_each(|_| sample(100 + cookie));
        }
        // None of very many has more than the least; then the 7 of one are more than the 1 and the 2 of two.
        (0..10_000).for_each(|n| sample(1_000_000 + n));
        (0..7).for_each(|_| sample(7));
        let all = (1..=MAX_TRACES as u64).sum::<u64>() + 10_000 + 7;
        let busiest = traces.busiest();
        assert_eq!(busiest.len(), MAX_TRACES);
        assert_eq!(busiest[0].title, (100 + MAX_TRACES - 1).to_string());
        let kept: u64 = busiest.iter().map(|trace| trace.samples).sum();
        assert_eq!(kept + traces.refused, all);
        assert!(busiest.iter().any(|trace| trace.title == "7"));
        assert!(busiest.iter().all(|trace| trace.title != "100"));
    }
}
