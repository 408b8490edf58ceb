// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces without names: the kernel removes them by itself when the last descriptor and process is gone,
//! however the test ends.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsFd, AsRawFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;

use crate::{
    peer::Agent,
    wait::{self, PATIENCE},
};

/// One network namespace.
pub struct Netns {
    file: File,
    /// What `readlink /proc/PID/ns/net` shows, and the commands report.
    pub inode: u64,
}

impl Netns {
    /// A new one, with its loopback interface up.
    pub fn new() -> Result<Self> {
        let file = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        })
        .join()
        .expect("no panic")?;
        let ns = Self {
            inode: file.metadata()?.ino(),
            file,
        };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Starts a socket process in it.
    pub fn agent(&self) -> Result<Agent> {
        Agent::spawn(self)
    }

    /// Makes a command run in it.
    pub fn enter<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        let ns = self.file.try_clone()?;
        let enter = move || setns(&ns, CloneFlags::CLONE_NEWNET).map_err(Into::into);
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        Ok(unsafe { command.pre_exec(enter) })
    }

    /// Runs a piece of code in it, for what is only seen from inside.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let within = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            body()
        };
        thread::scope(|scope| scope.spawn(within).join()).expect("no panic")
    }

    /// `ip` with commands, one a line.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.feed(&["ip", "-batch", "-"], batch).map(drop)
    }

    /// `nft` with a rule set.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.feed(&["nft", "-f", "-"], rules).map(drop)
    }

    /// Sets a sysctl by its path below /proc/sys/net.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.inside(|| Ok(fs::write(format!("/proc/sys/net/{path}"), value)?))
    }

    /// Runs a program in it, which must succeed; its output.
    pub fn feed(&self, argv: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(argv[0]);
        command
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .enter(&mut command)?
            .spawn()
            .with_context(|| format!("{argv:?}"))?;
        child
            .stdin
            .take()
            .context("no stdin")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{argv:?} <<{input}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The kernel's own counters of this namespace, as `Tcp.ActiveOpens`.
    pub fn counters(&self) -> Result<HashMap<String, u64>> {
        let text = self.inside(|| {
            let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
            Ok(snmp + &fs::read_to_string("/proc/thread-self/net/netstat")?)
        })?;
        Ok(parse_counters(&text))
    }

    /// Waits until no session is left: no TCP socket but listeners and those that only sit out TIME_WAIT.
    pub fn quiet(&self) -> Result<()> {
        self.until_none("the end of all sessions", |_| true)
    }

    /// Waits until no session with this local port is left.
    pub fn none_at(&self, port: u64) -> Result<()> {
        self.until_none("the end of sessions", |(local, _)| local == port)
    }

    /// Waits until the session with these ports is over here.
    pub fn over(&self, local: u64, remote: u64) -> Result<()> {
        self.until_none("the end of a session", |ports| ports == (local, remote))
    }

    /// Waits until all sessions are over but those with these local and remote ports.
    pub fn none_but(&self, open: &[(u64, u64)]) -> Result<()> {
        self.until_none("the end of other sessions", |ports| !open.contains(&ports))
    }

    fn until_none(&self, what: &str, counts: impl Fn((u64, u64)) -> bool) -> Result<()> {
        wait::until(what, PATIENCE, || {
            let tables = self.inside(|| {
                let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
                Ok(v4 + &fs::read_to_string("/proc/thread-self/net/tcp6")?)
            })?;
            Ok((!tables.lines().filter_map(session_ports).any(&counts)).then_some(()))
        })
    }

    /// A path to it for other programs, good as long as this thread lives, whose files may be its own.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/task/{}/fd/{}",
            std::process::id(),
            gettid(),
            self.file.as_raw_fd()
        )
    }
}

/// The ports of a line of /proc/net/tcp, if it is a living socket that does not listen; one in TIME_WAIT has fewer
/// fields, whatever state it shows.
fn session_ports(line: &str) -> Option<(u64, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let port = |field: &str| u64::from_str_radix(field.rsplit_once(':')?.1, 16).ok();
    if fields.len() < 17 || fields[3] == "0A" {
        return None;
    }
    Some((port(fields[1])?, port(fields[2])?))
}

