// SPDX-License-Identifier: MIT OR Apache-2.0
//! OTLP/JSON of every kind of rows, as the published definitions take it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::commands::{TOOLS, kinds};
use super::records::record;
use crate::abi::known::KNOWN_ALL;
use crate::abi::types::{Record, head};
use crate::output::golden::{Kinds, heads};
use crate::output::{Column, Format, Row, Rows, Style};

/// Lines of records.
struct Lines {
    tool: &'static str,
    out: Vec<u8>,
}

impl Lines {
    fn add<E>(&mut self, event: &str, all: &[(head, E)], rows: impl FnOnce(Style) -> Rows<E>) {
        let mut rows = rows(Style {
            format: Format::Otlp,
            ..Style::default()
        });
        for (head, body) in all {
            rows.row(&mut self.out, event, &Row { head, body });
        }
        rows.summary(&mut self.out, &[("events", Some(1)), ("skipped", None)]);
    }
}

/// Bodies with small and with large numbers, of sockets of which all is known, and nothing.
fn made<E: Record>(mend: impl Fn(&mut E)) -> Vec<(head, E)> {
    let bytes = [0, 1, 0x41, 0xff];
    let all = bytes.into_iter().zip(heads().into_iter().cycle());
    let made = all.map(|(byte, mut head)| {
        let mut body: E = record(&vec![byte; size_of::<E>()]);
        mend(&mut body);
        head.known = if byte == 0 { 0 } else { KNOWN_ALL };
        (head, body.with_head(&head))
    });
    made.collect()
}

impl Kinds for Lines {
    fn records<E: Record>(
        mut self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let tool = self.tool;
        self.add(event, &made(mend), |style| {
            Rows::new(tool, style, columns()).expect("columns")
        });
        self
    }

    fn sums<E: Record>(
        mut self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let tool = self.tool;
        self.add(event, &made(mend), |style| {
            Rows::sums(tool, style, columns()).expect("columns")
        });
        self
    }

    fn lines<E>(
        mut self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        all: &[(head, E)],
    ) -> Self {
        let tool = self.tool;
        self.add(event, all, |style| {
            Rows::sums(tool, style, columns()).expect("columns")
        });
        self
    }
}

/// By the published `logs.proto`: each line is a `LogsData` message, and says the same when it is written again. A field
/// that the definitions do not have, or that is of another type, is an error to the parser.
const SCRIPT: &str = r#"
import json, sys
try:
    from google.protobuf import json_format
    from opentelemetry.proto.logs.v1 import logs_pb2
except ImportError:
    sys.exit(77)
count = 0
for line in sys.stdin:
    message = json_format.Parse(line, logs_pb2.LogsData())
    [resource] = message.resource_logs
    [scope] = resource.scope_logs
    [record] = scope.log_records
    assert record.time_unix_nano > 0 and record.observed_time_unix_nano > 0, line
    assert record.event_name.startswith('tcp') or record.event_name.startswith('sockbuf'), line
    assert logs_pb2.SeverityNumber.Name(record.severity_number), line
    assert record.body.string_value, line
    assert all(one.key and one.value.WhichOneof('value') for one in record.attributes), line
    assert json.loads(json_format.MessageToJson(message, use_integers_for_enums=True)) == json.loads(line.replace('{"values":[]}', '{}')), line
    count += 1
assert count > 100, count
"#;

/// `opentelemetry-proto` of PyPI has them compiled for Python; scripts/setup.sh fetches it. Without, it says so.
#[test]
#[allow(clippy::print_stderr)] // a test that did not run is named
fn otlp_is_valid_for_others() {
    let mut lines = Vec::new();
    for tool in TOOLS {
        let out = Vec::new();
        lines.extend(kinds(tool, Lines { tool, out }).out);
    }
    let target = std::env::var("CARGO_TARGET_DIR");
    let target = target.unwrap_or_else(|_| format!("{}/target", env!("CARGO_MANIFEST_DIR")));
    let child = Command::new("python3")
        .args(["-c", SCRIPT])
        .env("PYTHONPATH", format!("{target}/python"))
        .stdin(Stdio::piped())
        .spawn();
    let status = child.and_then(|mut child| {
        // One that ends at once does not read.
        let _ = child.stdin.take().map(|mut pipe| pipe.write_all(&lines));
        child.wait()
    });
    match status.ok().and_then(|status| status.code()) {
        Some(0) => {}
        None | Some(77) => eprintln!("NOT RUN: the Python package opentelemetry-proto is missing"),
        Some(code) => panic!("opentelemetry-proto refuses a line: {code}"),
    }
}
