// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of the ring buffer, as every command takes and prints them.

use super::commands::{HANDLERS, TOOLS, kinds};
use super::written;
use crate::abi::types::{Record, head};
use crate::output::golden::Kinds;
use crate::output::{Column, Format, Rows, Style};
use crate::session::{Handler, Printer};

/// How the first byte of an input chooses a format.
fn style(byte: u8) -> Style {
    let format = match (byte & 3, byte >> 4 & 3) {
        (0 | 1, _) => Format::Table,
        (2, _) => Format::Csv,
        (_, 1) => Format::Otlp,
        (_, 2) => Format::Journal,
        _ => Format::Json,
    };
    Style {
        format,
        wide: byte & 3 == 1,
        header: true,
        time: byte & 4 != 0,
        timestamp: byte & 8 != 0,
        ..Style::default()
    }
}

/// The first byte chooses the format, the second the command; the rest are records, each as long as the command's. If the
/// format's highest bit is set, the last one keeps the bytes that it has.
pub fn records(bytes: &[u8]) {
    let [how, which, rest @ ..] = bytes else {
        return;
    };
    let style = style(*how);
    let which = usize::from(*which);
    match HANDLERS.get(which) {
        Some((_, handlers)) => {
            for (size, handler) in handlers(&style) {
                let text = run(handler, size, rest, how & 0x80 != 0);
                written::check(&text, style.format);
            }
        }
        None => print(&style, which - HANDLERS.len(), rest),
    }
}

/// A whole run of a command.
fn run(mut handler: Box<dyn Handler>, size: usize, bytes: &[u8], cut: bool) -> Vec<u8> {
    let mut text = Vec::new();
    handler.header(&mut text);
    text.extend(Printer::collect(|out| {
        for bytes in bytes.chunks(size) {
            let mut words = vec![0u64; size.div_ceil(8)];
            // SAFETY: the bytes of a vector of integers, which is borrowed as long as they are.
            let whole =
                unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size) };
            whole
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            let len = if cut { bytes.len() } else { size };
            handler.record(whole.get(..len).unwrap_or_default(), out);
            handler.tick(out);
            let _ = (handler.due(), handler.uncounted());
        }
        handler.finish(out);
    }));
    handler.summary(&mut text, &[]);
    text
}

/// Prints each kind of rows of a command.
struct Print<'b> {
    tool: &'static str,
    style: Style,
    bytes: &'b [u8],
}

/// Sums, and what commands look up, come to no handler as records: the bytes are their rows.
fn print(style: &Style, which: usize, bytes: &[u8]) {
    if let Some(tool) = TOOLS.get(which) {
        let style = style.clone();
        kinds(tool, Print { tool, style, bytes });
    }
}

impl Print<'_> {
    fn write<E: Record>(&self, event: &'static str, mut rows: Rows<E>, mend: impl Fn(&mut E)) {
        let mut text = Vec::new();
        rows.header(&mut text);
        for bytes in self.bytes.chunks(size_of::<E>()).take(4) {
            let mut body = record::<E>(bytes);
            mend(&mut body);
            rows.row(&mut text, event, &(&body).into());
        }
        written::check(&text, self.style.format);
    }
}

/// A record that begins with these bytes.
pub(crate) fn record<E: Record>(bytes: &[u8]) -> E {
    let mut whole = vec![0; size_of::<E>()];
    whole
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    // SAFETY: as many bytes as it has, and every bit pattern is a value of a record.
    unsafe { std::ptr::read_unaligned(whole.as_ptr().cast()) }
}

impl Kinds for Print<'_> {
    fn records<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let rows = Rows::new(self.tool, self.style.clone(), columns());
        self.write(event, rows.expect("columns"), mend);
        self
    }

    fn sums<E: Record>(
        self,
        event: &'static str,
        columns: impl Fn() -> Vec<Column<E>>,
        mend: impl Fn(&mut E),
    ) -> Self {
        let rows = Rows::sums(self.tool, self.style.clone(), columns());
        self.write(event, rows.expect("columns"), mend);
        self
    }

    /// Those are not made of bytes.
    fn lines<E>(self, _: &'static str, _: impl Fn() -> Vec<Column<E>>, _: &[(head, E)]) -> Self {
        self
    }
}
