// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries of the systemd journal, in its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).
//!
//! Before they are sent, they lie one after another in a buffer, each behind its length: an entry may hold any byte.

use super::{Cells, Level};
use crate::output::Value;
use crate::output::digits::integer;

/// The bytes of a length.
const LENGTH: usize = size_of::<u32>();

/// The longest name of a field (`journal_field_valid()` of systemd).
const LONGEST_NAME: usize = 64;

/// `TCPTOOLS_RTT_US=` for `rtt_us`. A key of others' may have any byte.
pub fn before(key: &str) -> String {
    let mut name = String::from("TCPTOOLS_");
    name.extend(key.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    }));
    name.truncate(LONGEST_NAME);
    name.push('=');
    name
}

/// Room for the length.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; LENGTH]);
}

/// Adds the value of a field whose `NAME=` begins at `start`; takes the field back if there is none.
pub fn value(out: &mut Vec<u8>, start: usize, value: &Value<'_>) {
    let at = out.len();
    value.bare(out);
    match out.len() == at {
        true => out.truncate(start),
        false => close(out, at),
    }
}

/// Ends a field whose value begins at `at`. With a line feed in it, its length must be told.
fn close(out: &mut Vec<u8>, at: usize) {
    let has_line_feed = out.get(at..).is_some_and(|value| value.contains(&b'\n'));
    if has_line_feed {
        let value = out.split_off(at);
        out.pop(); // the equals sign
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend_from_slice(&value);
    }
    out.push(b'\n');
}

/// Adds a field, if there is a value.
fn field(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Vec<u8>) -> bool) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    let at = out.len();
    match write(out) {
        true => close(out, at),
        false => out.truncate(start),
    }
}

/// Adds what journalctl shows and finds: the priority, the process, its unit, and the message.
pub fn end(
    out: &mut Vec<u8>,
    start: usize,
    level: Level,
    cells: &dyn Cells,
    message: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(b"PRIORITY=");
    integer(out, level.priority().into());
    out.push(b'\n');
    if let Some(pid) = cells.number("pid") {
        out.extend_from_slice(b"OBJECT_PID=");
        integer(out, pid);
        out.push(b'\n');
    }
    field(out, "OBJECT_COMM=", |out| cells.write_name("comm", out));
    field(out, "OBJECT_SYSTEMD_UNIT=", |out| cells.write("unit", out));
    out.extend_from_slice(b"MESSAGE=");
    let at = out.len();
    message(out);
    close(out, at);
    seal(out, start);
}

/// Notes the length of the entry that begins at `start`.
fn seal(out: &mut [u8], start: usize) {
    let Some((length, entry)) = out.get_mut(start..).and_then(|e| e.split_first_chunk_mut()) else {
        return;
    };
    *length = (entry.len() as u32).to_le_bytes();
}

/// The first entry of a buffer, and the bytes that it takes there.
pub fn framed(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some((rest.get(..length)?, length.saturating_add(LENGTH)))
}

/// Makes an entry of these bytes, and of what is added to it.
pub fn frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    begin(out);
    write(out);
    seal(out, start);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_feed_in_a_value_does_not_begin_a_field() {
        let mut out = Vec::new();
        frame(&mut out, |out| {
            for value in [&b"a\nMESSAGE=b"[..], b"", b"\xff\0="] {
                out.extend_from_slice(b"NAME=");
                let at = out.len();
                out.extend_from_slice(value);
                close(out, at);
            }
        });
        let expected = b"NAME\n\x0b\0\0\0\0\0\0\0a\nMESSAGE=b\nNAME=\nNAME=\xff\0=\n";
        assert_eq!(framed(&out), Some((&expected[..], expected.len() + 4)));
    }

    #[test]
    fn names_of_fields_are_names() {
        assert_eq!(before("rtt_us"), "TCPTOOLS_RTT_US=");
        assert_eq!(before("a=\nb\u{e4}"), "TCPTOOLS_A__B_=");
        assert_eq!(before(&"x".repeat(100)).len(), LONGEST_NAME + 1);
    }

    #[test]
    fn what_is_cut_is_no_entry() {
        assert_eq!(framed(b""), None);
        assert_eq!(framed(b"\x05\0\0\0abcd"), None);
        assert_eq!(framed(b"\xff\xff\xff\xffabcd"), None);
    }
}
