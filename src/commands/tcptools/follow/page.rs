// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stories for a person: a heading per connection, and its rows below it.

use std::fmt::Write;

use super::about::About;
use super::words;
use crate::commands::tcptools::feed::{Connection, Ends, Row};
use crate::commands::tcptools::fit;
use crate::output::escape;

/// Lines for a person.
pub struct Page<'a> {
    pub rows: &'a mut u64,
    /// The connection of the last line.
    pub last: &'a mut u64,
    pub out: &'a mut String,
}

impl Page<'_> {
    /// A row that waited for more.
    pub fn held(&mut self, one: &mut Connection<About>, row: &Row) {
        if let Some(said) = words::of(row) {
            self.row(one, row, &owner(row), None, said);
        }
    }

    /// `opened`: what became of the window, as this row says.
    pub fn row(
        &mut self,
        one: &mut Connection<About>,
        row: &Row,
        owner: &str,
        opened: Option<String>,
        (word, said): (&str, String),
    ) {
        if *self.rows == 0 {
            self.out.push_str(HEADER);
        }
        *self.rows += 1;
        let is_news = !owner.is_empty() && one.about.owner != owner;
        if is_news {
            one.about.owner = owner.to_owned();
        }
        if *self.last != one.number {
            heading(one, row, self.out);
        } else if is_news {
            line(one, row, "owner", owner, self.out);
        }
        *self.last = one.number;
        if let Some(text) = opened {
            line(one, row, "window", &text, self.out);
        }
        line(one, row, word, &said, self.out);
    }
}

/// `app (pid 7)`, or nothing.
pub fn owner(row: &Row) -> String {
    match (row.text("comm"), row.number("pid")) {
        (Some(comm), Some(pid)) => format!("{} (pid {pid})", escape::text(comm)),
        _ => String::new(),
    }
}

/// `10.0.0.1:80`, `[::1]:80`
fn end((addr, port): (std::net::IpAddr, u16)) -> String {
    std::net::SocketAddr::new(addr, port).to_string()
}

/// Who talks to whom.
pub fn title(ends: Option<Ends>, owner: &str) -> String {
    let text = match ends {
        None => owner.to_owned(),
        Some(ends) if ends.remote.1 == 0 => format!("{owner} on {}", end(ends.local)),
        Some(ends) => format!("{owner} {} to {}", end(ends.local), end(ends.remote)),
    };
    text.trim_start().to_owned()
}

const HEADER: &str = "  TIME (UTC)        SECONDS  EVENT       WHAT\n";

/// Where the word for what happened begins.
pub const WORD: usize = 29;

/// Where the last column begins.
const INDENT: usize = 41;

fn heading(one: &Connection<About>, row: &Row, out: &mut String) {
    let mut text = format!("#{} {}", one.number, title(one.ends, &one.about.owner));
    if let Some(name) = row.text("netns_name") {
        let _ = write!(text, ", netns {}", escape::text(name));
    }
    if let Some(cookie) = one.cookie {
        let _ = write!(text, ", cookie {cookie}");
    }
    let _ = writeln!(out, "{}", fit(&text, "   "));
}

fn line(one: &Connection<About>, row: &Row, word: &str, text: &str, out: &mut String) {
    // 2026-11-29T12:00:01.123456789Z
    let clock = row.text("ts").and_then(|ts| ts.get(11..23));
    let since = row.boot_ns() as f64 - one.first_ns as f64;
    let text = escape::text(text);
    let _ = writeln!(
        out,
        "  {:<12} {:>12.6}  {word:<11} {}",
        clock.unwrap_or_default(),
        since / 1e9,
        fit(&text, &" ".repeat(INDENT))
    );
}
