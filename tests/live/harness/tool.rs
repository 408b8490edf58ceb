// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command under test: started, ready, stopped, and what it printed.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use caps::{CapSet, Capability};
use nix::{
    sys::resource::{Resource, setrlimit},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    missing,
    net::Netns,
    schema,
    scratch::Scratch,
    seen, unseen,
    wait::{self, PATIENCE},
};

/// Where a command is: in `TCPTOOLS_BIN_DIR` if that is set, otherwise as cargo has just built it.
pub fn path(name: &str) -> PathBuf {
    if let Some(dir) = env::var_os("TCPTOOLS_BIN_DIR") {
        return PathBuf::from(dir).join(name);
    }
    PathBuf::from(env!("CARGO_BIN_EXE_tcplife")).with_file_name(name)
}

/// A running command.
pub struct Tool {
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// What `seen` has taken out of the lines so far.
    parsed: Mutex<Vec<Value>>,
    stdout: Option<JoinHandle<()>>,
    messages: Arc<Mutex<String>>,
    stderr: Option<JoinHandle<()>>,
    _ready: Scratch,
}

/// What a command has left behind.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub lines: Vec<String>,
    pub stderr: String,
}

impl Tool {
    /// Starts it, collects its output, and returns when it is ready: every probe attached, every socket scanned.
    pub fn start(name: &str, args: &[&str]) -> Result<Self> {
        Self::with_stdout(name, args, Stdio::piped())?.collecting()
    }

    /// As `start`, in a network namespace.
    pub fn start_in(ns: &Netns, name: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(path(name));
        ns.enter(&mut command)?;
        Self::launch(command, name, args, Stdio::piped())?.collecting()
    }

    /// As `start`, but without this capability, as a root that a container lacks it to.
    pub fn start_without(cap: Capability, name: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(path(name));
        // SAFETY: one system call, and nothing that the forked process shares with other threads.
        unsafe {
            command.pre_exec(move || {
                caps::drop(None, CapSet::Bounding, cap).map_err(std::io::Error::other)
            });
        }
        Self::launch(command, name, args, Stdio::piped())?.collecting()
    }

    /// As `start`, as if the kernel had none of these features: `btf`, `ringbuf`.
    pub fn start_reduced(features: &str, name: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(path(name));
        command.env("TCPTOOLS_WITHOUT", features);
        // Records are of the whole host: other tests may flood it.
        let large = ["--buffer", "8192"];
        let records = ["btf", "ringbuf"].iter().any(|one| features.contains(one));
        let room = match records && !args.contains(&"--buffer") {
            true => &large[..],
            false => &[],
        };
        Self::launch(command, name, &[args, room].concat(), Stdio::piped())?.collecting()
    }

    /// Both.
    pub fn start_reduced_without(
        cap: Capability,
        features: &str,
        name: &str,
        args: &[&str],
    ) -> Result<Self> {
        let drop_cap =
            move || caps::drop(None, CapSet::Bounding, cap).map_err(std::io::Error::other);
        Self::prepared(drop_cap, features, name, args)
    }

