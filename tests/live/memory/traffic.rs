// SPDX-License-Identifier: MIT OR Apache-2.0
//! A little of everything that the commands send records of.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use nix::sys::socket::{setsockopt, sockopt};

use crate::net::Netns;

/// What is not answered, to which a SYN is sent again; and where nobody listens.
const SILENT: u16 = 9;
const CLOSED: u16 = 10;
/// How long a SYN waits before it is sent again, and something more.
const AGAIN: Duration = Duration::from_millis(1500);

/// Its listeners, and a socket that is never read.
pub struct Traffic {
    listeners: [TcpListener; 2],
    unread: UdpSocket,
}

impl Traffic {
    pub fn new(ns: &Netns) -> Result<Self> {
        ns.nft(&format!(
            "table inet t {{ chain c {{ type filter hook input priority 0; tcp dport {SILENT} drop; }}; }}"
        ))?;
        ns.inside(|| {
            let unread = UdpSocket::bind("127.0.0.1:0")?;
            setsockopt(&unread, sockopt::RcvBuf, &1)?;
            let listeners = ["127.0.0.1:0", "[::1]:0"].map(TcpListener::bind);
            let [v4, v6] = listeners;
            Ok(Self {
                listeners: [v4?, v6?],
                unread,
            })
        })
    }

    pub fn run(&self, ns: &Netns) -> Result<()> {
        ns.inside(|| {
            for listener in &self.listeners {
                talk(listener)?;
                reset(listener)?;
                let mut closed = listener.local_addr()?;
                closed.set_port(CLOSED);
                let _ = TcpStream::connect(closed);
            }
            self.overflow()?;
            let silent = SocketAddr::from(([127, 0, 0, 1], SILENT));
            let _ = TcpStream::connect_timeout(&silent, AGAIN);
            Ok(())
        })
    }

    fn overflow(&self) -> Result<()> {
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        for _ in 0..20 {
            sender.send_to(&[1; 1000], self.unread.local_addr()?)?;
        }
        Ok(())
    }
}

/// A request, an answer, and an orderly end.
fn talk(listener: &TcpListener) -> Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let mut bytes = vec![1; 10_000];
    for _ in 0..2 {
        client.write_all(&bytes)?;
        server.read_exact(&mut bytes)?;
        server.write_all(&bytes)?;
        client.read_exact(&mut bytes)?;
    }
    client.shutdown(Shutdown::Write)?;
    server.read_to_end(&mut bytes)?;
    drop(server);
    client.read_to_end(&mut bytes)?;
    Ok(())
}

/// One whose end has data that nobody has read.
fn reset(listener: &TcpListener) -> Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.write_all(b"unread")?;
    let mut byte = [0];
    server.peek(&mut byte)?;
    drop(server);
    let _ = client.read(&mut byte);
    Ok(())
}
