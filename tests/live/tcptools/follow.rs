// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcptools follow`: a connection whose path is cut, from its open to its reset.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    missing,
    net::Net,
    pair::filter,
    peer::Agent,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let one = |name: &str, host: &'static str| {
        trial(format!("front::follow_{name}"), move || {
            in_time(|| cut_path(host))
        })
    };
    vec![
        one("v4", "10.9.0.2:0"),
        one("v6", "[fd09::2]:0"),
        trial("front::follow_window", window),
        trial("front::follow_reader_leaves", reader_leaves),
    ]
}

/// A client and a server that talk, and what they are known by.
pub struct Talk {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
    pub at: String,
    listener: u64,
}

impl Talk {
    pub fn new(host: &str) -> Result<Self> {
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        let (listener, at) = s.listen(host)?;
        Ok(Self {
            net,
            c,
            s,
            at,
            listener,
        })
    }

    pub fn port(&self) -> &str {
        self.at.rsplit(':').next().unwrap_or_default()
    }

    /// Both descriptors of a new connection.
    pub fn connect(&mut self) -> Result<(u64, u64)> {
        let fd = self.c.open(&self.at)?;
        self.c.run(&format!("connect {fd} {}", self.at))?;
        let accepted = self.s.number(&format!("accept {}", self.listener))?;
        Ok((fd, accepted))
    }

    /// Three requests and answers, a fourth that is lost, and the client gives up; the cookie of its socket.
    pub fn cut_path(&mut self, seen: impl Fn(&str, u64, usize) -> Result<()>) -> Result<u64> {
        let (fd, accepted) = self.connect()?;
        let cookie = self.c.number(&format!("cookie {fd}"))?;
        for _ in 0..3 {
            self.c.run(&format!("send {fd} 1"))?;
            self.s.run(&format!("recv {accepted} 1"))?;
            self.s.run(&format!("send {accepted} 1"))?;
            self.c.run(&format!("recv {fd} 1"))?;
        }
        let rule = format!("tcp dport {} drop", self.port());
        filter(&self.net.b, "input", &rule)?;
        self.c.run(&format!("send {fd} 1"))?;
        seen("retransmit", cookie, 3)?;
        self.c.run(&format!("linger0 {fd}"))?;
        self.c.run(&format!("close {fd}"))?;
        seen("connection", cookie, 1)?;
        Ok(cookie)
    }
}

/// Waits for so many rows of a socket.
pub fn until_rows(tool: &Tool, event: &str, cookie: u64, count: usize) -> Result<()> {
    wait::until(&format!("{count} rows '{event}'"), PATIENCE, || {
        let rows = tool.seen()?;
        let is_it = |row: &&Value| row["event"] == event && row["cookie"] == cookie;
        Ok((rows.iter().filter(is_it).count() >= count).then_some(()))
    })
}

/// What must be in a story of `cut_path`, as its client has it, in this order.
pub fn is_whole(rows: &[Value], cookie: u64) -> Result<()> {
    let mine: Vec<_> = rows.iter().filter(|row| row["cookie"] == cookie).collect();
    let mut left = mine.iter();
    for (tool, key, value) in [
        ("tcpstates", "new_state", "SYN_SENT"),
        ("tcpstates", "new_state", "ESTABLISHED"),
        ("tcpprobe", "ca_state", "open"),
        ("tcpcong", "new_ca_state", "loss"),
        ("tcpretrans", "kind", "rto"),
        ("tcpstates", "new_state", "CLOSE"),
        ("tcpinfo", "state", "ESTABLISHED"),
    ] {
        let found = left.find(|row| row["tool"] == tool && row[key] == value);
        found.with_context(|| format!("no {tool} {value} in its place: {mine:#?}"))?;
    }
    let of = |tool: &'static str| mine.iter().filter(move |row| row["tool"] == tool);
    // Of the same moment as a change of the state: either may come first.
    let open = of("tcpconnect").next().context("no open")?;
    ensure!(open["outcome"] == "established", "{open}");
    let reset = of("tcpreset").next().context("no reset")?;
    ensure!(reset["direction"] == "sent", "{reset}");
    let end = of("tcplife").next().context("no end")?;
    ensure!(
        end["close_reason"] == "rst_sent" && end["tx_bytes"] == 3,
        "{end}"
    );
    Ok(())
}

