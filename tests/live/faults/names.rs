// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of processes and of interfaces that are all the bytes that the kernel takes, through every output that others do
//! not test: table, wide table, CSV, JSON, journal, SVG and the live screen. What is expected: no control character and
//! none that turns text around reaches an output; JSON and SVG stay well formed; an escaped name is the name.
//! (Cgroups and namespaces: `tcptop::hostile`, `owners::whose::hostile_names`.)

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use crate::{
    missing,
    net::Netns,
    peer::Agent,
    scratch::Scratch,
    tcptop::{hostile::odd, terminal::Screen},
    tool::Tool,
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("faults::names::rows", rows),
        trial("faults::names::journal", journal),
        trial("faults::names::plot", plot),
        trial("faults::names::screen", screen),
    ]
}

/// Names that an interface can have: 15 bytes at the most, none of them a slash, a colon, or what the kernel's isspace()
/// calls blank (net/core/dev.c: dev_valid_name).
fn interfaces() -> Vec<Vec<u8>> {
    let refused = |byte: &u8| matches!(byte, b'/' | b':' | b'%' | 9..=13 | b' ' | 0xa0);
    let bytes: Vec<u8> = (1..=255).filter(|byte| !refused(byte)).collect();
    let mut names: Vec<_> = bytes.chunks(15).map(<[u8]>::to_vec).collect();
    names.push(b"<b>&\"'\x1b[2J\xe2\x80\xae".to_vec());
    names
}

/// A namespace with interfaces of these names, on each of which a process of as odd a name talks to itself.
struct Scene {
    ns: Netns,
    agents: Vec<Agent>,
    /// Where the other end is, by interface.
    places: Vec<String>,
}

impl Scene {
    fn new(names: &[Vec<u8>]) -> Result<Self> {
        let ns = Netns::new()?;
        let (mut agents, mut places) = (Vec::new(), Vec::new());
        for (number, name) in names.iter().enumerate() {
            let mut command = Command::new("ip");
            command
                .args(["link", "add", "name"])
                .arg(OsStr::from_bytes(name));
            command.args(["type", "veth", "peer", "name", &format!("peer{number}")]);
            let made = ns.enter(&mut command)?.output()?;
            let said = String::from_utf8_lossy(&made.stderr);
            ensure!(made.status.success(), "{name:?}: {said}");
            let index = ns.inside(|| {
                let name = nix::net::if_::if_nametoindex(name.as_slice());
                name.context("no such interface")
            })?;
            // By its other end's number, as its own name is no word of a batch.
            let address = format!("fe80::{:x}", number + 1);
            let mut command = Command::new("ip");
            command.args(["addr", "add", &format!("{address}/64"), "nodad", "dev"]);
            command.arg(OsStr::from_bytes(name));
            ensure!(ns.enter(&mut command)?.status()?.success(), "{name:?}");
            let mut command = Command::new("ip");
            command.args(["link", "set", "up", "addrgenmode", "none", "dev"]);
            command.arg(OsStr::from_bytes(name));
            ensure!(ns.enter(&mut command)?.status()?.success(), "{name:?}");
            ns.ip(&format!("link set peer{number} up"))?;
            let mut agent = ns.agent()?;
            let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            agent.run(&format!("comm {hex}"))?;
            agents.push(agent);
            places.push(format!("[{address}%{index}]"));
        }
        Ok(Self { ns, agents, places })
    }

    /// A session of each, with some data; it ends with the reset of unread data.
    fn sessions(&mut self) -> Result<()> {
        for (agent, place) in self.agents.iter_mut().zip(&self.places) {
            let (listener, at) = agent.listen(&format!("{place}:0"))?;
            let fd = agent.open(&at)?;
            agent.run(&format!("connect {fd} {at}"))?;
            let accepted = agent.number(&format!("accept {listener}"))?;
            for _ in 0..3 {
                agent.run(&format!("send {fd} 100"))?;
                agent.run(&format!("recv {accepted} 100"))?;
            }
            agent.run(&format!("send {accepted} 10"))?;
            for fd in [fd, accepted, listener] {
                agent.run(&format!("close {fd}"))?;
            }
        }
        self.ns.quiet()
    }
}

