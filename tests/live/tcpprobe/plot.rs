// SPDX-License-Identifier: MIT OR Apache-2.0
//! The picture of a transfer with loss: well-formed SVG with the right lines and marks, inside of its axes.

use std::fs;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::scene::{HOSTS, Scene, of};
use crate::{
    scratch::Scratch,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpprobe::plot::time_outs", time_outs),
        trial("tcpprobe::plot::random_loss", random_loss),
        trial("tcpprobe::plot::terminal", terminal),
    ]
}

/// An element: its name and attributes; a text's content is the attribute `text`.
struct Element<'a> {
    name: &'a str,
    body: &'a str,
}

impl Element<'_> {
    fn attribute(&self, name: &str) -> Option<&str> {
        let from = self.body.find(&format!(" {name}=\""))? + name.len() + 3;
        self.body[from..].split('"').next()
    }

    fn points(&self) -> Vec<(f64, f64)> {
        let pair = |text: &str| {
            let (x, y) = text.split_once(',')?;
            Some((x.parse().ok()?, y.parse().ok()?))
        };
        let points = self.attribute("points").unwrap_or_default();
        points.split_whitespace().filter_map(pair).collect()
    }
}

/// Every tag of a document whose tags are balanced.
fn elements(svg: &str) -> Result<Vec<Element<'_>>> {
    let (mut open, mut found) = (Vec::new(), Vec::new());
    for part in svg.split('<').skip(1) {
        let (tag, _) = part.split_once('>').context("a tag that does not end")?;
        if let Some(name) = tag.strip_prefix('/') {
            ensure!(open.pop() == Some(name), "</{name}> closes another");
            continue;
        }
        let name = tag
            .split_whitespace()
            .next()
            .context("a tag without a name")?;
        if !tag.ends_with('/') {
            open.push(name);
        }
        found.push(Element { name, body: part });
    }
    ensure!(
        open.is_empty() && found.first().is_some_and(|e| e.name == "svg"),
        "{open:?}"
    );
    Ok(found)
}

const CWND: &str = "#005AB5";
const SRTT: &str = "#00785A";

