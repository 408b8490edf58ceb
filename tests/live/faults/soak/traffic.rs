// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mixed traffic with loss between two namespaces that are made for it, and the kernel's counters of it before they go.

use std::{
    fmt, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::{
    net::{Net, Netns, Side},
    pair,
};

/// Addresses that no other test has.
fn prefixes() -> [String; 2] {
    let pid = std::process::id() % 250;
    [format!("198.18.{pid}."), format!("fd98:{pid:x}::")]
}

/// Their networks, as an argument.
pub fn networks() -> String {
    let [v4, v6] = prefixes();
    format!("{v4}0/24,{v6}/64")
}

/// What the kernel has counted.
#[derive(Default)]
pub struct Counted {
    pub rounds: u64,
    active: u64,
    passive: u64,
    retransmitted: u64,
    /// Of IPv4, and of IPv6.
    overflowed: [u64; 2],
}

impl Counted {
    pub fn add(&mut self, other: &Self) {
        self.rounds += 1;
        self.active += other.active;
        self.passive += other.passive;
        self.retransmitted += other.retransmitted;
        for (sum, more) in self.overflowed.iter_mut().zip(other.overflowed) {
            *sum += more;
        }
    }

    /// What the rows of a command have to be, if the kernel counts the same.
    pub fn of(&self, tool: &str) -> Option<u64> {
        match tool {
            "tcplife" | "tcpinfo" => Some(self.active + self.passive),
            "tcpconnect" | "tcpstates" => Some(self.active),
            "tcpaccept" => Some(self.passive),
            "tcpretrans" => Some(self.retransmitted),
            "sockbuf" => Some(self.overflowed.iter().sum()),
            _ => None,
        }
    }

    /// Whether so many rows are too few only since old kernels (5.10) do not report IPv6's datagrams without room.
    pub fn is_of_v4(&self, tool: &str, found: u64) -> bool {
        tool == "sockbuf" && found == self.overflowed[0]
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} active and {} passive opens, {} segments sent again, {} datagrams without room",
            self.active,
            self.passive,
            self.retransmitted,
            self.overflowed.iter().sum::<u64>()
        )
    }
}

/// Two namespaces, their traffic, their counters, and their end.
pub fn round() -> Result<Counted> {
    let net = Net::new()?;
    let prefixes = prefixes();
    for (side, host, other) in [(Side::A, 1, 2), (Side::B, 2, 1)] {
        let [v4, v6] = &prefixes;
        let mac = format!("02:00:00:00:09:0{other}");
        net.side(side).ip(&format!(
            "addr add {v4}{host}/24 dev v0\naddr add {v6}{host}/64 dev v0 nodad\n\
             neigh replace {v4}{other} dev v0 lladdr {mac} nud permanent\n\
             neigh replace {v6}{other} dev v0 lladdr {mac} nud permanent"
        ))?;
    }
    // Of what has data; what a handshake loses takes a second to come again.
    let rule =
        "tcp flags & (syn | fin | rst) == 0 meta length > 500 numgen random mod 40 == 0 drop";
    pair::filter(&net.b, "input", rule)?;
    for prefix in &prefixes {
        sessions(&net, prefix)?;
        datagrams(&net, prefix)?;
    }
    net.quiet()?;
    let mut all = Counted::default();
    for ns in [&net.a, &net.b] {
        let counters = ns.counters()?;
        let counter = |name: &str| counters.get(name).copied().context(name.to_owned());
        all.active += counter("Tcp.ActiveOpens")?;
        all.passive += counter("Tcp.PassiveOpens")?;
        all.retransmitted += counter("Tcp.RetransSegs")?;
        all.overflowed[0] += counter("Udp.RcvbufErrors")?;
        all.overflowed[1] += ns.inside(overflowed_v6)?;
    }
    Ok(all)
}

/// `Udp6RcvbufErrors`, which has a file of its own.
fn overflowed_v6() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp6")?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    Ok(line.context("Udp6RcvbufErrors")?.trim().parse()?)
}

fn place(prefix: &str, host: u8, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(format!("{prefix}{host}").parse()?, port))
}

/// Short ones, refused ones, and one that carries much.
fn sessions(net: &Net, prefix: &str) -> Result<()> {
    let listener = net
        .b
        .inside(|| Ok(TcpListener::bind(place(prefix, 2, 0)?)?))?;
    let at = listener.local_addr()?;
    let server = thread::spawn(move || -> Result<()> {
        for number in 0..SHORT + 1 {
            let (mut stream, _) = listener.accept()?;
            answer(&mut stream, number)?;
        }
        Ok(())
    });
    let nobody = place(prefix, 2, 9)?;
    net.a.inside(|| {
        for number in 0..SHORT {
            let mut stream = TcpStream::connect(at)?;
            stream.write_all(&[0; 300])?;
            stream.read_exact(&mut [0; 2000])?;
            drop(stream);
            ensure!(number % 5 > 0 || TcpStream::connect(nobody).is_err());
        }
        let mut stream = TcpStream::connect(at)?;
        stream.write_all(&vec![0; BULK])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })?;
    server.join().expect("no panic")
}

const SHORT: usize = 40;
const BULK: usize = 2 << 20;

fn answer(stream: &mut TcpStream, number: usize) -> Result<()> {
    if number == SHORT {
        stream.read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    stream.read_exact(&mut [0; 300])?;
    stream.write_all(&[0; 2000])?;
    if number.is_multiple_of(4) {
        // The client ends it.
        stream.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// More than the socket has room for.
fn datagrams(net: &Net, prefix: &str) -> Result<()> {
    let udp = |ns: &Netns, host| ns.inside(|| Ok(UdpSocket::bind(place(prefix, host, 0)?)?));
    let (sender, receiver) = (udp(&net.a, 1)?, udp(&net.b, 2)?);
    let small = 2048usize;
    nix::sys::socket::setsockopt(&receiver, nix::sys::socket::sockopt::RcvBuf, &small)?;
    let to = receiver.local_addr()?;
    for _ in 0..30 {
        sender.send_to(&[0; 400], to)?;
    }
    Ok(())
}
