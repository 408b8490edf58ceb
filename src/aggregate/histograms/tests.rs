// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::aggregate::by::{By, Key};
use crate::aggregate::distribution::tests::of;
use crate::output::golden::heads;

fn hists(format: Format, keys: Option<Keys>, sample: bool) -> Hists {
    let style = Style {
        format,
        ..Style::default()
    };
    let unit = ("usecs", "us");
    let mut hists = Hists::new("tcpprobe", style, unit, keys, None).unwrap();
    if sample {
        hists.sample("rtt");
    }
    hists
}

#[test]
fn table_starts_at_first_value_and_marks_each() {
    let mut out = Vec::new();
    hists(Format::Table, None, false).bars(
        &mut out,
        0,
        &of((0..1000).map(|_| 70).chain([300_000])),
    );
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].trim_start().starts_with("64 -> 127"), "{text}");
    let last = lines.iter().rposition(|line| line.contains("->")).unwrap();
    assert!(lines[last].contains(": 1        |* "), "{text}");
    let figures = ", p50 68, p90 68, p99 68, max 300000";
    assert!(lines[last + 1].ends_with(figures), "{text}");
}

#[test]
fn json_and_csv_agree() {
    let (mut json, mut csv) = (Vec::new(), Vec::new());
    let shown = of([5, 5, 5, 900]);
    hists(Format::Json, None, true).json(&mut json, 0, &shown);
    hists(Format::Csv, None, true).csv(&mut csv, 0, &shown);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    for (key, value) in [
        ("p50_us", 5),
        ("p90_us", 900),
        ("max_us", 900),
        ("count", 4),
    ] {
        let actual = json[key].as_u64().unwrap();
        assert!(actual.abs_diff(value) * 16 <= value, "{key} is {actual}");
    }
    assert_eq!(json["sample"], "rtt");
    let csv = String::from_utf8(csv).unwrap();
    assert!(
        csv.lines().count() == 2 && csv.contains(",,4,7,3,5,"),
        "{csv}"
    );
    assert!(csv.lines().all(|line| line.ends_with(",900,rtt")), "{csv}");
}

#[test]
fn histogram_says_what_it_is_of() {
    let [_, curl, _] = heads();
    let keys = Keys::new(vec![Key::Shared(By::Comm), Key::Shared(By::Rport)]);
    let shown = Shown {
        group: keys.group(&curl, 0),
        ..of([5])
    };
    let hists = |format| hists(format, Some(keys.clone()), false);
    let (mut table, mut json, mut csv) = (Vec::new(), Vec::new(), Vec::new());
    hists(Format::Table).bars(&mut table, 0, &shown);
    hists(Format::Json).json(&mut json, 0, &shown);
    hists(Format::Csv).csv(&mut csv, 0, &shown);
    assert!(table.starts_with(b"comm = curl, rport = 443\n"));
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (&json["by"], &json["comm"], &json["rport"]),
        (&"comm,rport".into(), &"curl".into(), &443.into())
    );
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.contains(",\"comm,rport\",curl,443,4,7,1,"), "{csv}");
}
