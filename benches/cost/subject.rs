// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thing to measure: nothing, empty programs, a command.

use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, OpenObject};

use crate::fdinfo::{Bpf, Spent};
use crate::load::Load;
use crate::process::{Cost, Process};

tcptools::skeleton!("baseline");

pub struct Subject {
    pub name: String,
    pub kind: Kind,
    /// Kernel time, in multiples of the empty program's: at most.
    pub kernel_target: Option<f64>,
    /// The rate, in multiples of the untraced one: at least.
    pub rate_target: Option<f64>,
}

pub enum Kind {
    Nothing,
    /// Empty programs on these tracepoints.
    Empty(&'static [&'static str]),
    /// A command line; ours say when they are ready.
    Command {
        argv: Vec<String>,
        is_ours: bool,
    },
}

/// One subject under a load, once.
pub struct Sample {
    /// As the load counts it.
    pub rate: f64,
    /// The rate with nothing attached, right before and after; not a number where it was not measured.
    pub untraced: f64,
    /// Connections, resets, blocks of 10 KB, drops.
    pub units: usize,
    pub spent: Spent,
    pub cost: Cost,
}

/// Ours, as `bench.sh` has built them.
pub fn own_path(tool: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(target)
        .join("release")
        .join(tool)
}

/// Runs a program to its end.
pub fn command(argv: &[&str]) -> Result<()> {
    let status = Command::new(argv[0]).args(&argv[1..]).status();
    let status = status.with_context(|| format!("{argv:?}"))?;
    ensure!(status.success(), "{argv:?}: {status}");
    Ok(())
}

/// `line` at its blanks; what stands in quotes stays together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (i, part) in line.split('\'').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

impl Subject {
    fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            kernel_target: None,
            rate_target: None,
        }
    }

    pub fn nothing() -> Self {
        Self::new("nothing", Kind::Nothing)
    }

    pub fn empty(name: &str, events: &'static [&'static str]) -> Self {
        Self::new(name, Kind::Empty(events))
    }

    /// An empty program where most commands have theirs.
    pub fn set_state() -> Self {
        Self::empty("empty program, set_state", &["inet_sock_set_state"])
    }

    fn ours(name: &str, line: &str, path: impl Fn(&str) -> PathBuf) -> Self {
        let mut argv = words(line);
        argv[0] = path(&argv[0]).display().to_string();
        let is_ours = true;
        Self::new(name, Kind::Command { argv, is_ours })
    }

    /// One of our commands, with its arguments.
    pub fn own(line: &str) -> Self {
        Self::ours(line, line, own_path)
    }

    /// The same of another build.
    pub fn earlier(line: &str, folder: &Path) -> Self {
        let name = format!("{line} (against)");
        Self::ours(&name, line, |tool| folder.join(tool))
    }

    pub fn peer(line: &str) -> Self {
        let argv = words(line);
        let name = match argv.iter().position(|w| w == "-e") {
            Some(e) => argv[..e].join(" ") + " one-liner",
            None => match line.strip_prefix("/usr/sbin/") {
                Some(tool) => format!("libbpf-tools' {tool}"),
                None => line.to_owned(),
            },
        };
        let is_ours = false;
        Self::new(name, Kind::Command { argv, is_ours })
    }

    pub fn is_command(&self) -> bool {
        matches!(self.kind, Kind::Command { .. })
    }

    /// Starts it, and returns when its programs see events.
    pub fn start(&self) -> Result<Running> {
        match &self.kind {
            Kind::Nothing => Ok(Running::Nothing),
            Kind::Empty(events) => Ok(Running::Empty {
                _attached: Box::new(Empty::attach(events)?),
            }),
            Kind::Command { argv, is_ours } => {
                let process = Process::start(argv, *is_ours)?;
                Ok(Running::Command(Box::new(process)))
            }
        }
    }

    /// Measures it once.
    pub fn sample(&self, load: Load, connections: usize) -> Result<Sample> {
        let units = load.units(connections);
        let mut running = self.start()?;
        let before = running.bpf()?;
        let rate = load.run(units)?;
        let spent = running.bpf()?.since(&before);
        let cost = running.stop()?;
        Ok(Sample {
            rate,
            untraced: f64::NAN,
            units,
            spent,
            cost,
        })
    }
}

/// A subject at work.
pub enum Running {
    Nothing,
    /// Attached until it is dropped.
    Empty {
        _attached: Box<Empty>,
    },
    Command(Box<Process>),
}

impl Running {
    fn bpf(&self) -> Result<Bpf> {
        match self {
            Self::Nothing => Ok(Bpf::default()),
            Self::Empty { .. } => Bpf::of(process::id()),
            Self::Command(process) => Bpf::of(process.id()),
        }
    }

    pub fn stop(&mut self) -> Result<Cost> {
        match self {
            Self::Nothing | Self::Empty { .. } => Ok(Cost::default()),
            Self::Command(process) => process.stop(),
        }
    }
}

/// Empty programs, attached.
pub struct Empty {
    _links: Vec<Link>,
    /// Its descriptors have the programs' statistics.
    _skel: bpf::BaselineSkel<'static>,
}

impl Empty {
    fn attach(events: &[&str]) -> Result<Self> {
        // Leaked, a few hundred bytes per round: the skeleton borrows it.
        let storage: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = bpf::BaselineSkelBuilder::default().open(storage)?;
        for mut program in open.open_object_mut().progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let event = name.strip_prefix("baseline_").unwrap_or(&name);
            program.set_autoload(events.contains(&event));
        }
        let mut skel = open.load()?;
        let loaded = skel.object_mut().progs_mut().filter(|p| p.autoload());
        let links = loaded.map(|p| p.attach()).collect::<Result<_, _>>()?;
        Ok(Self {
            _links: links,
            _skel: skel,
        })
    }
}
