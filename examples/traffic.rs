// SPDX-License-Identifier: MIT OR Apache-2.0
//! Demo traffic on loopback: sessions that end in every common way, so that a tool has rows to show on an idle host.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// One request and its answer; who closes first is up to the caller.
fn session(
    server: SocketAddr,
    bytes: usize,
    listener: &TcpListener,
) -> std::io::Result<(TcpStream, TcpStream)> {
    let mut client = TcpStream::connect(server)?;
    let (mut accepted, _) = listener.accept()?;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut request = [0; 18];
    accepted.read_exact(&mut request)?;
    accepted.write_all(&vec![b'x'; bytes])?;
    let mut answer = vec![0; bytes];
    client.read_exact(&mut answer)?;
    thread::sleep(Duration::from_millis(20));
    Ok((client, accepted))
}

/// Closes `first`, and `second` when it has seen that.
fn close_in_order(first: TcpStream, mut second: TcpStream) -> std::io::Result<()> {
    drop(first);
    second.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn sessions_to(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind((address, 0))?;
    let server = listener.local_addr()?;

    let (client, accepted) = session(server, 20_000, &listener)?;
    println!("{server}: the client closes first");
    close_in_order(client, accepted)?;

    let (client, accepted) = session(server, 2_000, &listener)?;
    println!("{server}: the server closes first");
    close_in_order(accepted, client)?;

    let (client, mut accepted) = session(server, 1, &listener)?;
    println!("{server}: the client closes with unread data, and so resets");
    accepted.write_all(b"never read")?;
    thread::sleep(Duration::from_millis(20));
    drop(client);

    drop(listener);
    println!("{server}: nobody listens any more, and the connection is refused");
    assert!(TcpStream::connect(server).is_err());
    Ok(())
}

fn main() -> std::io::Result<()> {
    for _ in 0..2 {
        for address in ["127.0.0.1", "::1"] {
            if let Err(error) = sessions_to(address) {
                println!("{address}: {error}");
            }
            thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}
