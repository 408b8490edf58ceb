// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's commands on sockets.

use std::{
    net::SocketAddr,
    os::fd::RawFd,
    time::{Duration, Instant},
};

use nix::{
    Result,
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{self, Backlog, MsgFlags, Shutdown, SockFlag, SockaddrStorage},
    unistd,
};

use super::{number, sys, sys::borrow, unhex};

/// Where the fields of `struct tcp_info` lie (include/uapi/linux/tcp.h): name, offset, size.
const TCP_INFO_FIELDS: [(&str, usize, usize); 45] = [
    ("state", 0, 1),
    ("ca_state", 1, 1),
    ("retransmits", 2, 1),
    ("backoff", 4, 1),
    ("options", 5, 1),
    ("wscale", 6, 1),
    ("rto", 8, 4),
    ("snd_mss", 16, 4),
    ("rcv_mss", 20, 4),
    ("unacked", 24, 4),
    ("sacked", 28, 4),
    ("lost", 32, 4),
    ("retrans", 36, 4),
    ("last_data_sent", 44, 4),
    ("last_data_recv", 52, 4),
    ("pmtu", 60, 4),
    ("rcv_ssthresh", 64, 4),
    ("srtt_us", 68, 4),
    ("rttvar", 72, 4),
    ("snd_ssthresh", 76, 4),
    ("snd_cwnd", 80, 4),
    ("advmss", 84, 4),
    ("reordering", 88, 4),
    ("rcv_rtt", 92, 4),
    ("rcv_space", 96, 4),
    ("total_retrans", 100, 4),
    ("pacing_rate", 104, 8),
    ("bytes_acked", 120, 8),
    ("bytes_received", 128, 8),
    ("segs_out", 136, 4),
    ("segs_in", 140, 4),
    ("min_rtt_us", 148, 4),
    ("data_segs_in", 152, 4),
    ("data_segs_out", 156, 4),
    ("delivery_rate", 160, 8),
    ("busy_time", 168, 8),
    ("rwnd_limited", 176, 8),
    ("sndbuf_limited", 184, 8),
    ("delivered", 192, 4),
    ("bytes_sent", 200, 8),
    ("bytes_retrans", 208, 8),
    ("reord_seen", 220, 4),
    ("rcv_ooopack", 224, 4),
    ("snd_wnd", 228, 4),
    ("rcv_wnd", 232, 4),
];

pub fn execute(verb: &str, args: &[&str]) -> Result<String> {
    match verb {
        "socket" => return open(args),
        "accept" => {
            return socket::accept4(number(args, 0)?, SockFlag::SOCK_CLOEXEC)
                .map(|fd| fd.to_string());
        }
        "send" => return send(number(args, 0)?, number(args, 1)?),
        "fastopen" => return fast_open(args),
        "recv" => return receive(number(args, 0)?, Some(number(args, 1)?)),
        "eof" => return receive(number(args, 0)?, None),
        "cookie" => return cookie(number(args, 0)?),
        "local" => {
            return socket::getsockname::<SockaddrStorage>(number(args, 0)?).map(|a| a.to_string());
        }
        "peer" => {
            return socket::getpeername::<SockaddrStorage>(number(args, 0)?).map(|a| a.to_string());
        }
        "info" => return info(number(args, 0)?),
        "value" => return value(args),
        "error" => return error(number(args, 0)?),
        _ => {}
    }
    act(verb, number(args, 0)?, args).map(|()| String::new())
}

