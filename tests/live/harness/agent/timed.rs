// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps on a socket with the agent's own clock, which is that of the commands' rows.

use std::{os::fd::RawFd, thread, time::Duration};

use nix::{
    Result,
    errno::Errno,
    sys::socket::{self, MsgFlags},
    unistd,
};
use tcptools::kernel::clock::boot_ns;

use super::{number, sockets, sys};

/// `None`: not a command of this kind.
pub fn execute(verb: &str, args: &[&str]) -> Option<Result<String>> {
    (verb == "timed").then(|| timed(args))
}

/// `timed FD STEP...`: takes the steps, and answers with two times of each, before and after it, in nanoseconds since
/// boot: `send:BYTES`, `recv:BYTES`, `one:BYTES` (a single read, of at most so many), `sleep:US`, `peek`, `eof`,
/// `drained`, `nothing` (there is nothing to read), `end` (of what is sent), `accept` (after which FD is the connection,
/// whose descriptor ends the answer).
fn timed(args: &[&str]) -> Result<String> {
    let mut fd = number(args, 0)?;
    let (mut times, mut accepted) = (Vec::new(), None);
    for step in &args[1..] {
        let (what, n) = step.split_once(':').unwrap_or((step, "0"));
        let n = n.parse().map_err(|_| Errno::EINVAL)?;
        times.push(boot_ns());
        if what == "accept" {
            fd = sockets::execute("accept", &[args[0]])?
                .parse()
                .map_err(|_| Errno::EINVAL)?;
            accepted = Some(fd as u64);
        } else {
            take(what, fd, n)?;
        }
        times.push(boot_ns());
    }
    let times = times.into_iter().chain(accepted);
    let words: Vec<_> = times.map(|number| number.to_string()).collect();
    Ok(words.join(" "))
}

fn take(what: &str, fd: RawFd, n: u64) -> Result<()> {
    let (fd_text, n_text) = (fd.to_string(), n.to_string());
    let words: &[&str] = &[&fd_text, &n_text];
    match what {
        "sleep" => thread::sleep(Duration::from_micros(n)),
        "one" => drop(unistd::read(sys::borrow(fd), &mut vec![0; n as usize])?),
        "nothing" => match socket::recv(fd, &mut [0], MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => {}
            _ => return Err(Errno::EINVAL),
        },
        "end" => drop(sockets::execute("shutdown", &[&fd_text, "wr"])?),
        verb => drop(sockets::execute(verb, words)?),
    }
    Ok(())
}
