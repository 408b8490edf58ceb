// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's commands on sockets that are not TCP's, and on buffers.

use std::net::SocketAddr;

use nix::{
    Result,
    errno::Errno,
    libc,
    sys::socket::{self, MsgFlags, SockaddrStorage},
};

use super::{number, sys, unhex};

/// `None`: not a command of this kind.
pub fn execute(verb: &str, args: &[&str]) -> Option<Result<String>> {
    Some(match verb {
        "any" => any(args),
        "sendto" => send_to(args),
        "sendhex" => send_hex(args),
        "pings" => pings(args),
        "offer" => offer(args),
        "dribble" => dribble(args),
        "meminfo" => meminfo(args),
        _ => return None,
    })
}

/// `any FAMILY TYPE PROTOCOL`, all numbers: a socket of any kind.
fn any(args: &[&str]) -> Result<String> {
    sys::any_socket(number(args, 0)?, number(args, 1)?, number(args, 2)?).map(|fd| fd.to_string())
}

/// `sendto FD ADDRESS BYTES COUNT`: so many datagrams.
fn send_to(args: &[&str]) -> Result<String> {
    let to = SockaddrStorage::from(number::<SocketAddr>(args, 1)?);
    let data = vec![b'x'; number(args, 2)?];
    for _ in 0..number::<usize>(args, 3)? {
        socket::sendto(number(args, 0)?, &data, &to, MsgFlags::empty())?;
    }
    Ok(String::new())
}

/// `sendhex FD ADDRESS HEX`: one datagram of these bytes.
fn send_hex(args: &[&str]) -> Result<String> {
    let to = SockaddrStorage::from(number::<SocketAddr>(args, 1)?);
    let data = unhex(args.get(2).ok_or(Errno::EINVAL)?)?;
    let sent = socket::sendto(number(args, 0)?, &data, &to, MsgFlags::empty())?;
    Ok(sent.to_string())
}

/// `pings FD BYTES COUNT`: so many echo requests through a connected ping socket.
fn pings(args: &[&str]) -> Result<String> {
    let fd = number(args, 0)?;
    let v6 = socket::getsockname::<SockaddrStorage>(fd)?
        .as_sockaddr_in6()
        .is_some();
    let mut data = vec![b'x'; 8 + number::<usize>(args, 1)?];
    data[..8].copy_from_slice(&[if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1]);
    for _ in 0..number::<usize>(args, 2)? {
        socket::send(fd, &data, MsgFlags::empty())?;
    }
    Ok(String::new())
}

/// `offer FD BYTES`: sends what the socket takes at once; how much that was.
fn offer(args: &[&str]) -> Result<String> {
    let data = vec![b'x'; number(args, 1)?];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    socket::send(number(args, 0)?, &data, flags).map(|sent| sent.to_string())
}

/// `dribble FD BYTES COUNT`: so many segments, as far as the socket takes them at once; how many.
fn dribble(args: &[&str]) -> Result<String> {
    let (data, flags) = (
        vec![b'x'; number(args, 1)?],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
    );
    let fd = number(args, 0)?;
    let sent =
        (0..number::<usize>(args, 2)?).take_while(|_| socket::send(fd, &data, flags).is_ok());
    Ok(sent.count().to_string())
}

/// `meminfo FD`: SO_MEMINFO, as `ss -m` shows it: rmem, rcvbuf, and drops.
fn meminfo(args: &[&str]) -> Result<String> {
    let raw = sys::get_option::<36>(number(args, 0)?, libc::SOL_SOCKET, SO_MEMINFO)?;
    let words: Vec<u32> = raw
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    Ok(format!(
        "rmem={} rcvbuf={} drops={}",
        words[0], words[1], words[8]
    ))
}

/// include/uapi/asm-generic/socket.h
const SO_MEMINFO: i32 = 55;