/// The rows of a run, and that they are in the order of time.
pub fn in_order(lines: &[String]) -> Result<Vec<Value>> {
    let rows = lines.iter().map(|line| Ok(serde_json::from_str(line)?));
    let mut rows: Vec<Value> = rows.collect::<Result<_>>()?;
    let summary = rows.pop().context("nothing")?;
    ensure!(
        summary["event"] == "summary" && summary["events"] == rows.len(),
        "{summary}"
    );
    ensure!(
        summary["lost"] == 0 && summary["notes"] == Value::Array(vec![]),
        "{summary}"
    );
    let time = |row: &Value| row["boot_ns"].as_u64();
    ensure!(rows.is_sorted_by_key(time), "{LATE}: {rows:#?}");
    Ok(rows)
}

const LATE: &str = "a row came late";

/// Once more where a row came too late for its place, as on a host without processor time to spare
/// (docs/tcptools.md, CAVEATS).
pub fn in_time(test: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 0..4 {
        match test() {
            Err(error) if error.to_string().starts_with(LATE) => {}
            done => return done,
        }
    }
    test()
}

fn cut_path(host: &str) -> Result<()> {
    missing::needs_programs()?;
    missing::needs_cookies()?;
    let mut talk = Talk::new(host)?;
    let inodes = talk.net.inodes();
    let port = talk.port().to_owned();
    let tool = Tool::start(
        "tcptools",
        &["follow", "--json", "--netns", &inodes, "--port", &port],
    )?;
    let cookie = talk.cut_path(|event, cookie, count| until_rows(&tool, event, cookie, count))?;
    let run = tool.stop()?;
    ensure!(run.status.success(), "{run:?}");
    let rows = in_order(&run.lines)?;
    is_whole(&rows, cookie)?;
    let of = |tool: &'static str| rows.iter().filter(move |row| row["tool"] == tool);
    // The server's last answer may have lost its acknowledgement: its segments are of another counter.
    let client = of("tcpretrans").filter(|row| row["netns"] == talk.net.a.inode);
    let again: u64 = client.filter_map(|row| row["segs"].as_u64()).sum();
    let counter = talk.net.a.counters()?["Tcp.RetransSegs"];
    ensure!(again == counter, "{again} of {counter} retransmissions");
    let last = of("tcpinfo").find(|row| row["cookie"] == cookie);
    let total = last.and_then(|row| row["total_retrans"].as_u64());
    ensure!(total == Some(counter), "{last:?}");
    let accepted = of("tcpaccept").filter(|row| row["event"] == "accept");
    ensure!(accepted.count() == 1);
    Ok(())
}

/// The reader of a page sees that the window is shut, and that it is open again.
fn window() -> Result<()> {
    missing::needs_programs()?;
    let mut talk = Talk::new("10.9.0.2:0")?;
    let inodes = talk.net.inodes();
    let tool = Tool::start(
        "tcptools",
        &["follow", "--netns", &inodes, "-D", talk.port()],
    )?;
    let (fd, accepted) = talk.connect()?;
    talk.c.run(&format!("nonblock {fd}"))?;
    // Until both buffers are full.
    let full = talk.c.attempt(&format!("send {fd} 100000000"))?;
    ensure!(full.is_err(), "there was room for all");
    tool_says(&tool, "shut: the other end does not read")?;
    talk.s.begin(&format!("eof {accepted}"))?;
    tool_says(&tool, "open again")?;
    talk.c.run(&format!("linger0 {fd}"))?;
    talk.c.run(&format!("close {fd}"))?;
    tool_says(&tool, "rst_sent")?;
    let run = tool.stop()?;
    ensure!(run.status.success(), "{run:?}");
    let heading = run.lines.get(1).context("no heading")?;
    let server = format!("to {}", talk.at);
    ensure!(
        heading.starts_with("#1 client (pid ") && heading.contains(&server),
        "{heading}"
    );
    let long = run.lines.iter().find(|line| line.chars().count() > 80);
    ensure!(long.is_none(), "{long:?}");
    Ok(())
}

fn tool_says(tool: &Tool, text: &str) -> Result<()> {
    wait::until(&format!("'{text}'"), PATIENCE, || {
        Ok(tool.printed(text).then_some(()))
    })
}

/// It ends when nobody reads, also if nothing happens any more.
fn reader_leaves() -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let args = ["follow", "--netns", "self", "--port", "1"];
    let mut tool = Tool::with_stdout("tcptools", &args, writer.into())?;
    drop(reader);
    let status = wait::exit_of(&mut tool.child, PATIENCE)?;
    ensure!(status.success(), "{status}");
    Ok(())
}
