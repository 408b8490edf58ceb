// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recordings for a fuzzer (`src/fuzz/`).

use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use super::export::{trace::Trace, tracks::Tracks};
use super::feed::{Matching, Recording, Row};
use super::follow::story::{Form, Story};
use super::triage::{Engine, Limits, report};
use crate::cli::filter::Filter;
use crate::commands::tcptop::golden::replay;

/// A file of `--from`, packed or not: as `triage`, `follow`, `export` and tcptop read it.
pub fn recordings(bytes: &[u8]) {
    let rows = rows(bytes);
    let (mut engine, matching) = (Engine::new(Limits::default()), matching());
    let mut stories = [Form::Page, Form::Json].map(|form| Story::new(form, Duration::from_secs(1)));
    let mut tracks = Tracks::new(Trace::begin(Vec::new()).expect("memory"));
    let mut told = String::new();
    for row in &rows {
        engine.see(row);
        matching.passes(row);
        tracks.put(row).expect("memory");
        stories
            .iter_mut()
            .for_each(|story| story.tell(row, &mut told));
    }
    stories.iter_mut().for_each(|story| story.end(&mut told));
    tracks.end().expect("memory");
    let findings = engine.findings(10.0);
    let notes = [String::from_utf8_lossy(bytes).into_owned()];
    let page = report::text(&findings, &engine.seen, 10.0, &notes, false);
    let objects = report::text(&findings, &engine.seen, 10.0, &[], true);
    for text in [&page, &objects] {
        let strange = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(strange), "{text:?}");
    }
    for line in objects.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
    replay(|| open(bytes).ok(), &matching);
}

fn matching() -> Matching {
    Matching::of(&Filter::default()).expect("no filters")
}

fn open(bytes: &[u8]) -> anyhow::Result<Recording> {
    Recording::of(Cursor::new(bytes.to_vec()), Path::new("recording"))
}

/// What can be read of it.
fn rows(bytes: &[u8]) -> Vec<Row> {
    let Ok(mut recording) = open(bytes) else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    while let Ok(Some(row)) = recording.next() {
        rows.push(row);
    }
    let _ = (recording.looked(), recording.notes());
    rows
}
