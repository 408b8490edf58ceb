// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is coloured, and how. Colours are put around text that is laid out already, so they move nothing; and they only
//! repeat what the text says.

use std::ops::Range;

/// How text looks: as errors and warnings do elsewhere (`systemctl`, compilers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Something failed, was lost, or is full: red.
    Bad,
    /// Worth a look: yellow.
    Odd,
}

/// Ends what a tone begins.
const RESET: &[u8] = b"\x1b[0m";

impl Tone {
    /// Select Graphic Rendition (ECMA-48).
    fn begin(self) -> &'static [u8] {
        match self {
            Self::Bad => b"\x1b[1;31m",
            Self::Odd => b"\x1b[33m",
        }
    }
}

use Tone::{Bad, Odd};

/// When a cell has a tone.
#[derive(Debug)]
enum Rule {
    /// It is, or has, one of these words.
    Words(Tone, &'static [&'static str]),
    /// It is a number above zero.
    Positive(Tone),
    /// It is a number above zero, and not less than that in the column with this heading.
    Reaches(Tone, &'static str),
}

/// By the heading of the column.
const RULES: &[(&str, Rule)] = &[
    // tcplife: how a session ended.
    ("E", Rule::Words(Bad, &["R", "r", "x", "t", "u", "A"])),
    ("CLOSE_REASON", Rule::Words(Bad, ENDINGS)),
    // tcpconnect
    ("OUTCOME", Rule::Words(Bad, ENDINGS)),
    ("OUTCOME", Rule::Words(Odd, &["pending"])),
    // tcpretrans
    ("KIND", Rule::Words(Bad, &["RTO"])),
    ("KIND", Rule::Words(Odd, &["SYN", "SYNACK"])),
    ("T>", Rule::Words(Bad, &["R!", "L!", "?!"])),
    ("HERE", Rule::Words(Bad, &["true"])),
    ("HINT", Rule::Words(Bad, &["accept_queue_full"])),
    // tcpaccept
    (
        "VERDICT",
        Rule::Words(Bad, &["full", "dropping", "not accepting"]),
    ),
    ("VERDICT", Rule::Words(Odd, &["SYN cookies"])),
    ("QLEN", Rule::Reaches(Bad, "QMAX")),
    ("QHIGH", Rule::Reaches(Bad, "QMAX")),
    ("DROPS", Rule::Positive(Bad)),
    ("DROP/S", Rule::Positive(Bad)),
    // tcpcong, tcpprobe
    ("NEW", Rule::Words(Bad, &["loss"])),
    ("NEW", Rule::Words(Odd, &["recovery"])),
    ("CA_STATE", Rule::Words(Bad, &["loss"])),
    ("CA_STATE", Rule::Words(Odd, &["recovery"])),
    ("S", Rule::Words(Bad, &["L"])),
    ("S", Rule::Words(Odd, &["R"])),
    // tcpdrop: queues and memory that were full.
    ("REASON", Rule::Words(Bad, FULL)),
    // tcptop, sockbuf
    ("WHY", Rule::Words(Bad, STUCK)),
    ("WHY", Rule::Words(Odd, WAITING)),
    // What was sent again.
    ("RETR", Rule::Positive(Odd)),
    ("RETRANS", Rule::Positive(Odd)),
];

const ENDINGS: &[&str] = &[
    "rst_sent",
    "rst_received",
    "refused",
    "reset",
    "timeout",
    "unreachable",
    "aborted",
    "no_port",
];
/// `include/net/dropreason-core.h`
const FULL: &[&str] = &[
    "SOCKET_RCVBUFF",
    "SOCKET_BACKLOG",
    "PROTO_MEM",
    "QDISC_DROP",
    "QDISC_OVERLIMIT",
    "CPU_BACKLOG",
    "FULL_RING",
    "NOMEM",
];
const STUCK: &[&str] = &[
    "no_ack",
    "retransmitting",
    "zero_window",
    "unaccepted",
    "mem_max",
    "memcg",
];
const WAITING: &[&str] = &["unread", "close_wait", "no_answer", "unanswered"];

impl Rule {
    /// `other`: the cell that [`Rule::Reaches`] names.
    fn tone(&self, cell: &[u8], other: &[u8]) -> Option<Tone> {
        let number = |cell: &[u8]| std::str::from_utf8(cell).ok()?.parse::<f64>().ok();
        match *self {
            Self::Words(tone, words) => {
                let has = |word: &&str| {
                    let word = word.as_bytes();
                    cell == word || cell.split(|byte| *byte == b' ').any(|one| one == word)
                };
                words.iter().any(has).then_some(tone)
            }
            Self::Positive(tone) => {
                // `<.001` is more than nothing.
                let some = cell.starts_with(b"<") || number(cell).is_some_and(|n| n > 0.0);
                some.then_some(tone)
            }
            Self::Reaches(tone, _) => {
                let (is, most) = (number(cell)?, number(other)?);
                (is > 0.0 && is >= most).then_some(tone)
            }
        }
    }
}