/// The commands that return nothing but success.
fn act(verb: &str, fd: RawFd, args: &[&str]) -> Result<()> {
    match verb {
        "bind" => socket::bind(fd, &address(args)?),
        "listen" => socket::listen(&borrow(fd), Backlog::new(number::<i32>(args, 1)?)?),
        "connect" => socket::connect(fd, &address(args)?),
        "disconnect" => sys::disconnect(fd),
        // Waits for something to read, or the end, and leaves it there.
        "peek" => socket::recv(fd, &mut [0], MsgFlags::MSG_PEEK).map(drop),
        "shutdown" => socket::shutdown(fd, how(args)?),
        "close" => unistd::close(fd),
        "nonblock" => fcntl(borrow(fd), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop),
        "option" => sys::set_option(
            fd,
            number(args, 1)?,
            number(args, 2)?,
            &number::<i32>(args, 3)?,
        ),
        "optionhex" => {
            let bytes = unhex(args.get(3).ok_or(Errno::EINVAL)?)?;
            sys::set_option_bytes(fd, number(args, 1)?, number(args, 2)?, &bytes)
        }
        "linger0" => {
            let abort = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &abort)
        }
        "drop" => sys::drop_incoming(fd),
        "undrop" => sys::set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32),
        "drained" => drained(fd),
        "errqueue" => errqueue(fd),
        "polled" => polled(fd),
        "linger" => {
            let wait = libc::linger {
                l_onoff: 1,
                l_linger: number(args, 1)?,
            };
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &wait)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn open(args: &[&str]) -> Result<String> {
    let family = if args.first() == Some(&"6") {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let protocol = if args.contains(&"mptcp") {
        libc::IPPROTO_MPTCP
    } else {
        libc::IPPROTO_TCP
    };
    let fd = sys::socket(family, protocol)?;
    // Where the commands cannot make a cookie, it is there from the start all the same.
    cookie(fd)?;
    Ok(fd.to_string())
}

fn send(fd: RawFd, bytes: usize) -> Result<String> {
    let chunk = vec![b'x'; bytes.min(1 << 20)];
    let mut left = bytes;
    while left > 0 {
        left -= socket::send(fd, &chunk[..left.min(chunk.len())], MsgFlags::MSG_NOSIGNAL)?;
    }
    Ok(String::new())
}

/// `fastopen FD ADDRESS BYTES`: connects with the first bytes in the SYN.
fn fast_open(args: &[&str]) -> Result<String> {
    let data = vec![b'x'; number(args, 2)?];
    socket::sendto(
        number(args, 0)?,
        &data,
        &address(args)?,
        MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
    )
    .map(|sent| sent.to_string())
}

/// Exactly so many bytes, or all until the other side has finished; how many they were.
fn receive(fd: RawFd, exactly: Option<usize>) -> Result<String> {
    let mut buffer = vec![0; 1 << 18];
    let mut got = 0;
    while exactly.is_none_or(|n| got < n) {
        let want = exactly.map_or(buffer.len(), |n| buffer.len().min(n - got));
        match socket::recv(fd, &mut buffer[..want], MsgFlags::empty())? {
            0 if exactly.is_some() => return Err(Errno::EPIPE),
            0 => break,
            n => got += n,
        }
    }
    Ok(got.to_string())
}

/// Returns when poll() reports an error, which stays pending.
fn polled(fd: RawFd) -> Result<()> {
    let mut fds = [PollFd::new(borrow(fd), PollFlags::empty())];
    match poll(&mut fds, PollTimeout::from(10_000u16))? {
        0 => Err(Errno::ETIMEDOUT),
        _ => Ok(()),
    }
}

/// Takes the first entry of the error queue.
fn errqueue(fd: RawFd) -> Result<()> {
    socket::recv(fd, &mut [0; 256], MsgFlags::MSG_ERRQUEUE).map(drop)
}

/// Returns when the peer has acknowledged everything.
fn drained(fd: RawFd) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while sys::unacknowledged(fd)? > 0 {
        if Instant::now() > deadline {
            return Err(Errno::ETIMEDOUT);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// `SO_ERROR`, which is taken away.
fn error(fd: RawFd) -> Result<String> {
    let bytes = sys::get_option::<4>(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    Ok(i32::from_ne_bytes(bytes).to_string())
}

/// `value FD LEVEL NAME`: an integer option, as a number without a sign.
fn value(args: &[&str]) -> Result<String> {
    let bytes = sys::get_option::<4>(number(args, 0)?, number(args, 1)?, number(args, 2)?)?;
    Ok(u32::from_ne_bytes(bytes).to_string())
}

fn cookie(fd: RawFd) -> Result<String> {
    let bytes = sys::get_option::<8>(fd, libc::SOL_SOCKET, libc::SO_COOKIE)?;
    Ok(u64::from_ne_bytes(bytes).to_string())
}

fn info(fd: RawFd) -> Result<String> {
    let (raw, len) = sys::get_option_len::<256>(fd, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let field = |&(name, offset, size): &(&str, usize, usize)| {
        let mut word = [0; 8];
        // Little endian only, as the BPF half of the project is.
        word[..size].copy_from_slice(&raw[offset..offset + size]);
        format!("{name}={}", u64::from_le_bytes(word))
    };
    Ok(TCP_INFO_FIELDS
        .iter()
        .filter(|(_, offset, size)| offset + size <= len)
        .map(field)
        .collect::<Vec<_>>()
        .join(" "))
}

fn how(args: &[&str]) -> Result<Shutdown> {
    match args.get(1) {
        Some(&"rd") => Ok(Shutdown::Read),
        Some(&"wr") => Ok(Shutdown::Write),
        Some(&"both") => Ok(Shutdown::Both),
        _ => Err(Errno::EINVAL),
    }
}

fn address(args: &[&str]) -> Result<SockaddrStorage> {
    number::<SocketAddr>(args, 1).map(SockaddrStorage::from)
}
