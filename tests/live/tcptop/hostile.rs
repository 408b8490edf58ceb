// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes, cgroups and network namespaces whose names are all the bytes that there are: none of them reaches a terminal.

use std::{
    ffi::OsStr, fmt::Write as _, fs, os::unix::ffi::OsStrExt, path::PathBuf, process::Command,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::terminal::Screen;
use crate::{
    cgroups::Tree,
    net::{Net, Netns},
    peer::Agent,
    scratch::Scratch,
    tool, trial,
};

pub fn tests() -> Vec<Trial> {
    vec![trial("tcptop::hostile::every_byte", every_byte)]
}

/// Names of as many bytes as the kernel keeps, of all bytes but zero.
pub fn names() -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = (1..=255).collect();
    bytes.chunks(15).map(<[u8]>::to_vec).collect()
}

/// A name in `/run/netns`, gone at the end.
struct Named(PathBuf);

impl Named {
    fn new(ns: &Netns, name: &OsStr) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(name);
        fs::create_dir_all("/run/netns")?;
        fs::write(&path, "")?;
        let named = Self(path);
        let mount = Command::new("mount")
            .arg("--bind")
            .arg(ns.path())
            .arg(&named.0)
            .status()?;
        ensure!(mount.success(), "{mount}");
        Ok(named)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_file(&self.0);
    }
}

/// What does not show, or turns the text around, outside of what a screen itself sends: `ESC [ ... letter`.
pub fn odd(text: &str, screen: bool) -> Option<String> {
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if screen && c == '\x1b' && rest.next_if_eq(&'[').is_some() {
            rest.by_ref().find(char::is_ascii_alphabetic);
            continue;
        }
        let turns =
            ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c);
        if c.is_control() || turns {
            return Some(format!(
                "{c:?} before {:?}",
                rest.take(100).collect::<String>()
            ));
        }
    }
    None
}

/// Each name has a connection, in a cgroup of such a name and a namespace of such a name.
fn scene(net: &Net, tree: &Tree) -> Result<(Vec<Agent>, Named)> {
    let (mut all, mut server) = (Vec::new(), net.b.agent()?);
    let (listener, at) = server.listen("10.9.0.2:0")?;
    // A cgroup's name has no line break, and no name has a slash.
    let name: Vec<u8> = (1..=255).filter(|byte| !b"\n/".contains(byte)).collect();
    let cgroup = tree.make(OsStr::from_bytes(&name[..200]))?;
    for name in names() {
        let mut agent = net.a.agent()?;
        fs::write(cgroup.join("cgroup.procs"), agent.pid().to_string())?;
        let hex = name.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        agent.run(&format!("comm {hex}"))?;
        let fd = agent.open(&at)?;
        agent.run(&format!("connect {fd} {at}"))?;
        server.number(&format!("accept {listener}"))?;
        agent.run(&format!("send {fd} 10"))?;
        all.push(agent);
    }
    all.push(server);
    let own = Scratch::path("netns");
    let own = own.file_name().context("a name")?.as_bytes();
    let name = [own, b"\x1b[2J\r\n\xe2\x80\xae\x9b\xff\x07"].concat();
    let named = Named::new(&net.a, OsStr::from_bytes(&name))?;
    Ok((all, named))
}

fn every_byte() -> Result<()> {
    crate::missing::needs_programs()?;
    let (net, tree) = (Net::new()?, Tree::new()?);
    let (agents, _named) = scene(&net, &tree)?;
    let inodes = net.inodes();
    on_screen(&inodes, &agents)?;
    for (name, args) in [
        ("tcptop", &["-b", "--all", "--top", "0", "-d", "1"][..]),
        ("tcptop", &["-b", "--all", "--top", "0", "-d", "1", "-w"]),
        (
            "tcptop",
            &["-b", "--all", "-d", "1", "--by", "comm,cgroup,netns"],
        ),
        ("tcpstates", &["--active", "-w"]),
        (
            "tcpstates",
            &["--active", "--columns", "comm,cgroup,netns_name"],
        ),
        ("tcpaccept", &["--listeners", "-w"]),
        ("tcplife", &["--active", "-d", "1", "-w"]),
        ("tcptop", &["-b", "--all", "-d", "1", "-s"]),
    ] {
        let run = tool::run(name, &[args, &["--netns", &inodes]].concat())?;
        ensure!(run.lines.len() > 1, "{name} {args:?}: {run:?}");
        let lines = run
            .lines
            .iter()
            .find_map(|line| Some((odd(line, false)?, line)));
        ensure!(lines.is_none(), "{name} {args:?}: {lines:?}");
    }
    Ok(())
}

/// All connections, each group of them, and one that is open.
fn on_screen(inodes: &str, agents: &[Agent]) -> Result<()> {
    let mut screen = Screen::start(&["-i", "100ms", "--netns", inodes])?;
    screen.resize(60, 120)?;
    screen.press("a")?;
    for agent in agents {
        screen.shows(&agent.pid().to_string())?;
    }
    screen.shows(r"\x01\x02\x03")?;
    screen.shows(r"\xf1\xf2")?;
    screen.press("\r")?;
    screen.shows("send queue")?;
    screen.press("\x1b")?;
    screen.shows("h help")?;
    for key in ["pid", "comm", "uid", "cgroup", "unit", "container", "netns"] {
        screen.press("g")?;
        screen.shows(&format!("by {key}"))?;
    }
    // What is typed is a name that nobody chose, either.
    screen.press("/\u{202e}\u{9b}\r")?;
    screen.shows("filter ")?;
    screen.press("q")?;
    let text = screen.ended()?;
    // Leaving the screen cancels a sequence that is cut off, and goes to the first column.
    let text = text.replace(['\x18', '\r', '\n'], "");
    ensure!(odd(&text, true).is_none(), "{:?}", odd(&text, true));
    Ok(())
}