/// Lines of this colour.
fn lines(all: &[Element<'_>], colour: &str) -> Vec<Vec<(f64, f64)>> {
    let of_colour =
        |e: &&Element<'_>| e.name == "polyline" && e.attribute("stroke") == Some(colour);
    all.iter().filter(of_colour).map(Element::points).collect()
}

/// Each line of each connection is there, and between the axes; each has a sign in the legend, which is a line too.
fn check_lines(all: &[Element<'_>], flows: usize) -> Result<()> {
    for colour in [CWND, SRTT] {
        let lines = lines(all, colour);
        ensure!(
            lines.len() == 2 * flows && lines.iter().all(|line| line.len() > 1),
            "{} lines of {colour}, not twice {flows}",
            lines.len()
        );
        let inside = |&(x, y): &(f64, f64)| {
            (84.0..=970.0).contains(&x) && (80.0..580.0 * flows as f64).contains(&y)
        };
        ensure!(
            lines.iter().flatten().all(inside),
            "points beyond the axes: {lines:?}"
        );
    }
    Ok(())
}

/// What belongs to the client of this server's port: all between its title and the next one's legend.
fn block(svg: &str, port: u64) -> Option<&str> {
    let remote = format!(":{port} · ");
    let (start, _) = svg.match_indices("→ ").find(|&(at, _)| {
        let end = svg[at..].find(&remote);
        end.is_some_and(|end| end < 40)
    })?;
    let rest = &svg[start + 3..];
    Some(rest.find("→ ").map_or(rest, |end| &rest[..end]))
}

/// The number before a word of the summary line: `3` of `3 RTOs`.
fn counted(svg: &str, word: &str) -> Result<u64> {
    let (before, _) = svg.split_once(word).with_context(|| format!("no {word}"))?;
    let digits = before
        .trim_end()
        .rsplit(|c: char| !c.is_ascii_digit())
        .next();
    digits
        .context("a number")?
        .parse()
        .with_context(|| word.to_owned())
}

/// Nothing arrives until the timer has fired twice: as many time-outs as the kernel counted, and all on one connection.
fn time_outs() -> Result<()> {
    let mut scene = Scene::new()?;
    let talks = [scene.connect(HOSTS[0])?, scene.connect(HOSTS[1])?];
    let file = Scratch::path("plot.svg");
    fs::write(&*file, "x".repeat(1 << 20))?;
    let tool = scene.watch(&["--plot", file.text()])?;
    let before = scene.net.a.counters()?;
    for talk in talks {
        scene.exchange(talk, 100_000, 10_000)?;
    }
    let lossy = talks[1];
    scene.s.run(&format!("drop {}", lossy.s))?;
    scene.c.run(&format!("send {} 5000", lossy.c))?;
    wait::until("two time-outs", PATIENCE, || {
        let now = scene.net.a.counters()?["TcpExt.TCPTimeouts"];
        Ok((now >= before["TcpExt.TCPTimeouts"] + 2).then_some(()))
    })?;
    scene.s.run(&format!("undrop {}", lossy.s))?;
    scene.s.run(&format!("recv {} 5000", lossy.s))?;
    scene.exchange(lossy, 100_000, 10_000)?;
    let after = scene.net.a.counters()?;
    let gained = |name: &str| after[name] - before[name];
    let rows = tool.stop()?.rows()?;

    let svg = fs::read_to_string(&*file)?;
    let all = elements(&svg)?;
    check_lines(&all, 4)?;
    ensure!(svg.matches("window (segments)").count() == 4 && svg.matches("srtt (").count() == 4);
    // On a loaded machine the other client may meet a time-out, too.
    let blocks = talks.map(|talk| block(&svg, talk.port));
    let sum = |word| -> Result<u64> {
        blocks
            .iter()
            .flatten()
            .map(|block| counted(block, word))
            .sum()
    };
    let shown = (sum(" RTO")?, sum(" segment")?);
    let counted_by_kernel = (gained("TcpExt.TCPTimeouts"), gained("Tcp.RetransSegs"));
    ensure!(
        shown == counted_by_kernel,
        "{shown:?}, not {counted_by_kernel:?}"
    );
    let block = block(&svg, lossy.port).context("no title")?;
    ensure!(block.contains("RTO: timer fired"), "no mark");
    let samples = of(&rows, lossy.c_cookie).len() as u64;
    ensure!(counted(block, " samples")? == samples, "{samples} rows");
    ensure!(svg.contains("seconds since 2") && svg.contains("4 of 4 connections"));
    Ok(())
}

/// What the firewall drops is marked; fast recovery no more often than the kernel counted it.
fn random_loss() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.net.a.ip("link set v0 gso_max_segs 1")?;
    let talk = scene.connect(HOSTS[0])?;
    scene.net.b.nft(&format!(
        "table inet loss {{\n chain in {{\n type filter hook input priority 0;\n tcp dport {} numgen inc mod 100 == 50 drop\n }}\n}}\n",
        talk.port
    ))?;
    let file = Scratch::path("plot.svg");
    let tool = scene.watch(&["--plot", file.text(), "-D", &talk.port.to_string()])?;
    scene.exchange(talk, 3_000_000, 1)?;
    let counters = scene.net.a.counters()?;
    tool.stop()?.rows()?;
    let svg = fs::read_to_string(&*file)?;
    check_lines(&elements(&svg)?, 1)?;
    let again = counted(&svg, " segment")?;
    ensure!(
        again == counters["Tcp.RetransSegs"] && again > 10,
        "{again} sent again"
    );
    let recoveries = counted(&svg, " fast recover")?;
    let entered = counters["TcpExt.TCPSackRecovery"] + counters["TcpExt.TCPRenoRecovery"];
    ensure!(
        (1..=entered).contains(&recoveries),
        "{recoveries} of {entered} recoveries"
    );
    ensure!(svg.matches("loss: fast recovery").count() == 1);
    let marks = elements(&svg)?
        .iter()
        .filter(|e| e.name == "polygon" && e.attribute("fill") == Some("#E67800"))
        .count() as u64;
    ensure!(
        marks == recoveries + 1,
        "{marks} triangles, one of them in the legend"
    );
    Ok(())
}

fn terminal() -> Result<()> {
    let mut scene = Scene::new()?;
    let talk = scene.connect(HOSTS[0])?;
    let inodes = scene.net.inodes();
    let live = ["--live", "-i", "1h", "--netns", &inodes];
    let watch = |args: &[&str]| crate::tool::Tool::start("tcpprobe", &[&live, args].concat());
    let (tool, all, one) = (
        watch(&[])?,
        watch(&["--top", "0"])?,
        watch(&["--top", "1"])?,
    );
    scene.exchange(talk, 100_000, 100_000)?;
    let run = tool.stop()?;
    ensure!(
        run.status.success() && run.lines.len() == 6,
        "{:?}",
        run.lines
    );
    ensure!(!run.stderr.contains("not shown"), "{}", run.stderr);
    let (all, one) = (all.stop()?, one.stop()?);
    ensure!(all.lines.len() == 6 && one.lines.len() == 3, "{one:?}");
    let told = "tcpprobe: 1 more connection not shown (--top 1); --top 0 shows all";
    ensure!(one.stderr.lines().any(|line| line == told), "{one:?}");
    for (line, word) in run
        .lines
        .iter()
        .zip(["10.9.0.", "  cwnd ", "  srtt "].iter().cycle())
    {
        ensure!(line.starts_with(word), "{line}");
    }
    Ok(())
}
