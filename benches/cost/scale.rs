// SPDX-License-Identifier: MIT OR Apache-2.0
//! How cost, memory and start-up grow with the number of open sockets and files.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::load::Load;
use crate::subject::Subject;
use crate::{one, programs, progress};

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
pub fn measure(most: usize, connections: usize) -> Result<()> {
    println!("## open sockets\n");
    println!(
        "| open sockets | ready ms | ready ms with --no-seed | ns per event | ns of an empty program | times the empty program |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    curve("sockets", most, |sockets| {
        let floor = one(&Subject::floor(), Load::Storm, connections)?;
        let seeded = one(&Subject::own("tcplife"), Load::Storm, connections)?;
        let unseeded = one(&Subject::own("tcplife --no-seed"), Load::Storm, 100)?;
        let [ns, floor] = [&seeded, &floor].map(|s| s.ns as f64 / s.events as f64);
        println!(
            "| {sockets} | {:.0} | {:.0} | {ns:.0} | {floor:.0} | {:.2} |",
            seeded.cost.startup_ms,
            unseeded.cost.startup_ms,
            ns / floor
        );
        Ok(())
    })?;
    println!("\n## open files that are no sockets\n");
    println!("| open files | ready ms | ready ms with --no-seed |");
    println!("| --- | --- | --- |");
    curve("files", most, |files| {
        let seeded = one(&Subject::own("tcplife"), Load::Storm, 100)?;
        let unseeded = one(&Subject::own("tcplife --no-seed"), Load::Storm, 100)?;
        let (seeded, unseeded) = (seeded.cost.startup_ms, unseeded.cost.startup_ms);
        println!("| {files} | {seeded:.0} | {unseeded:.0} |");
        Ok(())
    })?;
    memory(most.clamp(PER_PROCESS, 100_000))
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

/// The kernel's memory per socket, with a command that follows sockets and without.
fn memory(sockets: usize) -> Result<()> {
    let per_socket = |subject: Option<Subject>| -> Result<f64> {
        let mut running = subject.map(|s| s.start(&programs::ids())).transpose()?;
        let before = slab()?;
        let holders =
            (0..sockets / PER_PROCESS).map(|serial| Holder::new("sockets", PER_PROCESS, serial));
        let holders = holders.collect::<Result<Vec<_>>>()?;
        let more = slab()?.saturating_sub(before) as f64 / sockets as f64;
        drop(holders);
        running.as_mut().map(|r| r.stop()).transpose()?;
        Ok(more)
    };
    println!("\n## kernel memory per socket\n");
    println!("| subject | bytes per open socket |");
    println!("| --- | --- |");
    let bare = per_socket(None)?;
    println!("| nothing attached | {bare:.0} |");
    for tool in ["tcplife", "tcpstates", "tcpconnect", "tcpinfo"] {
        let more = per_socket(Some(Subject::own(tool)))? - bare;
        println!("| {tool} | {more:+.0} |");
    }
    Ok(())
}
