// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command under test: started, ready, stopped, and what it printed.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::{
    sys::resource::{Resource, setrlimit},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

pub use crate::run::{Run, path, run, run_without};
use crate::{
    net::Netns,
    run::{has_only_records, record},
    scratch::Scratch,
    unseen,
    wait::{self, PATIENCE},
};

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
        let text = std::mem::take(&mut *self.messages.lock().expect("no panic"));
        if has_only_records(&text) {
            unseen::heard(&text);
        }
        text
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let running = self.stderr.is_some();
        if running && has_only_records(&self.messages.lock().expect("no panic")) {
            // A test that has failed asks what was missed.
            let _ = self.signal(Signal::SIGTERM);
            let _ = wait::exit_of(&mut self.child, Duration::from_secs(2));
            unseen::heard(&self.messages.lock().expect("no panic"));
        }
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
