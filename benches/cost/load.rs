// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loads: each is a child process of two threads, client and server, on the loopback of our own namespace.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use crate::subject::command;

/// A kind of traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Connections that say one word, closed in order.
    Storm,
    /// The same from as many pairs of threads as saturate the host, ten times as many: for losses.
    Flood,
    /// Connections that say one word, ended by an RST.
    Reset,
    /// One stream with 1 % of its segments lost.
    Bulk,
    /// Datagrams to a socket whose buffer is full.
    Drop,
    /// One byte there and one back, on one connection.
    Turns,
    /// Single bytes, one call each, on one connection.
    Bytes,
}

impl Load {
    pub const ALL: [Self; 7] = [
        Self::Storm,
        Self::Reset,
        Self::Bulk,
        Self::Drop,
        Self::Turns,
        Self::Bytes,
        Self::Flood,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Storm => "storm",
            Self::Flood => "flood",
            Self::Reset => "reset",
            Self::Bulk => "bulk",
            Self::Drop => "drop",
            Self::Turns => "turns",
            Self::Bytes => "bytes",
        }
    }

    pub fn by_name(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|load| load.name() == name);
        found.with_context(|| format!("there is no load {name}"))
    }

    /// How many connections it makes, or blocks it sends, when it is asked for so many.
    pub fn units(self, connections: usize) -> usize {
        match self {
            Self::Flood => connections * 10,
            Self::Bulk => connections / 4,
            Self::Drop | Self::Turns | Self::Bytes => connections * 5,
            _ => connections,
        }
    }

    /// What it makes one of.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Storm | Self::Flood => "connection",
            Self::Reset => "reset",
            Self::Bulk => "10 KB",
            Self::Drop => "drop",
            Self::Turns => "turn",
            Self::Bytes => "byte",
        }
    }

    /// The same of many.
    pub fn units_name(self) -> &'static str {
        match self {
            Self::Storm | Self::Flood => "connections",
            Self::Reset => "resets",
            Self::Bulk => "blocks of 10 KB",
            Self::Drop => "drops",
            Self::Turns => "turns",
            Self::Bytes => "bytes",
        }
    }

    /// In words, for the heading.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Storm => "one after the other, each says one word",
            Self::Flood => "from two pairs of threads per CPU",
            Self::Reset => "one connection after the other",
            Self::Bulk => "in one stream, 1 % of its segments lost",
            Self::Drop => "of datagrams of 1000 bytes, for a full buffer",
            Self::Turns => "of a byte there and a byte back, on one connection",
            Self::Bytes => "in a call each, on one connection",
        }
    }

    /// Sets up what the load needs.
    pub fn prepare(self) -> Result<()> {
        if self == Self::Bulk {
            let rules = "table inet loss { chain in { type filter hook input priority 0; iif lo meta l4proto tcp meta length > 1000 numgen random mod 100 < 1 drop; }; }";
            command(&["nft", rules])?;
            // Segments of a real link, not of 64 KiB: otherwise a loss is rare and an acknowledgement rarer.
            let one = ["mtu", "1500", "gso_max_segs", "1"];
            command(&[&["ip", "link", "set", "lo"][..], &one].concat())?;
        }
        Ok(())
    }

    pub fn clean_up(self) -> Result<()> {
        if self == Self::Bulk {
            command(&["nft", "delete", "table", "inet", "loss"])?;
            let many = ["mtu", "65536", "gso_max_segs", "65535"];
            command(&[&["ip", "link", "set", "lo"][..], &many].concat())?;
        }
        Ok(())
    }

    /// Runs it in a process of its own; its rate.
    pub fn run(self, connections: usize) -> Result<f64> {
        let output = Command::new(env::current_exe()?)
            .args(["load", self.name(), &connections.to_string()])
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let error = || String::from_utf8_lossy(&output.stderr).into_owned();
        text.trim().parse().with_context(error)
    }
}