    /// As `start_reduced`, with so many descriptors at the most.
    pub fn start_limited(
        descriptors: u64,
        features: &str,
        name: &str,
        args: &[&str],
    ) -> Result<Self> {
        let limit = move || {
            setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors).map_err(Into::into)
        };
        Self::prepared(limit, features, name, args)
    }

    /// As `start_reduced`, by another program that runs what its arguments end with.
    pub fn start_through(
        runner: &[&str],
        features: &str,
        name: &str,
        args: &[&str],
    ) -> Result<Self> {
        let (program, rest) = runner.split_first().context("a program")?;
        let mut command = Command::new(program);
        command.args(rest).arg(path(name));
        command.env("TCPTOOLS_WITHOUT", features);
        Self::launch(command, name, args, Stdio::piped())?.collecting()
    }

    fn prepared(
        prepare: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
        features: &str,
        name: &str,
        args: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new(path(name));
        command.env("TCPTOOLS_WITHOUT", features);
        // SAFETY: one system call, and nothing that the forked process shares with other threads.
        unsafe { command.pre_exec(prepare) };
        Self::launch(command, name, args, Stdio::piped())?.collecting()
    }

    fn collecting(mut self) -> Result<Self> {
        let stdout = self.child.stdout.take().context("no stdout")?;
        self.stdout = Some(collect(stdout, Arc::clone(&self.lines)));
        Ok(self)
    }

    /// Starts it with its rows going elsewhere, or (a pipe) to be read by the test; returns when it is ready.
    pub fn with_stdout(name: &str, args: &[&str], stdout: Stdio) -> Result<Self> {
        Self::launch(Command::new(path(name)), name, args, stdout)
    }

    fn launch(mut command: Command, name: &str, args: &[&str], stdout: Stdio) -> Result<Self> {
        let ready = Scratch::path("ready");
        // What follows `--` is not the tool's.
        let its_own = args.iter().take_while(|arg| **arg != "--").count();
        let mut child = command
            .args(&args[..its_own])
            .args(["--ready-file", ready.text()])
            .args(&args[its_own..])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", path(name).display()))?;
        let mut pipe = child.stderr.take().context("no stderr")?;
        let messages = Arc::<Mutex<String>>::default();
        let told = Arc::clone(&messages);
        let stderr = thread::spawn(move || {
            let mut text = [0; 4096];
            // A reader of a pipe fails for no reason of interest here.
            while let Ok(bytes @ 1..) = pipe.read(&mut text) {
                let text = String::from_utf8_lossy(&text[..bytes]);
                told.lock().expect("no panic").push_str(&text);
            }
        });
        let lines = Arc::default();
        let mut tool = Self {
            child,
            lines,
            parsed: Mutex::default(),
            stdout: None,
            messages,
            stderr: Some(stderr),
            _ready: ready,
        };
        tool.await_ready()
            .with_context(|| format!("{name} {args:?}"))?;
        Ok(tool)
    }

    fn await_ready(&mut self) -> Result<()> {
        let outcome = wait::until("the ready file", PATIENCE, || {
            match self.child.try_wait()? {
                Some(status) => bail!("ended with {status} before it was ready"),
                None => Ok(self._ready.exists().then_some(())),
            }
        });
        outcome.or_else(|error| {
            self.child.kill()?;
            self.child.wait()?;
            Err(error.context(self.take_stderr()))
        })
    }

    /// Waits for so many lines (of rows, and a header if there is one).
    pub fn wait_lines(&self, count: usize) -> Result<()> {
        wait::until(&format!("{count} lines"), PATIENCE, || {
            Ok((self.line_count() >= count).then_some(()))
        })
    }

    /// Whether it has said this on standard error.
    pub fn says(&self, text: &str) -> bool {
        self.messages.lock().expect("no panic").contains(text)
    }

    /// Whether a line so far has this.
    pub fn printed(&self, text: &str) -> bool {
        let lines = self.lines.lock().expect("no panic");
        lines.iter().any(|line| line.contains(text))
    }

    /// The lines so far.
    pub fn line_count(&self) -> usize {
        self.lines.lock().expect("no panic").len()
    }

    /// The rows so far, of a JSON run. Who waits for a row asks often, so each line is parsed once.
    pub fn seen(&self) -> Result<MutexGuard<'_, Vec<Value>>> {
        let mut parsed = self.parsed.lock().expect("no panic");
        let lines = self.lines.lock().expect("no panic");
        for line in &lines[parsed.len()..] {
            parsed.push(record(line)?);
        }
        Ok(parsed)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Asks it to stop, as a supervisor does, and takes all it has printed.
    pub fn stop(self) -> Result<Run> {
        self.signal(Signal::SIGTERM)?;
        self.finish(PATIENCE)
    }

    /// Waits for its end.
    pub fn finish(mut self, limit: Duration) -> Result<Run> {
        let status = wait::exit_of(&mut self.child, limit)?;
        if let Some(reader) = self.stdout.take() {
            reader.join().expect("no panic");
        }
        let lines = std::mem::take(&mut *self.lines.lock().expect("no panic"));
        Ok(Run {
            status,
            lines,
            stderr: self.take_stderr(),
        })
    }

    fn take_stderr(&mut self) -> String {
        if let Some(reader) = self.stderr.take() {
            reader.join().expect("no panic");
        }
        std::mem::take(&mut *self.messages.lock().expect("no panic"))
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Already over, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stdout: ChildStdout, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            lines
                .lock()
                .expect("no panic")
                .push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

/// Runs a command to its end, with nothing added to its arguments.
pub fn run(name: &str, args: &[&str]) -> Result<Run> {
    run_without("", name, args)
}

/// The same, without what the kernel has: `btf`, `ringbuf`.
pub fn run_without(features: &str, name: &str, args: &[&str]) -> Result<Run> {
    let output = Command::new(path(name))
        .env("TCPTOOLS_WITHOUT", features)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let stdout = String::from_utf8(output.stdout)?;
    Ok(Run {
        status: output.status,
        lines: stdout.lines().map(str::to_owned).collect(),
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// Every key of the last record is in docs/json.md; those of rows `tests/docs.rs` compares.
fn summary_is_documented(summary: &Value) -> Result<()> {
    let page = include_str!("../../../docs/json.md");
    let keys = summary.as_object().context("an object")?.keys();
    let unsaid: Vec<_> = keys
        .filter(|key| !page.contains(&format!("`{key}`")))
        .collect();
    ensure!(unsaid.is_empty(), "docs/json.md lacks {unsaid:?}");
    Ok(())
}

impl Run {
    /// Nothing but what other tests may have caused.
    pub fn said_nothing(&self) -> bool {
        unseen::said_else(&self.stderr).is_empty()
    }

    /// The rows of a JSON run that ended well and lost nothing; the summary must be the last record and agree.
    pub fn rows(&self) -> Result<Vec<Value>> {
        ensure!(self.status.success(), "{}: {}", self.status, self.stderr);
        let mut rows = self.records()?;
        let summary = rows.pop().context("no record at all")?;
        ensure!(
            summary["event"] == "summary",
            "the last record is no summary: {summary}"
        );
        ensure!(summary["lost"] == 0, "lost events: {summary}");
        summary_is_documented(&summary)?;
        if summary["skipped"] != 0 || summary["untracked"] != 0 {
            eprintln!("this may explain a missing row: {summary}");
        }
        if self.has_only_records() {
            unseen::skipped(summary["skipped"].as_u64().unwrap_or(0));
        }
        ensure!(
            summary["events"] == rows.len(),
            "{} rows, but {summary}",
            rows.len()
        );
        seen::note(&rows)?;
        if !missing::cookies() {
            adopt_cookies(&mut rows);
        }
        Ok(rows)
    }

    /// It ran in fallback mode, and says so.
    pub fn has_only_records(&self) -> bool {
        let lacking = ["no type information (BTF)", "no ring buffer"];
        lacking.iter().any(|why| self.stderr.contains(why))
    }

    /// Every line as JSON.
    pub fn records(&self) -> Result<Vec<Value>> {
        self.lines.iter().map(|line| record(line)).collect()
    }
}

/// A line of JSON, as the schema has it.
fn record(line: &str) -> Result<Value> {
    let record = serde_json::from_str(line).with_context(|| line.to_owned())?;
    schema::check(&record).map_err(|why| anyhow!("{why}: {line}"))?;
    Ok(record)
}

/// Gives rows without a cookie the one that a later row of the same connection has.
fn adopt_cookies(rows: &mut [Value]) {
    let key = |row: &Value| {
        ["netns", "laddr", "lport", "raddr", "rport"].map(|field| row[field].to_string())
    };
    let with_cookie = rows.iter().filter(|row| row["cookie"].is_u64());
    let known: HashMap<_, _> = with_cookie
        .map(|row| (key(row), row["cookie"].clone()))
        .collect();
    for row in rows.iter_mut().filter(|row| row["cookie"].is_null()) {
        if let Some(cookie) = known.get(&key(row)) {
            row["cookie"] = cookie.clone();
        }
    }
}
