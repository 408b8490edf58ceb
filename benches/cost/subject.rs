// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: nothing, the floor, our commands, and the peers that are installed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, OpenObject};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::{Load, reset_at_close};
use crate::programs;

tcptools::skeleton!("floor");

/// One thing to measure.
pub struct Subject {
    pub name: String,
    kind: Kind,
}

enum Kind {
    Nothing,
    /// Empty programs on these tracepoints.
    Floor(&'static [&'static str]),
    /// A command line; ours have a summary to read.
    Command(Vec<String>),
}

/// What the reader of a subject cost.
#[derive(Clone, Default)]
pub struct Cost {
    pub startup_ms: f64,
    pub rss_kb: u64,
    pub reader_ns: u64,
    pub rows: u64,
    pub lost: u64,
    pub binary_kb: u64,
}

const SET_STATE: &[&str] = &["inet_sock_set_state"];
const RESETS: &[&str] = &["tcp_send_reset", "tcp_receive_reset"];
const PROBE: &[&str] = &["tcp_probe"];
const RETRANSMIT: &[&str] = &["tcp_retransmit_skb"];

/// Everything that makes sense under a load. A command that is not there is told, not skipped in silence.
pub fn all(load: Load) -> Vec<Subject> {
    let (floors, ours, peers): (&[(&str, _)], &[&str], &[&str]) = match load {
        Load::Storm | Load::Flood => (
            &[("empty program, set_state", SET_STATE)],
            &["tcplife", "tcpstates", "tcpconnect", "tcpaccept", "tcpinfo"],
            &[
                "/usr/sbin/tcplife",
                "/usr/sbin/tcpstates",
                "/usr/sbin/tcpconnect",
                "tcplife-bpfcc",
                "bpftrace -e 'tracepoint:sock:inet_sock_set_state { printf(\"%d %s %d %d\\n\", pid, comm, args->oldstate, args->newstate); }'",
            ],
        ),
        Load::Reset => (
            &[("empty programs, resets", RESETS)],
            &["tcpreset", "tcplife"],
            &[
                "bpftrace -e 'tracepoint:tcp:tcp_receive_reset { printf(\"%d %s %d %d\\n\", pid, comm, args->sport, args->dport); }'",
            ],
        ),
        Load::Bulk => (
            &[
                ("empty program, tcp_probe", PROBE),
                ("empty program, retransmit", RETRANSMIT),
            ],
            &[
                "tcpretrans",
                "tcpprobe -L 1",
                "tcpprobe --interval 100",
                "tcprcvspace",
            ],
            &[
                "tcpretrans-bpfcc",
                "bpftrace -e 'tracepoint:tcp:tcp_probe { printf(\"%d %d %d\\n\", args->sport, args->snd_cwnd, args->srtt); }'",
            ],
        ),
    };
    let nothing = Subject {
        name: "nothing attached".into(),
        kind: Kind::Nothing,
    };
    let floors = floors.iter().map(|&(name, events)| Subject {
        name: name.into(),
        kind: Kind::Floor(events),
    });
    let own = ours.iter().map(|line| Subject::own(line));
    let peers = peers
        .iter()
        .map(|line| Subject::command(line, &|tool| tool.into()));
    std::iter::once(nothing)
        .chain(floors)
        .chain(own)
        .chain(peers)
        .collect()
}

/// Ours, as `bench.sh` has built them.
pub fn own_path(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/release")
        .join(tool)
}

/// Runs a command to its end.
pub fn command(argv: &[&str]) -> Result<()> {
    let status = Command::new(argv[0]).args(&argv[1..]).status();
    let status = status.with_context(|| format!("{argv:?}"))?;
    ensure!(status.success(), "{argv:?}: {status}");
    Ok(())
}

impl Subject {
    /// An empty program where most commands have theirs.
    pub fn floor() -> Self {
        Self {
            name: "empty program, set_state".into(),
            kind: Kind::Floor(SET_STATE),
        }
    }

    /// One of our commands, with its arguments.
    pub fn own(line: &str) -> Self {
        Self::command(line, &own_path)
    }

    /// `line` is split at blanks; what stands in quotes stays together.
    fn command(line: &str, path: &dyn Fn(&str) -> PathBuf) -> Self {
        let mut words = vec![];
        for (i, part) in line.split('\'').enumerate() {
            match i % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        let name = match words.iter().position(|w| w == "-e") {
            Some(e) => words[..e].join(" ") + " one-liner",
            None => words.join(" "),
        };
        words[0] = path(&words[0]).display().to_string();
        Self {
            name,
            kind: Kind::Command(words),
        }
    }

    pub fn is_baseline(&self) -> bool {
        !matches!(self.kind, Kind::Command(_))
    }

    /// Starts it, and returns when its programs see events.
    pub fn start(&self, before: &HashSet<u32>) -> Result<Running> {
        match &self.kind {
            Kind::Nothing => Ok(Running::Nothing),
            Kind::Floor(events) => Ok(Running::Floor(attach_floor(events)?)),
            Kind::Command(argv) => start_command(argv, before),
        }
    }
}

/// A subject at work.
pub enum Running {
    Nothing,
    Floor(Vec<Link>),
    Command(Box<Process>),
}

pub struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    cost: Cost,
    reader_ns_before: u64,
}

