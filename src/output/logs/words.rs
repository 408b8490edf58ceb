// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a record says, in words: for a story, a track, or a message of a log.

use std::io::Write;

use super::Cells;
use super::level::LOSSES;

/// The message of a log: who, to whom, and what. `sum`: of many sockets.
pub fn message(out: &mut Vec<u8>, (tool, event): (&str, &str), sum: bool, cells: &dyn Cells) {
    match (tool, event) {
        ("tcptools", "finding") => return finding(out, cells),
        (_, "summary") => return summary(out, cells),
        _ => {}
    }
    let start = out.len();
    if !sum {
        whose(out, cells);
    }
    if out.len() > start {
        out.extend_from_slice(b": ");
    }
    let at = out.len();
    out.extend_from_slice(event.as_bytes());
    let word = out.len();
    out.push(b' ');
    if let Some(what) = say(tool, event, cells, out) {
        drop(out.splice(at..word, what.bytes()));
        return;
    }
    out.truncate(word);
    out.extend_from_slice(b": ");
    let list = out.len();
    cells.list(out, sum);
    if out.len() == list {
        out.truncate(word);
    }
}

/// The end of a run, and what it did not show.
fn summary(out: &mut Vec<u8>, cells: &dyn Cells) {
    out.extend_from_slice(b"end of the run");
    for (key, what) in [("events", "row"), ("findings", "finding")] {
        if let Some(number) = cells.number(key) {
            let s = if number == 1 { "" } else { "s" };
            let _ = write!(out, ", {number} {what}{s}");
        }
    }
    for key in LOSSES {
        if let Some(number) = cells.number(key).filter(|n| *n > 0) {
            let _ = write!(out, ", {key} {number}");
        }
    }
}

/// As a page of triage has it.
fn finding(out: &mut Vec<u8>, cells: &dyn Cells) {
    cells.write("kind", out);
    out.extend_from_slice(b": ");
    if cells.write("about", out) {
        out.extend_from_slice(b": ");
    }
    cells.write("text", out);
}

/// `curl (pid 12) 192.0.2.1:4000 to 192.0.2.2:80`, as far as it is known.
fn whose(out: &mut Vec<u8>, cells: &dyn Cells) {
    let start = out.len();
    if cells.write("comm", out) {
        if let Some(pid) = cells.number("pid") {
            let _ = write!(out, " (pid {pid})");
        }
        out.push(b' ');
    }
    if end(out, cells, ("laddr", "lport")) {
        let at = out.len();
        out.extend_from_slice(b" to ");
        if !end(out, cells, ("raddr", "rport")) {
            out.truncate(at);
        }
    }
    while out.len() > start && out.last() == Some(&b' ') {
        out.pop();
    }
}

/// `192.0.2.1:80`, `[::1]:80`
fn end(out: &mut Vec<u8>, cells: &dyn Cells, (addr, port): (&str, &str)) -> bool {
    let start = out.len();
    out.push(b'[');
    if !cells.write(addr, out) {
        out.truncate(start);
        return false;
    }
    match out.get(start..).is_some_and(|text| text.contains(&b':')) {
        true => out.push(b']'),
        false => drop(out.remove(start)),
    }
    if let Some(port) = cells.number(port) {
        let _ = write!(out, ":{port}");
    }
    true
}

