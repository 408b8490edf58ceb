// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command at work: when it is ready, and what its own process costs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fdinfo::{self, Bpf};
use crate::load::reset_at_close;

/// What a command's process cost.
#[derive(Clone, Default)]
pub struct Cost {
    pub ready_ms: f64,
    /// CPU time after it was ready.
    pub reader_ns: u64,
    pub rows: u64,
    pub lost: u64,
    /// The most that was resident.
    pub rss_kb: u64,
    /// Kernel memory of its maps.
    pub map_kb: u64,
}

pub struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    cost: Cost,
    cpu_ns_before: u64,
}

impl Cost {
    /// Not a number where so few rows say nothing about one.
    pub fn reader_ns_per_row(&self) -> f64 {
        match self.rows {
            0..100 => f64::NAN,
            rows => self.reader_ns as f64 / rows as f64,
        }
    }
}

/// A file of ours.
pub fn scratch(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tcptools-bench.{}.{what}", std::process::id()))
}

/// The number after `key:` in `/proc/PID/status`.
pub fn status(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| {
        let number = line.trim_start_matches(':').trim();
        number.trim_end_matches(" kB").parse().ok()
    });
    number.with_context(|| format!("no {key} of process {pid}"))
}

/// On-CPU time of all threads (the first field of schedstat).
pub fn cpu_ns(pid: u32) -> u64 {
    let of = |path: PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().map(str::parse::<u64>);
        first.and_then(Result::ok).unwrap_or(0)
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.map(|task| of(task.path())).sum()
}

impl Process {
    /// Its rows go to a file. Returns when it is ready.
    pub fn start(argv: &[String], is_ours: bool) -> Result<Self> {
        let (out, err) = (scratch("out"), scratch("err"));
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
        let mut process = Self {
            child,
            out,
            err,
            cost: Cost::default(),
            cpu_ns_before: 0,
        };
        match ready {
            Some(ready) => process.await_file(&ready)?,
            None => process.await_programs()?,
        }
        process.cost.ready_ms = begun.elapsed().as_secs_f64() * 1e3;
        process.cpu_ns_before = cpu_ns(process.id());
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.err)?;
            let last = said.lines().rfind(|line| !line.trim().is_empty());
            bail!("{status}: {}", last.unwrap_or("it says nothing"));
        }
        Ok(())
    }

    /// Until it says that it is ready: attached, and done with its scan.
    fn await_file(&mut self, ready: &Path) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            self.must_run()?;
            if fs::remove_file(ready).is_ok() {
                return Ok(());
            }
            sleep(Duration::from_micros(200));
        }
        bail!("it does not become ready");
    }

    /// Until a program of it has run: small traffic, a reset included, shows when it is attached.
    fn await_programs(&mut self) -> Result<()> {
        let _stats = fdinfo::enable_stats()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            self.must_run()?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            drop(listener.accept()?);
            reset_at_close(&client)?;
            drop(client);
            if Bpf::of(self.id())?.since(&Bpf::default()).events > 0 {
                // It may not have attached its last one.
                sleep(Duration::from_millis(200));
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        bail!("its programs see no event");
    }

    /// Ends it as a user does, once it has written its rows.
    pub fn stop(&mut self) -> Result<Cost> {
        // What is still in the buffer belongs to the reader's work.
        sleep(Duration::from_millis(300));
        self.cost.reader_ns = cpu_ns(self.id()).saturating_sub(self.cpu_ns_before);
        self.cost.rss_kb = status(self.id(), "VmHWM")?;
        self.cost.map_kb = Bpf::of(self.id())?.map_kb();
        kill(Pid::from_raw(self.id() as i32), Signal::SIGINT)?;
        // bpftrace has been seen to ignore the signal while it prints.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        let lines = BufReader::new(File::open(&self.out)?).split(b'\n').count() as u64;
        // Without the header.
        self.cost.rows = lines.saturating_sub(1);
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