const COMMANDS: [&str; 8] = [
    "tcplife",
    "tcpstates",
    "tcpconnect",
    "tcpaccept",
    "tcpinfo",
    "tcpreset",
    "tcpprobe",
    "tcplat",
];

/// The bytes that `\xNN` and `\\` stand for.
fn plain(shown: &str) -> Result<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), shown.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?);
                rest = after;
            }
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                rest = after;
            }
            _ => bytes.push(byte),
        }
    }
    Ok(bytes)
}

fn rows() -> Result<()> {
    missing::needs_programs()?;
    let names = interfaces();
    let mut scene = Scene::new(&names)?;
    let mut tools = Vec::new();
    for name in COMMANDS {
        missing::needs_tracepoint_of(name)?;
        for args in [&["--json"][..], &["--csv"], &["-w"]] {
            let all = [args, &["--netns", "self"]].concat();
            tools.push((name, args, Tool::start_in(&scene.ns, name, &all)?));
        }
    }
    scene.sessions()?;
    for (name, args, tool) in tools {
        let run = tool.stop()?;
        ensure!(run.status.success(), "{name} {args:?}: {}", run.stderr);
        let found = run.lines.iter().find_map(|line| odd(line, false));
        ensure!(found.is_none(), "{name} {args:?}: {found:?}");
        ensure!(
            run.lines.len() > names.len(),
            "{name} {args:?}: {:?}",
            run.lines
        );
        if args == ["--json"] {
            known(&names, &run.rows()?).with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

/// Each name is that of a process and of an interface.
fn known(names: &[Vec<u8>], rows: &[Value]) -> Result<()> {
    for name in names {
        for key in ["comm", "ifname"] {
            let is = |row: &Value| {
                let shown = row[key].as_str().map(plain);
                shown.is_some_and(|bytes| bytes.is_ok_and(|bytes| bytes == *name))
            };
            ensure!(rows.iter().any(is), "no {key} is {name:?}: {rows:#?}");
        }
    }
    Ok(())
}

/// The fields of an entry: `KEY=value`, or for values with a line feed the key, the size, and so many bytes
/// (systemd's "Native Journal Protocol").
fn fields(entry: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut all, mut rest) = (Vec::new(), entry);
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .context("no end")?;
        let (line, after) = rest.split_at(end);
        let (key, value, after) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], &line[at + 1..], &after[1..]),
            None => {
                let (size, after) = after[1..].split_first_chunk().context("a size")?;
                let (value, after) = after.split_at(u64::from_le_bytes(*size) as usize);
                (line, value, &after[1..])
            }
        };
        all.push((String::from_utf8(key.to_vec())?, value.to_vec()));
        rest = after;
    }
    Ok(all)
}

/// A name that would be another field, and all others.
fn journal() -> Result<()> {
    missing::needs_programs()?;
    let mut names = interfaces();
    names.push(b"x\nPRIORITY=0".to_vec());
    let ns = Netns::new()?;
    let mut agents = Vec::new();
    for name in &names {
        let mut agent = ns.agent()?;
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        agent.run(&format!("comm {hex}"))?;
        agents.push(agent);
    }
    let path = Scratch::path("journal");
    let socket = UnixDatagram::bind(&*path)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    let reader = thread::spawn(move || {
        let (mut entries, mut buffer) = (Vec::new(), vec![0; 8192]);
        while let Ok(n) = socket.recv(&mut buffer) {
            entries.push(buffer.get(..n).unwrap_or_default().to_vec());
        }
        entries
    });
    let netns = ns.inode.to_string();
    let args = [
        "--json",
        "-Y",
        "--journal-socket",
        path.text(),
        "--netns",
        &netns,
    ];
    let tool = Tool::start("tcpstates", &args)?;
    for agent in &mut agents {
        let fd = agent.open("127.0.0.1:1")?;
        agent.fails(&format!("connect {fd} 127.0.0.1:1"), libc::ECONNREFUSED)?;
        agent.run(&format!("close {fd}"))?;
    }
    let rows = tool.stop()?.rows()?;
    let entries = reader.join().expect("no panic");
    ensure!(
        entries.len() == rows.len(),
        "{} of {}",
        entries.len(),
        rows.len()
    );
    for (entry, row) in entries.iter().zip(&rows) {
        let fields = fields(entry)?;
        let of = |key: &str| {
            let of = fields.iter().filter(|(name, _)| name == key);
            of.map(|(_, value)| value.as_slice()).collect::<Vec<_>>()
        };
        ensure!(of("PRIORITY") == [b"5"], "{fields:?}");
        ensure!(of("SYSLOG_IDENTIFIER") == [b"tcpstates"], "{fields:?}");
        let message =
            String::from_utf8_lossy(of("MESSAGE").first().context("MESSAGE")?).into_owned();
        ensure!(odd(&message, false).is_none(), "{message:?}");
        // The journal keeps bytes, and whoever shows them escapes them.
        let comm = row["comm"].as_str().map(plain).transpose()?;
        ensure!(
            of("OBJECT_COMM").first().map(|b| b.to_vec()) == comm,
            "{fields:?} {row}"
        );
    }
    let owners = names.iter().filter(|name| {
        let is =
            |row: &Value| row["comm"].as_str().and_then(|s| plain(s).ok()).as_ref() == Some(*name);
        rows.iter().any(is)
    });
    ensure!(owners.count() == names.len(), "{rows:#?}");
    Ok(())
}