fn attach_floor(events: &[&str]) -> Result<Vec<Link>> {
    // Leaked: a few hundred bytes per round, and the links must not borrow from here.
    let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
    let mut open = bpf::FloorSkelBuilder::default().open(storage)?;
    let wanted = |name: &str| events.iter().any(|event| name == format!("floor_{event}"));
    for mut program in open.open_object_mut().progs_mut() {
        let load = wanted(&program.name().to_string_lossy());
        program.set_autoload(load);
    }
    let mut skel = open.load()?;
    let object = skel.object_mut();
    let loaded = object.progs_mut().filter(|p| p.autoload());
    Ok(loaded.map(|p| p.attach()).collect::<Result<_, _>>()?)
}

fn start_command(argv: &[String], before: &HashSet<u32>) -> Result<Running> {
    let (out, err) = (scratch("out"), scratch("err"));
    let is_ours = Path::new(&argv[0]).starts_with(own_path(""));
    let ready = is_ours.then(|| scratch("ready"));
    let say_ready = ready
        .iter()
        .flat_map(|r| ["--ready-file".into(), r.clone()]);
    let begun = Instant::now();
    let child = Command::new(&argv[0])
        .args(&argv[1..])
        .args(say_ready)
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .spawn()
        .with_context(|| format!("{} is not installed", argv[0]))?;
    let mut process = Process {
        child,
        out,
        err,
        cost: Cost::default(),
        reader_ns_before: 0,
    };
    match ready {
        Some(ready) => process.await_file(&ready)?,
        None => process.await_programs(before)?,
    }
    process.cost.startup_ms = begun.elapsed().as_secs_f64() * 1e3;
    process.cost.binary_kb = fs::metadata(&argv[0]).map_or(0, |meta| meta.len() / 1024);
    process.reader_ns_before = process.cpu_ns();
    Ok(Running::Command(Box::new(process)))
}

pub fn scratch(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tcptools-bench.{}.{what}", std::process::id()))
}

impl Process {
    fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.err)?;
            let last = said.lines().last().unwrap_or_default();
            bail!("does not run here ({status}: {last})");
        }
        Ok(())
    }

    /// Until it says that it is ready: attached, and seeded.
    fn await_file(&mut self, ready: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            self.must_run()?;
            if fs::remove_file(ready).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        bail!("it does not become ready");
    }

    /// Until a program of it has run: small traffic, a reset included, shows when it is attached.
    fn await_programs(&mut self, before: &HashSet<u32>) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            self.must_run()?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            drop(listener.accept()?);
            reset_at_close(&client)?;
            drop(client);
            if programs::totals(&programs::since(before)).events > 0 {
                return Ok(());
            }
        }
        bail!("its programs see no event");
    }

    /// On-CPU time of all its threads (the first field of schedstat).
    fn cpu_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let of = |path: PathBuf| {
            let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            text.split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0)
        };
        tasks
            .into_iter()
            .flatten()
            .flatten()
            .map(|task| of(task.path()))
            .sum()
    }

    fn stop(&mut self) -> Result<Cost> {
        // What is still in the buffer belongs to the reader's work.
        std::thread::sleep(Duration::from_millis(300));
        self.cost.reader_ns = self.cpu_ns().saturating_sub(self.reader_ns_before);
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|kb| kb.trim().trim_end_matches(" kB").parse().ok());
        self.cost.rss_kb = peak.unwrap_or(0);
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT)?;
        // bpftrace has been seen to ignore the signal while it prints.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        self.cost.rows = BufReader::new(File::open(&self.out)?).lines().count() as u64;
        self.cost.lost = lost(&fs::read_to_string(&self.err)?);
        Ok(self.cost.clone())
    }
}

/// What a command said that it lost: ours the sum so far, peers a number each time.
fn lost(said: &str) -> u64 {
    let said = said.to_lowercase();
    let (mut all, mut sum) = (0, 0);
    for line in said.lines().filter(|line| line.contains("lost")) {
        let mut words = line.split(|c: char| !c.is_ascii_digit());
        let number: u64 = words.find_map(|w| w.parse().ok()).unwrap_or(1);
        match line.contains("so far") {
            true => all = number,
            false => sum += number,
        }
    }
    all + sum
}

impl Drop for Process {
    fn drop(&mut self) {
        // Over already, unless it never became ready.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.out);
        let _ = fs::remove_file(&self.err);
    }
}

impl Running {
    pub fn stop(&mut self) -> Result<Cost> {
        match self {
            Self::Nothing => Ok(Cost::default()),
            Self::Floor(links) => {
                links.clear();
                Ok(Cost::default())
            }
            Self::Command(process) => process.stop(),
        }
    }
}
