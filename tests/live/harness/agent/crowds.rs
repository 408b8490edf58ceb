// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's commands on many connections: one after the other, or open at once.

use std::{net::SocketAddr, os::fd::RawFd};

use nix::{
    Result,
    errno::Errno,
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{self, MsgFlags, SockFlag, SockaddrStorage},
    },
    unistd::{self, Pid},
};

use super::{State, number, sockets, sys};

/// How a connection of a storm ends; the client's first byte says it.
const ENDINGS: u8 = 4;
/// The client resets. In the first kind it closes before the server does.
const RESET: u8 = 1;
/// The server closes first.
const SERVER: u8 = 2;
// Nobody listens where the last kind goes: there is no connection.

/// `None`: not a command of this kind.
pub fn execute(state: &mut State, verb: &str, args: &[&str]) -> Option<Result<String>> {
    let done = match verb {
        "pin" => pin(args),
        "realtime" => number(args, 0).and_then(sys::become_realtime),
        "storm" => storm(args),
        "serve" => serve(args),
        "crowd" => crowd(state, args),
        "welcome" => welcome(state, args),
        "disperse" => disperse(state),
        _ => return None,
    };
    Some(done.map(|()| String::new()))
}

/// `pin N`: runs on the Nth of the processors that it may run on, counted round.
fn pin(args: &[&str]) -> Result<()> {
    let me = Pid::from_raw(0);
    let may = sched_getaffinity(me)?;
    let all: Vec<_> = (0..CpuSet::count())
        .filter(|cpu| may.is_set(*cpu) == Ok(true))
        .collect();
    let mut only = CpuSet::new();
    only.set(all[number::<usize>(args, 0)? % all.len()])?;
    sched_setaffinity(me, &only)
}

fn address(args: &[&str], index: usize) -> Result<SockaddrStorage> {
    number::<SocketAddr>(args, index).map(SockaddrStorage::from)
}

fn socket_to(at: &SockaddrStorage) -> Result<RawFd> {
    let family = match at.as_sockaddr_in6() {
        Some(_) => libc::AF_INET6,
        None => libc::AF_INET,
    };
    sys::socket(family, libc::IPPROTO_TCP)
}

/// `storm ADDRESS REFUSES COUNT`: so many opens, which end in every way in turn.
fn storm(args: &[&str]) -> Result<()> {
    let (at, refuses) = (address(args, 0)?, address(args, 1)?);
    for index in 0..number::<u64>(args, 2)? {
        let ending = (index % u64::from(ENDINGS)) as u8;
        if ending > SERVER {
            let fd = socket_to(&refuses)?;
            if socket::connect(fd, &refuses) != Err(Errno::ECONNREFUSED) {
                return Err(Errno::EISCONN);
            }
            unistd::close(fd)?;
            continue;
        }
        let fd = socket_to(&at)?;
        socket::connect(fd, &at)?;
        socket::send(fd, &[ending], MsgFlags::MSG_NOSIGNAL)?;
        socket::recv(fd, &mut [0], MsgFlags::empty())?;
        match ending {
            RESET => sockets::execute("linger0", &[&fd.to_string()]).map(drop)?,
            SERVER => drop(socket::recv(fd, &mut [0], MsgFlags::empty())?),
            _ => {}
        }
        unistd::close(fd)?;
    }
    Ok(())
}

/// `serve FD COUNT`: the other side of as many opens.
fn serve(args: &[&str]) -> Result<()> {
    let listener: RawFd = number(args, 0)?;
    for index in 0..number::<u64>(args, 1)? {
        if (index % u64::from(ENDINGS)) as u8 > SERVER {
            continue;
        }
        let fd = socket::accept4(listener, SockFlag::SOCK_CLOEXEC)?;
        let mut ending = [0];
        socket::recv(fd, &mut ending, MsgFlags::empty())?;
        socket::send(fd, &[0], MsgFlags::MSG_NOSIGNAL)?;
        if ending[0] != SERVER {
            // Nothing more comes, or a reset.
            let _ = socket::recv(fd, &mut [0], MsgFlags::empty());
        }
        unistd::close(fd)?;
    }
    Ok(())
}

/// As many descriptors as it may have.
fn more_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// `crowd COUNT ADDRESS...`: so many connections to each, which stay open.
fn crowd(state: &mut State, args: &[&str]) -> Result<()> {
    more_descriptors()?;
    for index in 1..args.len() {
        let at = address(args, index)?;
        for _ in 0..number::<u64>(args, 0)? {
            let fd = socket_to(&at)?;
            state.crowd.push(fd);
            socket::connect(fd, &at)?;
        }
    }
    Ok(())
}

/// `welcome COUNT FD...`: takes so many from each listener.
fn welcome(state: &mut State, args: &[&str]) -> Result<()> {
    more_descriptors()?;
    for index in 1..args.len() {
        let listener = number(args, index)?;
        for _ in 0..number::<u64>(args, 0)? {
            let fd = socket::accept4(listener, SockFlag::SOCK_CLOEXEC)?;
            state.crowd.push(fd);
        }
    }
    Ok(())
}

/// `disperse`: closes them all.
fn disperse(state: &mut State) -> Result<()> {
    state.crowd.drain(..).try_for_each(unistd::close)
}
