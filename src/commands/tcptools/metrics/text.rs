// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two text formats: OpenMetrics 1.0, and Prometheus' own 0.0.4, which node_exporter's textfile collector and
//! `promtool check metrics` read.

use std::io::Write;

use super::model::{Family, Histogram, Kind, Number, Page};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' own.
    Text,
    OpenMetrics,
}

impl Format {
    /// The value of Content-Type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What all names begin with.
pub(super) const PREFIX: &str = "tcptools_";

/// The whole page.
pub(super) fn write(page: &Page, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    for (family, numbers) in page.metrics() {
        begin(&mut out, family, format);
        for (labels, number) in numbers {
            sample(&mut out, family, labels, number);
        }
    }
    if format == Format::OpenMetrics {
        out.extend_from_slice(b"# EOF\n");
    }
    out
}

/// What a sample's name ends in, behind the metric's.
fn ending(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "_total",
        Kind::Info => "_info",
        Kind::Gauge | Kind::Histogram => "",
    }
}

fn begin(out: &mut Vec<u8>, family: &Family, format: Format) {
    // Before OpenMetrics, what a metric is was said of its samples' name.
    let (end, kind) = match (format, family.kind) {
        (Format::Text, Kind::Info) => (ending(family.kind), "gauge"),
        (Format::Text, kind) => (ending(kind), name_of(kind)),
        (Format::OpenMetrics, kind) => ("", name_of(kind)),
    };
    let name = format!("{PREFIX}{}{end}", family.name);
    let _ = writeln!(out, "# HELP {name} {}", family.help);
    let _ = writeln!(out, "# TYPE {name} {kind}");
    if let (Format::OpenMetrics, Some(unit)) = (format, family.unit) {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Info => "info",
    }
}

fn sample(out: &mut Vec<u8>, family: &Family, labels: &str, number: &Number) {
    let end = ending(family.kind);
    match number {
        Number::Whole(n) => line(out, family, end, (labels, ""), format_args!("{n}")),
        Number::Nanoseconds(ns) => {
            line(
                out,
                family,
                end,
                (labels, ""),
                format_args!("{}", seconds(*ns)),
            );
        }
        Number::Histogram(histogram) => lines(out, family, labels, histogram),
    }
}

fn lines(out: &mut Vec<u8>, family: &Family, labels: &str, histogram: &Histogram) {
    for (limit, count) in &histogram.buckets {
        let le = format!(r#"le="{}""#, seconds(*limit));
        line(
            out,
            family,
            "_bucket",
            (labels, &le),
            format_args!("{count}"),
        );
    }
    let (count, sum) = (histogram.count, seconds(histogram.sum_ns));
    line(
        out,
        family,
        "_bucket",
        (labels, r#"le="+Inf""#),
        format_args!("{count}"),
    );
    line(out, family, "_count", (labels, ""), format_args!("{count}"));
    line(out, family, "_sum", (labels, ""), format_args!("{sum}"));
}

/// A number with a point, as OpenMetrics wants it of limits: `1.0`, `0.000016`.
fn seconds(ns: u64) -> String {
    format!("{:?}", ns as f64 / 1e9).replace("e-5", "e-05")
}

fn line(
    out: &mut Vec<u8>,
    family: &Family,
    end: &str,
    (labels, le): (&str, &str),
    number: std::fmt::Arguments<'_>,
) {
    let name = family.name;
    let comma = if labels.is_empty() || le.is_empty() {
        ""
    } else {
        ","
    };
    let _ = match labels.is_empty() && le.is_empty() {
        true => writeln!(out, "{PREFIX}{name}{end} {number}"),
        false => writeln!(out, "{PREFIX}{name}{end}{{{labels}{comma}{le}}} {number}"),
    };
}

/// Adds `name="value"` to labels.
pub(super) fn label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(name);
    labels.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            c if c.is_control() => labels.push(char::REPLACEMENT_CHARACTER),
            c => labels.push(c),
        }
    }
    labels.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::model::Is;
    use super::*;

    fn page() -> Page {
        let mut page = Page::default();
        page.add(Is::Opened, r#"outcome="refused""#.into(), 3);
        page.add_histogram(
            Is::Handshake,
            String::new(),
            Histogram {
                buckets: vec![(16_000, 1), (1_000_000_000, 2)],
                count: 2,
                sum_ns: 1_500_000_000,
            },
        );
        page.add(Is::Sockets, r#"state="LISTEN""#.into(), 2);
        page.add(Is::Build, r#"version="1""#.into(), 1);
        page
    }

    #[test]
    fn openmetrics() {
        let text = String::from_utf8(write(&page(), Format::OpenMetrics)).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("HELP")).collect();
        assert_eq!(
            lines,
            [
                "# TYPE tcptools_connections_opened counter",
                r#"tcptools_connections_opened_total{outcome="refused"} 3"#,
                "# TYPE tcptools_connect_duration_seconds histogram",
                "# UNIT tcptools_connect_duration_seconds seconds",
                r#"tcptools_connect_duration_seconds_bucket{le="1.6e-05"} 1"#,
                r#"tcptools_connect_duration_seconds_bucket{le="1.0"} 2"#,
                r#"tcptools_connect_duration_seconds_bucket{le="+Inf"} 2"#,
                "tcptools_connect_duration_seconds_count 2",
                "tcptools_connect_duration_seconds_sum 1.5",
                "# TYPE tcptools_sockets gauge",
                r#"tcptools_sockets{state="LISTEN"} 2"#,
                "# TYPE tcptools_build info",
                r#"tcptools_build_info{version="1"} 1"#,
                "# EOF",
            ]
        );
    }

    #[test]
    fn prometheus_text() {
        let text = String::from_utf8(write(&page(), Format::Text)).unwrap();
        for line in [
            "# TYPE tcptools_connections_opened_total counter",
            "# TYPE tcptools_build_info gauge",
            "# TYPE tcptools_connect_duration_seconds histogram",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    }

    #[test]
    fn foreign_text_ends_no_label() {
        let mut labels = String::new();
        label(&mut labels, "comm", "a\"b\\c\nd\u{1b}[0m");
        label(&mut labels, "lport", "80");
        assert_eq!(labels, "comm=\"a\\\"b\\\\c\\nd\u{fffd}[0m\",lport=\"80\"");
    }
}
