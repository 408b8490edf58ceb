// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a terminal gets and a pipe does not: colours, a header on each screen, and rows that are broken at its edge.

use std::{
    fs::File,
    io::Read,
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::Signal,
        socket::{setsockopt, sockopt::Linger},
    },
};

use super::{command, kill_at_last, signal, until_exists};
use crate::{
    missing,
    net::Netns,
    scratch::Scratch,
    tool::{self, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("terminal::bad_endings_have_a_colour", colours),
        trial("terminal::long_addresses_keep_the_columns", columns),
        trial("terminal::header_on_each_screen", headers),
        trial("terminal::findings_have_a_colour", findings),
    ]
}

const RED: &str = "\x1b[1;31m";
const END: &str = "\x1b[0m";

/// A terminal of this size, and what was written to it.
struct Terminal {
    /// Kept open: a terminal that nobody has takes no output.
    slave: OwnedFd,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn new(lines: u16, columns: u16) -> Result<Self> {
        let size = Winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None)?;
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let (mut master, to) = (File::from(pty.master), Arc::clone(&text));
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = master.read(&mut chunk) {
                to.lock().expect("no panic").extend_from_slice(&chunk[..n]);
            }
        });
        Ok(Self {
            slave: pty.slave,
            text,
        })
    }

    /// Starts a command on it, and waits until it is ready.
    fn start(&self, name: &str, args: &[&str]) -> Result<Child> {
        let ready = Scratch::path("ready");
        let child = command("", name, args)
            .args(["--ready-file", ready.text()])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdout(self.slave.try_clone()?)
            .spawn()?;
        until_exists(&ready)?;
        Ok(child)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no panic")).replace('\r', "")
    }

    fn shows(&self, what: &str, count: usize) -> Result<()> {
        let found = wait::until(what, PATIENCE, || {
            Ok((self.text().matches(what).count() >= count).then_some(()))
        });
        found.with_context(|| format!("on the terminal:\n{}", self.text()))
    }
}

/// Text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    first
        + &parts
            .map(|part| part.split_once('m').map_or("", |(_, rest)| rest))
            .collect::<String>()
}

/// A session from this address to itself whose client resets it, or closes.
fn session(ns: &Netns, host: &str, reset: bool) -> Result<()> {
    ns.inside(|| {
        let listener = TcpListener::bind(host)?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        if reset {
            let at_once = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&client, Linger, &at_once)?;
        }
        drop(client);
        drop(server);
        Ok(())
    })
}

/// The letter of a reset is red on a terminal, and with `always`; not with `never`, in a pipe, for NO_COLOR or a dumb
/// terminal. But for the colours all are the same.
fn colours() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let args = ["--netns", &netns, "-n", "2", "--columns", "rport,E,comm"];
    let play = || session(&ns, "127.0.0.1:0", true);

    let terminal = Terminal::new(24, 80)?;
    let mut child = terminal.start("tcplife", &args)?;
    play()?;
    ensure!(wait::exit_of(&mut child, PATIENCE)?.success());
    terminal.shows(END, 2)?;
    let red = terminal.text();
    for letter in ["R", "r"] {
        let painted = format!(" {RED}{letter}{END} ");
        ensure!(red.contains(&painted), "{red:?}");
    }

    let terminal = Terminal::new(24, 80)?;
    let never = [&args[..], &["--color=never"]].concat();
    let mut child = terminal.start("tcplife", &never)?;
    play()?;
    ensure!(wait::exit_of(&mut child, PATIENCE)?.success());
    terminal.shows("\n", 3)?;
    ensure!(!terminal.text().contains('\x1b'), "{:?}", terminal.text());

    let run = |more: &[&str]| -> Result<Vec<String>> {
        let tool = Tool::start("tcplife", &[&args[..], more].concat())?;
        play()?;
        Ok(tool.finish(PATIENCE)?.lines)
    };
    let (auto, always) = (run(&[])?, run(&["--color"])?);
    ensure!(!auto.concat().contains('\x1b'), "{auto:?}");
    ensure!(always.concat().matches(RED).count() == 2, "{always:?}");
    let letters = |lines: &[String]| -> Vec<Option<char>> {
        let letter = |line: &String| plain(line).chars().nth(6);
        lines.iter().map(letter).collect()
    };
    ensure!(letters(&auto)[0] == Some('E'), "{auto:?}");
    ensure!(letters(&auto) == letters(&always), "{auto:?} {always:?}");
    for format in ["--json", "--csv"] {
        let args = ["--netns", &netns, "-n", "2", "--color=always", format];
        let tool = Tool::start("tcplife", &args)?;
        play()?;
        let lines = tool.finish(PATIENCE)?.lines;
        ensure!(!lines.concat().contains('\x1b'), "{lines:?}");
    }
    refused(&args, &play)
}