/// A picture of the connections of each interface: no text in it is an element, or no text.
fn plot() -> Result<()> {
    missing::needs_programs()?;
    let names = interfaces();
    let mut scene = Scene::new(&names)?;
    let file = Scratch::path("plot.svg");
    let top = names.len().to_string();
    let args = ["--netns", "self", "--plot", file.text(), "--top", &top];
    let tool = Tool::start_in(&scene.ns, "tcpprobe", &args)?;
    scene.sessions()?;
    let run = tool.stop()?;
    ensure!(run.status.success(), "{run:?}");
    let picture = fs::read_to_string(&*file)?;
    let text = picture.replace('\n', "");
    ensure!(odd(&text, false).is_none(), "{:?}", odd(&text, false));
    // Every < begins an element of a picture, and every & a reference.
    for (at, part) in picture.split('<').enumerate().skip(1) {
        let known = [
            "svg", "/svg", "text", "/text", "rect", "line", "polyline", "polygon", "circle",
            "path", "g", "/g", "title", "/title", "?xml", "desc", "/desc",
        ];
        let name = part
            .split([' ', '>', '/', '\n'])
            .find(|word| !word.is_empty());
        let name = name.map(|name| {
            if part.starts_with('/') {
                format!("/{name}")
            } else {
                name.to_owned()
            }
        });
        let name = name.unwrap_or_default();
        ensure!(known.contains(&name.as_str()), "{at}: <{name}");
    }
    for part in picture.split('&').skip(1) {
        let entity = part.split(';').next().unwrap_or_default();
        let known =
            ["lt", "gt", "amp", "quot", "apos"].contains(&entity) || entity.starts_with('#');
        ensure!(known, "&{entity}");
    }
    ensure!(picture.contains("&lt;b&gt;&amp;"), "the name is not in it");
    Ok(())
}

/// On a terminal, whose end has to be in the namespace, too: by the shell that starts the command.
fn screen() -> Result<()> {
    missing::needs_programs()?;
    let names = interfaces();
    let mut scene = Scene::new(&names)?;
    let mut open = Vec::new();
    for (agent, place) in scene.agents.iter_mut().zip(&scene.places) {
        let (listener, at) = agent.listen(&format!("{place}:0"))?;
        let fd = agent.open(&at)?;
        agent.run(&format!("connect {fd} {at}"))?;
        agent.number(&format!("accept {listener}"))?;
        open.push(agent.pid());
    }
    let netns = scene.ns.inode.to_string();
    let mut screen = Screen::start_in(&scene.ns, &["-i", "100ms", "--netns", &netns])?;
    screen.resize(80, 200)?;
    screen.press("a")?;
    for pid in open {
        screen.shows(&pid.to_string())?;
    }
    screen.shows("%<b>&")?;
    screen.press("q")?;
    let text = screen.ended()?.replace(['\x18', '\r', '\n'], "");
    ensure!(odd(&text, true).is_none(), "{:?}", odd(&text, true));
    Ok(())
}