/// Pairs of lines: `Tcp: names...` and `Tcp: values...`.
fn parse_counters(text: &str) -> HashMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = HashMap::new();
    for pair in lines.chunks_exact(2) {
        let Some((group, _)) = pair[0].split_once(':') else {
            continue;
        };
        for (name, value) in pair[0]
            .split_whitespace()
            .zip(pair[1].split_whitespace())
            .skip(1)
        {
            // Tcp.MaxConn is -1 and of no interest.
            counters.insert(format!("{group}.{name}"), value.parse().unwrap_or(0));
        }
    }
    counters
}

/// Two namespaces joined by a veth, as two hosts on a cable: `a` is 10.9.0.1 and fd09::1, `b` is 10.9.0.2 and fd09::2.
pub struct Net {
    pub a: Netns,
    pub b: Netns,
}

/// One end of the cable.
#[derive(Clone, Copy)]
pub enum Side {
    A = 1,
    B = 2,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn mac(self) -> String {
        format!("02:00:00:00:09:0{}", self as u8)
    }

    /// `ip neigh` commands that say in which state the other end is known here.
    fn neighbours(self, state: &str) -> String {
        let other = self.other() as u8;
        format!(
            "neigh replace 10.9.0.{other} dev v0 {state}\nneigh replace fd09::{other} dev v0 {state}"
        )
    }
}

impl Net {
    /// The neighbours are entered by hand: nothing has to be resolved, so no first packet is late.
    pub fn new() -> Result<Self> {
        let net = Self {
            a: Netns::new()?,
            b: Netns::new()?,
        };
        net.a.ip(&format!(
            "link add v0 address {} type veth peer name v0 address {} netns {}",
            Side::A.mac(),
            Side::B.mac(),
            net.b.path()
        ))?;
        for side in [Side::A, Side::B] {
            let host = side as u8;
            net.side(side).ip(&format!(
                "addr add 10.9.0.{host}/24 dev v0\naddr add fd09::{host}/64 dev v0 nodad\nlink set v0 up"
            ))?;
        }
        net.release(Side::A)?;
        net.release(Side::B)?;
        Ok(net)
    }

    pub fn side(&self, side: Side) -> &Netns {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// What this side sends waits, in order, until `release`: a neighbour that is being resolved queues its packets,
    /// and this one's resolution was never started.
    pub fn hold(&self, side: Side) -> Result<()> {
        self.side(side).ip(&side.neighbours("nud incomplete"))
    }

    /// What was held is sent, and from now on everything at once.
    pub fn release(&self, side: Side) -> Result<()> {
        self.side(side)
            .ip(&side.neighbours(&format!("lladdr {} nud permanent", side.other().mac())))
    }

    /// Sessions that begin from now on send nothing again for 20 seconds, however long a step takes on a busy host.
    pub fn be_patient(&self) -> Result<()> {
        for side in [Side::A, Side::B] {
            self.side(side)
                .ip("route change 10.9.0.0/24 dev v0 scope link rto_min 20s\n\
                 route change fd09::/64 dev v0 metric 256 rto_min 20s")?;
        }
        Ok(())
    }

    /// The argument of `--netns` for both.
    pub fn inodes(&self) -> String {
        format!("{},{}", self.a.inode, self.b.inode)
    }

    /// Addresses that no other namespace has: a network of each family, in which `a` is 1 and `b` is 2.
    pub fn own_networks(&self) -> Result<[String; 2]> {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let (pid, n) = (
            std::process::id() % 64,
            COUNT.fetch_add(1, Ordering::Relaxed),
        );
        let nets = [
            format!("10.{}.{n}.", 64 + pid),
            format!("fd0a:{pid:x}:{n:x}::"),
        ];
        for side in [Side::A, Side::B] {
            let (host, other) = (side as u8, side.other() as u8);
            let lladdr = side.other().mac();
            let [v4, v6] = &nets;
            self.side(side).ip(&format!(
                "addr add {v4}{host}/24 dev v0\naddr add {v6}{host}/64 dev v0 nodad\n\
                 neigh replace {v4}{other} dev v0 lladdr {lladdr} nud permanent\n\
                 neigh replace {v6}{other} dev v0 lladdr {lladdr} nud permanent"
            ))?;
        }
        Ok(nets)
    }

    /// Waits until no session is left on either side.
    pub fn quiet(&self) -> Result<()> {
        self.a.quiet()?;
        self.b.quiet()
    }
}
