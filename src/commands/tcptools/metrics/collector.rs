// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the page of a scrape: a look, a reading of the counters, and what they mean.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::bpf::types::span;
use super::counted::{self, COUNTERS, ENDED, OVERFLOWED, Reasons};
use super::counts::{Counts, Reading};
use super::labels::Writer;
use super::look::{Look, join};
use super::model::{Histogram, Is, Page};
use super::own::Own;
use super::text::{self, Format};
use crate::output::message::Throttle;

/// No look follows another sooner than so many times its own length, however many ask.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(10);

/// The page of a look, in the formats that were asked for: whoever waits for the same look shares it.
pub(super) struct Written {
    page: Page,
    text: Option<Rc<[u8]>>,
    openmetrics: Option<Rc<[u8]>>,
}

impl Written {
    /// In a format.
    pub(super) fn format(&mut self, format: Format) -> Rc<[u8]> {
        let written = match format {
            Format::Text => &mut self.text,
            Format::OpenMetrics => &mut self.openmetrics,
        };
        Rc::clone(written.get_or_insert_with(|| text::write(&self.page, format).into()))
    }
}

/// Everything that a page takes.
pub(super) struct Collector {
    look: Look,
    counts: Counts,
    reasons: Reasons,
    labels: Writer,
    labelled: bool,
    own: Own,
    rests_until: Option<Instant>,
    failures: Throttle,
    failed: u64,
}

impl Collector {
    pub(super) fn new(
        look: Look,
        counts: Counts,
        own: Own,
        labels: Writer,
        labelled: bool,
    ) -> Self {
        Self {
            look,
            counts,
            reasons: Reasons::load(),
            labels,
            labelled,
            own,
            rests_until: None,
            failures: Throttle::default(),
            failed: 0,
        }
    }

    /// The first look: what was before it is not counted.
    pub(super) fn begin(&mut self) {
        if let Err(error) = self.read() {
            crate::message!("tcptools: cannot look at open sockets: {error:#}");
        }
    }

    fn read(&mut self) -> Result<Reading> {
        let looked = self.look.run(&self.labels);
        let reading = self.counts.read()?;
        if let Err(error) = looked {
            self.failed += 1;
            if self.failures.is_due(self.failed, false) {
                crate::message!("tcptools: cannot look at open sockets: {error:#}");
            }
        }
        Ok(reading)
    }

    /// See [`Look::unvisited`].
    pub(super) fn unvisited(&self) -> u64 {
        self.look.unvisited()
    }

    /// When the next look may be, if not now.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until.filter(|until| *until > Instant::now())
    }

    /// The page of a new look.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub(super) fn page(&mut self) -> Result<Written> {
        let begun = Instant::now();
        let page = self.collect();
        let rest = begun.elapsed().saturating_mul(REST).min(LONGEST_REST);
        self.rests_until = Instant::now().checked_add(rest);
        Ok(Written {
            page: page?,
            text: None,
            openmetrics: None,
        })
    }

    fn collect(&mut self) -> Result<Page> {
        let reading = self.read()?;
        let mut page = Page::default();
        self.write_counts(&mut page, &reading);
        self.write_spans(&mut page, &reading);
        self.look.write(&mut page);
        self.own.write(&mut page);
        let overflow = reading.rest.count.get(OVERFLOWED as usize);
        page.add(Is::Overflow, String::new(), overflow.copied().unwrap_or(0));
        page.add(Is::Expired, String::new(), self.counts.expired);
        page.add(Is::Unvisited, String::new(), self.unvisited());
        let took = self.look.took.as_nanos() as u64;
        page.add_ns(Is::Look, String::new(), took);
        page.add(Is::Series, String::new(), 0);
        page.add(Is::Series, String::new(), page.series());
        Ok(page)
    }

    fn write_counts(&self, page: &mut Page, reading: &Reading) {
        let mut put = |counter: u32, users: &str, n: u64| {
            if let Some((is, own)) = self.reasons.of(counter) {
                page.add(is, join(own, users), n);
            }
        };
        for (group, n) in &reading.counts {
            put(group.kind(), &self.labels.write(group), *n);
        }
        // Without labels: all. With labels: what had no room, and what has expired.
        let rest = self.labels.other();
        for (counter, n) in (0..COUNTERS).zip(reading.rest.count) {
            if n > 0 || !self.labelled && counted::is_shown_at_zero(counter) {
                put(counter, &rest, n);
            }
        }
        for (ended, n) in &reading.ended {
            put(*ended, &rest, *n);
        }
        if !self.labelled {
            // An end of each reason: none yet.
            for state_and_facts in counted::EACH_REASON {
                put(ENDED | state_and_facts, "", 0);
            }
        }
    }

    fn write_spans(&self, page: &mut Page, reading: &Reading) {
        let mut put = |kind: u32, users: String, span: &span| {
            if let Some((is, limits)) = counted::span(kind) {
                page.add_histogram(is, users, histogram(span, limits));
            }
        };
        for (group, span) in &reading.spans {
            put(group.kind(), self.labels.write(group), span);
        }
        for (kind, span) in (0..).zip(&reading.rest.span) {
            if !self.labelled || span.bucket.iter().any(|n| *n > 0) {
                put(kind, self.labels.other(), span);
            }
        }
    }
}

/// With these limits, in powers of two of microseconds.
fn histogram(span: &span, limits: &[u32]) -> Histogram {
    let up_to = |limit: u32| span.bucket.iter().take(limit as usize + 1).sum::<u64>();
    let buckets = limits.iter().map(|limit| (1000 << limit, up_to(*limit)));
    Histogram {
        buckets: buckets.collect(),
        count: span.bucket.iter().sum(),
        sum_ns: span.sum_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let mut spans = span::default();
        for (bucket, n) in [(0, 1), (5, 2), (10, 4), (41, 8)] {
            spans.bucket[bucket] = n;
        }
        let histogram = histogram(&spans, &[4, 8, 10]);
        assert_eq!(
            histogram.buckets,
            [(16_000, 1), (256_000, 3), (1_024_000, 7)]
        );
        assert_eq!(histogram.count, 15);
    }
}
