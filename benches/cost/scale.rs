// SPDX-License-Identifier: MIT OR Apache-2.0
//! How cost, memory and start-up grow with the number of open sockets and files.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Plan;
use crate::fdinfo::enable_stats;
use crate::load::Load;
use crate::report::{head, median, number, progress, row};
use crate::subject::{Sample, Subject};

/// Sockets, or files, that one process holds: an unprivileged one may have that many on most hosts.
const PER_PROCESS: usize = 10_000;
/// Points of the curves, as far as they go.
const POINTS: [usize; 7] = [0, 1_000, 10_000, 100_000, 300_000, 600_000, 1_000_000];

/// A process that holds open sockets or files until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(what: &str, number: usize, serial: usize) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["hold", what, &number.to_string(), &serial.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let holder = Self(child);
        match line.is_empty() {
            true => bail!("no more than that can be open here"),
            false => Ok(holder),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's half: `sockets|files NUMBER SERIAL`, says when they are open, and goes when its parent does.
pub fn hold(args: &[String]) -> Result<()> {
    let [what, number, serial] = args else {
        bail!("hold sockets|files NUMBER SERIAL");
    };
    let (number, serial): (usize, usize) = (number.parse()?, serial.parse()?);
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let (mut sockets, mut files) = (vec![], vec![]);
    if what == "sockets" {
        // An address of its own: the ports of one are not enough for all.
        let listener = TcpListener::bind(format!("127.1.{}.{}:0", serial / 250, serial % 250 + 1))?;
        for _ in 0..number / 2 {
            let client = TcpStream::connect(listener.local_addr()?)?;
            sockets.push((client, listener.accept()?.0));
        }
    } else {
        let open = (0..number).map(|_| File::open("/dev/null"));
        files = open.collect::<Result<Vec<_>, _>>()?;
    }
    println!("{}", sockets.len() * 2 + files.len());
    std::io::stdout().flush()?;
    let _ = std::io::stdin().read_line(&mut String::new());
    Ok(())
}

/// Kernel memory for small objects, in bytes: sockets' state lies there.
fn slab() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kb = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kb = kb.and_then(|kb| kb.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kb.context("no Slab in /proc/meminfo")? * 1024)
}

/// Prints the curves: `most` is their last point.
pub fn measure(plan: &Plan, most: usize) -> Result<()> {
    let tool = plan.only.as_deref().unwrap_or("tcplife");
    let connections = plan.connections.unwrap_or(20_000);
    let rounds = plan.rounds.unwrap_or(3);
    let earlier = plan.against.as_deref();
    let subject = |line: &str| {
        let earlier = earlier.map(|folder| Subject::earlier(line, folder));
        [Subject::own(line)].into_iter().chain(earlier)
    };
    let (scanning, not): (Vec<_>, Vec<_>) = (
        subject(tool).collect(),
        subject(&format!("{tool} --no-scan")).collect(),
    );
    head(
        &format!("Open sockets: {rounds} rounds of {connections} connections beside them"),
        &[
            "command",
            "open sockets",
            "ready ms",
            "with --no-scan",
            "ns per connection",
            "of the empty program",
            "maps KB",
            "peak RSS KB",
        ],
    );
    let stats = enable_stats()?;
    curve("sockets", most, |sockets| {
        point(sockets, rounds, connections, &scanning, &not)
    })?;
    drop(stats);
    println!();
    head(
        "Open files that are no sockets",
        &["command", "open files", "ready ms", "with --no-scan"],
    );
    curve("files", most, |files| {
        for (scanning, not) in scanning.iter().zip(&not) {
            let [ready, without] = [ready(scanning, rounds)?, ready(not, rounds)?];
            let cells = [
                scanning.name.clone(),
                files.to_string(),
                number(ready, 0),
                number(without, 0),
            ];
            row(&cells);
        }
        Ok(())
    })?;
    memory(&scanning, most.clamp(PER_PROCESS, 100_000))
}

/// Median ms until it is ready.
fn ready(subject: &Subject, rounds: usize) -> Result<f64> {
    let once = || Ok(subject.sample(Load::Storm, 10)?.cost.ready_ms);
    let all: Result<Vec<_>> = (0..rounds).map(|_| once()).collect();
    Ok(median(all?))
}

/// One number of sockets: a row per command.
fn point(
    sockets: usize,
    rounds: usize,
    connections: usize,
    scanning: &[Subject],
    not: &[Subject],
) -> Result<()> {
    let empty = Subject::set_state();
    let mut samples: Vec<Vec<(Sample, f64)>> = scanning.iter().map(|_| vec![]).collect();
    let per_connection = |s: &Sample| s.spent.ns as f64 / s.units as f64;
    for round in 1..=rounds {
        for (subject, samples) in scanning.iter().zip(&mut samples) {
            progress(&format!("{sockets} sockets, {round}/{rounds}"));
            let least = per_connection(&empty.sample(Load::Storm, connections)?);
            let sample = subject.sample(Load::Storm, connections)?;
            let multiple = per_connection(&sample) / least;
            samples.push((sample, multiple));
        }
    }
    progress("");
    for ((subject, not), samples) in scanning.iter().zip(not).zip(&samples) {
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(|(s, _)| value(s)));
        row(&[
            subject.name.clone(),
            sockets.to_string(),
            number(of(|s| s.cost.ready_ms), 0),
            number(ready(not, rounds)?, 0),
            number(of(|s| s.spent.ns as f64 / s.units as f64), 0),
            number(median(samples.iter().map(|(_, multiple)| *multiple)), 2),
            number(of(|s| s.cost.map_kb as f64), 0),
            number(of(|s| s.cost.rss_kb as f64), 0),
        ]);
    }
    Ok(())
}

fn curve(what: &str, most: usize, mut point: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let (mut holders, mut open) = (vec![], 0);
    for number in POINTS.into_iter().filter(|&n| n <= most) {
        while open < number {
            let more = (number - open).min(PER_PROCESS);
            progress(&format!("{what}: {}", open + more));
            holders.push(Holder::new(what, more, holders.len())?);
            open += more;
        }
        progress("");
        point(number)?;
    }
    Ok(())
}

/// The kernel's memory per socket that is opened under a command, beside the socket itself.
fn memory(subjects: &[Subject], sockets: usize) -> Result<()> {
    let per_socket = |subject: &Subject| -> Result<f64> {
        let mut running = subject.start()?;
        let before = slab()?;
        let holders =
            (0..sockets / PER_PROCESS).map(|serial| Holder::new("sockets", PER_PROCESS, serial));
        let holders = holders.collect::<Result<Vec<_>>>()?;
        let more = slab()?.saturating_sub(before) as f64 / sockets as f64;
        drop(holders);
        running.stop()?;
        Ok(more)
    };
    println!();
    head(
        "Kernel memory of a socket, opened under a command (memory of the whole host)",
        &["command", "bytes per socket"],
    );
    for subject in [&Subject::nothing()].into_iter().chain(subjects) {
        row(&[subject.name.clone(), number(per_socket(subject)?, 0)]);
    }
    println!();
    Ok(())
}
