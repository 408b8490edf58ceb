// SPDX-License-Identifier: MIT OR Apache-2.0
//! The far side of `peer::Agent`: a process that does with sockets what its standard input says, one command a line,
//! and answers each with `ok ...` or `err ERRNO`. So every step of the traffic happens in an order, and in a process,
//! that the test knows. It ends when its channel does, or when its parent dies.

mod compat;
mod crowds;
mod datagrams;
mod held;
mod processes;
mod sockets;
mod sys;
mod timed;
mod uring;

use nix::{
    Result,
    errno::Errno,
    sys::{prctl, signal::Signal},
    unistd,
};

/// What a process of an agent knows besides its descriptors.
#[derive(Default)]
pub struct State {
    mailbox: Option<std::os::unix::net::UnixDatagram>,
    /// Descriptors of connections that are open at once.
    crowd: Vec<std::os::fd::RawFd>,
}

/// `argv` is `agent`, or `agent resumed SYMLINK` after its own `exec`.
pub fn main(args: &[String]) {
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err() {
        return;
    }
    if let [_, _, link] = args {
        processes::resumed(link);
    }
    serve(&mut State::default());
}

fn serve(state: &mut State) {
    while let Some(line) = read_line() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["exit"] {
            break;
        }
        answer(execute(state, &words));
    }
}

/// One command; the answer's text.
fn execute(state: &mut State, words: &[&str]) -> Result<String> {
    let (&verb, args) = words.split_first().ok_or(Errno::EINVAL)?;
    processes::execute(state, verb, args)
        .or_else(|| crowds::execute(state, verb, args))
        .or_else(|| datagrams::execute(verb, args))
        .or_else(|| held::execute(verb, args))
        .or_else(|| timed::execute(verb, args))
        .or_else(|| uring::execute(verb, args))
        .or_else(|| compat::execute(verb, args))
        .unwrap_or_else(|| sockets::execute(verb, args))
}

fn answer(result: Result<String>) {
    let line = match result {
        Ok(text) => format!("ok {text}\n"),
        Err(errno) => format!("err {}\n", errno as i32),
    };
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(std::io::stdout(), rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::EINTR) => {}
            Err(_) => std::process::exit(1),
        }
    }
}

/// Byte by byte: what is read ahead would be lost to the next process that takes over the channel.
fn read_line() -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match unistd::read(std::io::stdin(), &mut byte) {
            Ok(1) if byte[0] == b'\n' => return String::from_utf8(line).ok(),
            Ok(1) => line.push(byte[0]),
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

/// An argument as a number.
fn number<T: std::str::FromStr>(args: &[&str], index: usize) -> Result<T> {
    args.get(index)
        .and_then(|word| word.parse().ok())
        .ok_or(Errno::EINVAL)
}

/// Bytes written as hexadecimal digits.
fn unhex(text: &str) -> Result<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|i| {
            text.get(i..i + 2)
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or(Errno::EINVAL)
        })
        .collect()
}