/// Adds what the row of a connection says; returns a word for what it is. `None`: it tells nothing about a connection.
pub fn say(tool: &str, event: &str, cells: &dyn Cells, out: &mut Vec<u8>) -> Option<&'static str> {
    let (word, say): (_, fn(&mut Said<'_>)) = match (tool, event) {
        ("tcpstates", "state_change") => ("state", state),
        ("tcpconnect", "connect") => ("open", open),
        ("tcpconnect", "pending") => ("open", pending),
        ("tcpaccept", "accept") => ("accept", accept),
        ("tcpretrans", "retransmit") => ("retransmit", retransmit),
        ("tcpreset", "reset") => ("reset", reset),
        ("tcpdrop", "drop") => ("drop", dropped),
        ("tcpprobe", "sample") | ("tcptop", "connection") => ("sample", sample),
        ("tcpcong", "ca_state_change" | "closed") => ("congestion", congestion),
        ("tcprcvspace", "adjust") => ("buffer", buffer),
        ("sockbuf", "rcvqueue_full") => ("buffer", |said| full(said, "rcvqueue_full")),
        ("sockbuf", "exceed_buf_limit") => ("buffer", |said| full(said, "exceed_buf_limit")),
        ("sockbuf", "udp_fail_queue_rcv") => ("buffer", |said| full(said, "udp_fail_queue_rcv")),
        ("tcptop", "stalled") => ("stalled", stalled),
        ("tcplat", "turn") => ("turn", turn),
        ("tcplife", "session") => ("end", ended),
        ("tcpinfo", "connection" | "attempt") => ("statistics", statistics),
        _ => return None,
    };
    let start = out.len();
    say(&mut Said { cells, out, start });
    Some(word)
}

/// `0.333 ms`, `12.3 ms`, `4.56 s`
pub fn time(us: u64) -> String {
    let mut out = Vec::new();
    add_time(&mut out, us);
    String::from_utf8_lossy(&out).into_owned()
}

fn add_time(out: &mut Vec<u8>, us: u64) {
    let _ = match us {
        0..10_000 => write!(out, "{:.3} ms", us as f64 / 1e3),
        10_000..1_000_000 => write!(out, "{:.1} ms", us as f64 / 1e3),
        _ => write!(out, "{:.2} s", us as f64 / 1e6),
    };
}

/// Parts of a sentence, of what is known.
struct Said<'s> {
    cells: &'s dyn Cells,
    out: &'s mut Vec<u8>,
    start: usize,
}

impl Said<'_> {
    /// Where the next part goes.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.out.len() > self.start {
            self.out.extend_from_slice(b", ");
        }
        self.out
    }

    fn word(&mut self, word: &str) {
        self.next().extend_from_slice(word.as_bytes());
    }

    /// A text, behind `before`, if it is known.
    fn text_after(&mut self, before: &str, key: &str) -> bool {
        let start = self.out.len();
        self.word(before);
        let known = self.cells.write(key, self.out);
        if !known {
            self.out.truncate(start);
        }
        known
    }

    fn text(&mut self, key: &str) {
        self.text_after("", key);
    }

    /// A text; `?` if it is not known.
    fn known(&mut self, key: &str) {
        if !self.text_after("", key) {
            self.word("?");
        }
    }

    /// `OLD -> NEW`
    fn change(&mut self, old: &str, (new, otherwise): (&str, &str)) {
        self.known(old);
        self.out.extend_from_slice(b" -> ");
        if !self.cells.write(new, self.out) {
            self.out.extend_from_slice(otherwise.as_bytes());
        }
    }

    fn some(&self, key: &str) -> Option<u64> {
        self.cells.number(key).filter(|n| *n > 0)
    }

    fn counted(&mut self, key: &str, what: &str, after: &str) {
        if let Some(number) = self.some(key) {
            let s = if number == 1 { "" } else { "s" };
            let _ = write!(self.next(), "{number} {what}{s}{after}");
        }
    }

    fn named(&mut self, key: &str, name: &str) {
        if let Some(number) = self.cells.number(key) {
            let _ = write!(self.next(), "{name} {number}");
        }
    }

    fn timed(&mut self, key: &str, name: &str) {
        if let Some(us) = self.cells.number(key) {
            let out = self.next();
            let _ = write!(out, "{name} ");
            add_time(out, us);
        }
    }
}

fn state(said: &mut Said<'_>) {
    said.change("old_state", ("new_state", "?"));
    said.timed("in_state_us", "after");
}

fn open(said: &mut Said<'_>) {
    said.known("outcome");
    opened(said);
}

fn pending(said: &mut Said<'_>) {
    said.word("no answer yet");
    opened(said);
}

fn opened(said: &mut Said<'_>) {
    said.timed("latency_us", "after");
    said.text("error");
    if let Some(again) = said.some("syn_retrans") {
        let times = again.saturating_add(1);
        let _ = write!(said.next(), "SYN sent {times} times");
    }
}