/// A terminal that gets no colours.
fn refused(args: &[&str], play: &impl Fn() -> Result<()>) -> Result<()> {
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let terminal = Terminal::new(24, 80)?;
        let ready = Scratch::path("ready");
        let mut child = command("", "tcplife", args)
            .args(["--ready-file", ready.text()])
            .env("TERM", "xterm")
            .env(name, value)
            .stdout(terminal.slave.try_clone()?)
            .spawn()?;
        until_exists(&ready)?;
        play()?;
        ensure!(wait::exit_of(&mut child, PATIENCE)?.success());
        terminal.shows("\n", 3)?;
        ensure!(!terminal.text().contains('\x1b'), "{name}={value}");
    }
    Ok(())
}

/// As long as an address can be.
const LONG: [&str; 2] = [
    "2001:db8:1111:2222:3333:4444:5555:6666",
    "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",
];

/// Whole addresses, at most 80 columns, and each value below its heading: here the port.
fn columns() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let [one, other] = LONG;
    ns.ip(&format!(
        "link set lo up\naddr add {one}/128 dev lo nodad\naddr add {other}/128 dev lo nodad"
    ))?;
    let netns = ns.inode.to_string();
    for (name, heading) in [
        ("tcplife", "RPORT"),
        ("tcpconnect", "DPORT"),
        ("tcpaccept", "LPORT"),
        ("tcpstates", "RPORT"),
        ("tcpinfo", "RPORT"),
    ] {
        let terminal = Terminal::new(50, 80)?;
        let child = terminal.start(name, &["--netns", &netns, "--color=never"])?;
        for host in LONG {
            session(&ns, &format!("[{host}]:0"), false)?;
        }
        ns.quiet()?;
        terminal.shows(other, 1)?;
        signal(&child, Signal::SIGTERM)?;
        ensure!(kill_at_last(child)?.success());
        let text = terminal.text();
        ensure!(text.contains(one), "{name}: {text}");
        let place = text.find(heading).context(heading)?;
        for line in text.lines() {
            ensure!(line.chars().count() <= 80, "{name}: {text}");
        }
        // Behind an address nothing but blanks is before the next value, which is below its heading.
        let after = text.lines().zip(text.lines().skip(1));
        let ports = after.filter(|(line, next)| line.ends_with(other) && next.starts_with(' '));
        let below = |line: &str| line.find(|c: char| c != ' ') == Some(place);
        let count = ports.filter(|(_, next)| below(next)).count();
        ensure!(count > 0, "{name}: nothing below {heading}:\n{text}");
    }
    Ok(())
}

/// Seven lines: the header, five rows, and the cursor.
fn headers() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let args = ["--netns", &netns, "-n", "12"];
    for (more, expected) in [(&[][..], 3), (&["--no-header"], 0), (&["--csv"], 1)] {
        let terminal = Terminal::new(7, 80)?;
        let mut child = terminal.start("tcplife", &[&args[..], more].concat())?;
        super::sessions(&ns, 6)?;
        ensure!(wait::exit_of(&mut child, PATIENCE)?.success());
        terminal.shows("\n", 12 + expected)?;
        let text = terminal.text();
        let heading = if more == ["--csv"] { "tool," } else { "PID " };
        let at: Vec<_> = (0..)
            .zip(text.lines())
            .filter(|(_, line)| line.starts_with(heading))
            .map(|(n, _)| n)
            .collect();
        let wanted: Vec<_> = (0..expected).map(|n| n * 6).collect();
        ensure!(at == wanted, "{more:?}: {at:?}\n{text}");
    }
    Ok(())
}

/// `tcptools check` and `triage`, whose exit status says something, too.
fn findings() -> Result<()> {
    missing::needs_programs()?;
    let run = |args: &[&str]| -> Result<String> {
        let output = Command::new(tool::path("tcptools")).args(args).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let with = run(&["check", "--color=always"])?;
    let without = run(&["check"])?;
    let is_note = |text: &str| {
        text.lines()
            .any(|line| line.get(18..).is_some_and(|s| s.starts_with("note ")))
    };
    ensure!(!without.contains('\x1b'), "{without}");
    ensure!(
        is_note(&without) == with.contains("\x1b[33mnote\x1b[0m"),
        "{with}"
    );

    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let ready = Scratch::path("ready");
    let child = Command::new(tool::path("tcptools"))
        .args(["triage", "-d", "3s", "--color=always", "--netns", &netns])
        .args(["--ready-file", ready.text()])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    until_exists(&ready)?;
    ns.inside(|| {
        for _ in 0..50 {
            // Nobody listens there.
            ensure!(TcpStream::connect("127.0.0.1:9").is_err());
        }
        Ok(())
    })?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.code() == Some(10),
        "{}: {text}",
        output.status
    );
    let first = text.lines().next().unwrap_or_default();
    ensure!(first.starts_with("\x1b["), "{text:?}");
    ensure!(plain(first).ends_with("connect_refused"), "{text:?}");
    Ok(())
}
