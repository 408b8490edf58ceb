// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client, a server, and `tcptools metrics` that watches both, in namespaces of their own.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;

use crate::{
    missing,
    net::{Net, Netns},
    peer::Agent,
    servers::program,
    tool::Tool,
    trial::trial,
    wait::PATIENCE,
};

const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

pub struct Scene {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
    pub metrics: Metrics,
}

/// One test per family.
pub fn trials(name: &str, play: fn(Scene, &str) -> Result<()>) -> Vec<Trial> {
    let one = |host: &'static str| {
        let family = if host.starts_with('[') { 6 } else { 4 };
        trial(format!("metrics::{name}_v{family}"), move || {
            play(Scene::new(&[])?, host)
        })
    };
    HOSTS.map(one).into()
}

impl Scene {
    pub fn new(args: &[&str]) -> Result<Self> {
        missing::needs_programs()?;
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        let metrics = Metrics::start(&net.inodes(), args)?;
        Ok(Self { net, c, s, metrics })
    }

    /// A new session with a listener: the client's descriptor, the server's.
    pub fn connect(&mut self, at: &str, listener: u64) -> Result<(u64, u64)> {
        let fd = self.c.open(at)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        Ok((fd, self.s.number(&format!("accept {listener}"))?))
    }

    /// A new session, and no listener.
    pub fn session(&mut self, host: &str) -> Result<(u64, u64)> {
        let (listener, at) = self.s.listen(host)?;
        let ends = self.connect(&at, listener)?;
        self.s.run(&format!("close {listener}"))?;
        Ok(ends)
    }

    /// Bytes from the client to the server.
    pub fn send(&mut self, (c, s): (u64, u64), bytes: u64) -> Result<()> {
        self.c.run(&format!("send {c} {bytes}"))?;
        self.s.run(&format!("recv {s} {bytes}"))?;
        self.c.run(&format!("drained {c}")).map(drop)
    }

    /// The client closes first.
    pub fn close(&mut self, (c, s): (u64, u64)) -> Result<()> {
        self.c.run(&format!("close {c}"))?;
        self.s.run(&format!("eof {s}"))?;
        self.s.run(&format!("close {s}"))?;
        self.net.quiet()
    }

    /// A counter of the kernel, of both sides.
    pub fn kernel(&self, name: &str) -> Result<u64> {
        let of = |ns: &Netns| -> Result<u64> {
            let all = ns.counters()?;
            all.get(name)
                .copied()
                .with_context(|| format!("no counter {name}"))
        };
        Ok(of(&self.net.a)? + of(&self.net.b)?)
    }
}

/// The command, in a namespace where nothing else listens.
pub struct Metrics {
    pub ns: Arc<Netns>,
    pub tool: Tool,
    address: SocketAddr,
}

/// Where it listens unless told otherwise.
pub const ADDRESS: &str = "127.0.0.1:9435";

impl Metrics {
    pub fn start(netns: &str, args: &[&str]) -> Result<Self> {
        Self::start_at(ADDRESS.parse()?, netns, args)
    }

    pub fn start_at(address: SocketAddr, netns: &str, args: &[&str]) -> Result<Self> {
        let ns = Arc::new(Netns::new()?);
        let args = [&["metrics", "--netns", netns], args].concat();
        let tool = Tool::start_in(&ns, "tcptools", &args)?;
        Ok(Self { ns, tool, address })
    }

    /// A connection to it.
    pub fn open(&self) -> Result<TcpStream> {
        let address = self.address;
        self.ns.inside(move || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }

    /// What it answers.
    pub fn ask(&self, request: &str) -> Result<Answer> {
        let mut stream = self.open()?;
        stream.write_all(request.as_bytes())?;
        answer(stream)
    }

    pub fn scrape(&self) -> Result<Page> {
        let answer = self.ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
        ensure!(answer.status == "200 OK", "{answer:?}");
        Page::read(&answer.body)
    }

    /// Resident memory, in KiB.
    pub fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.tool.child.id());
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: String,
    pub head: String,
    pub body: String,
}

pub fn answer(mut stream: TcpStream) -> Result<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| text.clone())?;
    let status = head.lines().next().and_then(|line| line.split_once(' '));
    let status = status.map(|(_, status)| status);
    Ok(Answer {
        status: status.context("no status")?.to_owned(),
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// The numbers of a page, by name and labels as they are written.
#[derive(Debug)]
pub struct Page(pub HashMap<String, f64>);

impl Page {
    pub fn read(text: &str) -> Result<Self> {
        let mut all = HashMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let number = number.parse().with_context(|| line.to_owned())?;
            let before = all.insert(name.to_owned(), number);
            ensure!(before.is_none(), "twice: {line}");
        }
        Ok(Self(all))
    }

    /// The sum of a metric's series that have all of these labels.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let mine = self.0.iter().filter(|(series, _)| {
            let (own, rest) = series.split_once('{').unwrap_or((series, ""));
            own == format!("tcptools_{name}") && labels.iter().all(|label| rest.contains(label))
        });
        mine.map(|(_, number)| *number).sum::<f64>() as u64
    }

    /// Whether the sum is so much.
    pub fn want(&self, name: &str, labels: &[&str], want: u64) -> Result<()> {
        let sum = self.sum(name, labels);
        if sum != want {
            let mut all: Vec<_> = self.0.iter().filter(|(n, _)| n.contains(name)).collect();
            all.sort_by_key(|(name, _)| *name);
            bail!("{name} {labels:?} is {sum}, not {want}: {all:?}");
        }
        Ok(())
    }
}

/// Of Debian's package, which `.ci/run` and `check.sh` install: where live tests must run, they do not pass without it.
/// Guests, whose commands lie elsewhere, have no packages.
pub fn program_of_prometheus(name: &str) -> Result<PathBuf> {
    let found = program::find("prometheus", name);
    let guest = std::env::var_os("TCPTOOLS_BIN_DIR").is_some();
    let required = std::env::var_os("TCPTOOLS_REQUIRE_LIVE").is_some_and(|on| on == "1");
    match found {
        Err(missing) if required && !guest => bail!("{missing}: apt-get install prometheus"),
        found => found,
    }
}

/// How long a scrape may take, however busy its server is with others.
pub const SOON: Duration = Duration::from_secs(5);

/// Loopback of the namespace.
pub const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