/// The child's half: `NAME CONNECTIONS`, prints the rate.
pub fn child(args: &[String]) -> Result<()> {
    let [name, connections] = args else {
        bail!("load NAME CONNECTIONS");
    };
    let connections = connections.parse()?;
    let rate = match Load::by_name(name)? {
        Load::Storm => connect(connections, false)?,
        Load::Flood => flood(connections)?,
        Load::Reset => connect(connections, true)?,
        Load::Bulk => stream(connections)?,
        Load::Drop => drop_datagrams(connections)?,
        Load::Turns => turns(connections)?,
        Load::Bytes => bytes(connections)?,
    };
    println!("{rate}");
    Ok(())
}

/// Its close() sends an RST instead of a FIN.
pub fn reset_at_close(stream: &TcpStream) -> Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(stream, sockopt::Linger, &linger)?)
}

fn connect(connections: usize, reset: bool) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?;
    let serve = thread::spawn(move || -> Result<()> {
        for _ in 0..connections {
            let (mut accepted, _) = listener.accept()?;
            accepted.read_exact(&mut [0; 5])?;
            if reset {
                // The client waits for it: otherwise the accept queue overflows, and a SYN is repeated after 1 s.
                accepted.write_all(b"!")?;
                // The client's RST ends the wait with an error, as it should.
                let _ = accepted.read(&mut [0; 1]);
            }
        }
        Ok(())
    });
    let begun = Instant::now();
    for _ in 0..connections {
        let mut client = TcpStream::connect(server)?;
        client.write_all(b"hello")?;
        if reset {
            client.read_exact(&mut [0; 1])?;
            reset_at_close(&client)?;
        } else {
            client.read_to_end(&mut vec![])?;
        }
    }
    let rate = connections as f64 / begun.elapsed().as_secs_f64();
    serve.join().expect("the server does not panic")?;
    Ok(rate)
}

/// Two pairs of threads per processor, so that none is ever idle.
fn flood(connections: usize) -> Result<f64> {
    let pairs = thread::available_parallelism()?.get() * 2;
    let pairs = (0..pairs).map(|_| thread::spawn(move || connect(connections / pairs, false)));
    let pairs: Vec<_> = pairs.collect();
    let rates = pairs.into_iter().map(|p| p.join().expect("no panic"));
    rates.sum()
}

/// `connections` times 10 KB in one stream.
fn stream(connections: usize) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut accepted, _) = listener.accept()?;
    let serve = thread::spawn(move || std::io::copy(&mut accepted, &mut std::io::sink()));
    let chunk = [0; 10_000];
    let begun = Instant::now();
    for _ in 0..connections {
        client.write_all(&chunk)?;
    }
    drop(client);
    serve.join().expect("the server does not panic")?;
    Ok(connections as f64 / begun.elapsed().as_secs_f64())
}

/// A connection on loopback: the client's end, the server's.
fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    client.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    Ok((client, accepted))
}

fn turns(turns: usize) -> Result<f64> {
    let (mut client, mut accepted) = pair()?;
    let serve = thread::spawn(move || -> Result<()> {
        let mut byte = [0];
        for _ in 0..turns {
            accepted.read_exact(&mut byte)?;
            accepted.write_all(&byte)?;
        }
        Ok(())
    });
    let begun = Instant::now();
    let mut byte = [0];
    for _ in 0..turns {
        client.write_all(&byte)?;
        client.read_exact(&mut byte)?;
    }
    let rate = turns as f64 / begun.elapsed().as_secs_f64();
    serve.join().expect("the server does not panic")?;
    Ok(rate)
}

fn bytes(bytes: usize) -> Result<f64> {
    let (mut client, mut accepted) = pair()?;
    let serve = thread::spawn(move || std::io::copy(&mut accepted, &mut std::io::sink()));
    let begun = Instant::now();
    for _ in 0..bytes {
        client.write_all(&[0])?;
    }
    drop(client);
    serve.join().expect("the server does not panic")?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// Datagrams that nobody reads; the first few hundred fill the buffer.
fn drop_datagrams(datagrams: usize) -> Result<f64> {
    let full = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(full.local_addr()?)?;
    let begun = Instant::now();
    for _ in 0..datagrams {
        sender.send(&[0; 1000])?;
    }
    Ok(datagrams as f64 / begun.elapsed().as_secs_f64())
}