/// The rules for a column of this table, the first of which that holds counts.
#[derive(Debug)]
struct Ruled {
    column: usize,
    /// Each with the column that it compares with.
    rules: Vec<(&'static Rule, Option<usize>)>,
}

/// Colours the cells of rows.
#[derive(Debug, Default)]
pub struct Tones {
    ruled: Vec<Ruled>,
    /// Where the cells of the row are.
    cells: Vec<Range<usize>>,
}

impl Tones {
    /// For a table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        let other = |rule: &Rule| match rule {
            Rule::Reaches(_, name) => headings.iter().position(|heading| heading == name),
            _ => None,
        };
        let ruled = headings.iter().enumerate().map(|(column, heading)| {
            let of = RULES.iter().filter(|(name, _)| name == heading);
            let rules = of.map(|(_, rule)| (rule, other(rule))).collect();
            Ruled { column, rules }
        });
        Self {
            ruled: ruled.filter(|one| !one.rules.is_empty()).collect(),
            cells: Vec::with_capacity(headings.len()),
        }
    }

    /// A row begins.
    pub fn begin(&mut self) {
        self.cells.clear();
    }

    /// Its next cell is there.
    pub fn cell(&mut self, place: Range<usize>) {
        if !self.ruled.is_empty() {
            self.cells.push(place);
        }
    }

    /// The row is laid out: colours its cells.
    pub fn paint(&self, out: &mut Vec<u8>) {
        // From the last one: those before it stay where they are.
        for ruled in self.ruled.iter().rev() {
            let Some(place) = self.cells.get(ruled.column).cloned() else {
                continue;
            };
            let text = |place: &Range<usize>| out.get(place.clone()).unwrap_or_default();
            let tone = ruled.rules.iter().find_map(|(rule, other)| {
                let other = other.and_then(|other| self.cells.get(other));
                rule.tone(text(&place), other.map_or(&[], text))
            });
            if let Some(tone) = tone {
                out.splice(place.end..place.end, RESET.iter().copied());
                out.splice(place.start..place.start, tone.begin().iter().copied());
            }
        }
    }
}

/// A text of which `tone` colours a part of each line.
pub fn lines(text: &str, tone: impl Fn(&str) -> Option<(Range<usize>, Tone)>) -> String {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let begin = out.len();
        out.extend_from_slice(line.as_bytes());
        if let Some((part, tone)) = tone(line.trim_end_matches('\n')) {
            let (from, to) = (begin + part.start, begin + part.end);
            out.splice(to..to, RESET.iter().copied());
            out.splice(from..from, tone.begin().iter().copied());
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// One of these words, if it begins in this place of a line.
pub fn word_at(line: &str, at: usize, words: &[(&str, Tone)]) -> Option<(Range<usize>, Tone)> {
    let rest = line.get(at..)?;
    let word = rest.split(' ').next()?;
    let (_, tone) = words.iter().find(|(one, _)| *one == word)?;
    Some((at..at + word.len(), *tone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(headings: &[&str], cells: &[&str]) -> String {
        let (mut tones, mut out) = (Tones::new(headings), Vec::new());
        tones.begin();
        for cell in cells {
            let from = out.len() + 1;
            out.extend_from_slice(format!("|{cell}").as_bytes());
            tones.cell(from..out.len());
        }
        tones.paint(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_wrong_has_a_colour() {
        for (headings, cells, expected) in [
            (["COMM", "E"], ["r", "r"], "|r|\x1b[1;31mr\x1b[0m"),
            (["COMM", "E"], ["refused", "F"], "|refused|F"),
            (
                ["KIND", "OUTCOME"],
                ["SYN", "timeout"],
                "|\x1b[33mSYN\x1b[0m|\x1b[1;31mtimeout\x1b[0m",
            ),
            (
                ["WHY", "RETR"],
                ["zero_window unread", "0"],
                "|\x1b[1;31mzero_window unread\x1b[0m|0",
            ),
            (["WHY", "RETR"], ["idle", "7"], "|idle|\x1b[33m7\x1b[0m"),
            (
                ["VERDICT", "DROP/S"],
                ["not accepting", "<.001"],
                "|\x1b[1;31mnot accepting\x1b[0m|\x1b[1;31m<.001\x1b[0m",
            ),
            (["QLEN", "QMAX"], ["4", "5"], "|4|5"),
            (["QLEN", "QMAX"], ["5", "5"], "|\x1b[1;31m5\x1b[0m|5"),
            (["QLEN", "QMAX"], ["0", "0"], "|0|0"),
            (["QLEN", "QMAX"], ["-", "-"], "|-|-"),
        ] {
            assert_eq!(painted(&headings, &cells), expected);
        }
    }

    #[test]
    fn rules_need_their_cells() {
        // A row with fewer cells than the table has columns, and a table without the other column.
        assert_eq!(painted(&["PID", "E"], &["1"]), "|1");
        assert_eq!(painted(&["QLEN"], &["5"]), "|5");
    }

    #[test]
    fn words_of_lines_are_coloured_in_their_place() {
        let words = [("critical", Bad), ("NO", Bad)];
        let text = "critical  x\n  critical\nNOT\nNO\n";
        let out = lines(text, |line| word_at(line, 0, &words));
        let (red, end) = ("\x1b[1;31m", "\x1b[0m");
        let expected = format!("{red}critical{end}  x\n  critical\nNOT\n{red}NO{end}\n");
        assert_eq!(out, expected);
    }
}