fn accept(said: &mut Said<'_>) {
    said.word("into the accept queue");
    let cells = said.cells;
    if let Some((queue, most)) = cells
        .number("accept_queue")
        .zip(cells.number("accept_queue_max"))
    {
        let _ = write!(said.next(), "{queue} of {most}");
    }
}

fn retransmit(said: &mut Said<'_>) {
    said.known("kind");
    said.text("tcp_flags");
    said.counted("len_bytes", "byte", "");
    if said.some("attempt").is_some() {
        said.named("attempt", "attempt");
    }
    said.timed("rto_us", "RTO");
    said.text("hint");
    said.text_after("failed: ", "error");
}

fn reset(said: &mut Said<'_>) {
    said.known("direction");
    said.text_after("in ", "state");
    said.text("reason");
    said.text("hint");
}

fn dropped(said: &mut Said<'_>) {
    said.known("direction");
    said.text("flags");
    said.counted("len_bytes", "byte", "");
    said.text("reason");
    said.text_after("at ", "where");
}

fn sample(said: &mut Said<'_>) {
    said.named("snd_cwnd", "cwnd");
    said.timed("srtt_us", "srtt");
    let number = |key| said.cells.number(key);
    let flight = number("in_flight_bytes").or_else(|| {
        let segments = number("packets_out")?;
        Some(segments.saturating_mul(number("mss")?))
    });
    if let Some(bytes) = flight {
        let _ = write!(said.next(), "in flight {bytes}");
    }
    said.named("snd_wnd_bytes", "window");
    if !said.cells.is("ca_state", "open") {
        said.text("ca_state");
    }
}

fn congestion(said: &mut Said<'_>) {
    said.change("old_ca_state", ("new_ca_state", "closed"));
    said.timed("in_state_us", "after");
    said.named("snd_cwnd", "cwnd");
}

fn buffer(said: &mut Said<'_>) {
    said.named("copied_bytes", "read");
    said.named("rcvbuf_bytes", "rcvbuf");
    said.named("rcv_wnd_bytes", "our window");
    said.text_after("growth ", "growth");
}

fn full(said: &mut Said<'_>, event: &str) {
    said.word(event);
    said.text("cause");
    said.named("used_bytes", "used");
    said.named("limit_bytes", "limit");
}

fn stalled(said: &mut Said<'_>) {
    said.known("why");
    let least = said.cells.flag("why_at_least") == Some(true);
    said.timed("why_us", if least { "for at least" } else { "for" });
    said.counted("wqueue_bytes", "byte", " not acknowledged");
    said.counted("rqueue_bytes", "byte", " not read");
}

fn turn(said: &mut Said<'_>) {
    let server = said.cells.is("role", "server");
    let what = if server {
        "answered after"
    } else {
        "answer came after"
    };
    match said.cells.number("turn_us") {
        Some(_) => said.timed("turn_us", what),
        None => {
            said.word(what);
            said.out.extend_from_slice(b" ?");
        }
    }
    said.text_after("mostly ", "where");
}

fn ended(said: &mut Said<'_>) {
    said.known("close_reason");
    said.timed("duration_us", "after");
    said.text("error");
    said.named("tx_bytes", "sent");
    said.named("rx_bytes", "received");
}

fn statistics(said: &mut Said<'_>) {
    let number = |key| said.cells.number(key);
    let again = number("total_retrans").unwrap_or_default();
    if let Some(sent) = number("data_segs_out").or_else(|| number("segs_out")) {
        let _ = write!(said.next(), "{sent} data segments, {again} sent again");
    }
    said.timed("min_rtt_us", "min RTT");
    said.timed("srtt_us", "srtt");
    said.timed("busy_time_us", "busy");
    for (key, name) in [
        ("rwnd_limited_us", "limited by the window for"),
        ("sndbuf_limited_us", "limited by the send buffer for"),
    ] {
        if said.some(key).is_some() {
            said.timed(key, name);
        }
    }
}
