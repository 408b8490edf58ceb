// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys, read without ever waiting for one: records go on while nothing is typed, and the terminal may be gone.

use std::io::stdin;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// The keys that wait; `None`: the terminal is gone.
pub(super) fn waiting() -> Option<Vec<KeyEvent>> {
    let input = stdin();
    let mut typed = Vec::new();
    loop {
        let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).is_err() {
            return Some(parse(&typed));
        }
        let flags = fds[0].revents().unwrap_or(PollFlags::empty());
        if flags.is_empty() {
            return Some(parse(&typed));
        }
        if !flags.contains(PollFlags::POLLIN) {
            return None;
        }
        let mut bytes = [0; 256];
        match read(&input, &mut bytes) {
            Ok(0) => return None,
            Ok(n) => typed.extend_from_slice(bytes.get(..n).unwrap_or_default()),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return None,
        }
    }
}

/// The keys of what a terminal sends for them (ECMA-48, and xterm's control sequences).
pub(super) fn parse(mut bytes: &[u8]) -> Vec<KeyEvent> {
    let mut keys = Vec::new();
    while let [first, rest @ ..] = bytes {
        let (code, rest) = match (first, rest) {
            (0x1b, [b'[' | b'O', rest @ ..]) => sequence(rest),
            (0x1b, _) => (Some(KeyCode::Esc), rest),
            (b'\r' | b'\n', _) => (Some(KeyCode::Enter), rest),
            (0x7f | 0x08, _) => (Some(KeyCode::Backspace), rest),
            (0x03 | 0x1a, _) => {
                let key = KeyCode::Char(char::from(first + b'`'));
                keys.push(KeyEvent::new(key, KeyModifiers::CONTROL));
                (None, rest)
            }
            _ => character(bytes),
        };
        keys.extend(code.map(|code| KeyEvent::new(code, KeyModifiers::NONE)));
        bytes = rest;
    }
    keys
}

/// A control sequence after its beginning, up to its final byte.
fn sequence(bytes: &[u8]) -> (Option<KeyCode>, &[u8]) {
    let Some(end) = bytes.iter().position(|byte| (0x40..=0x7e).contains(byte)) else {
        return (None, &[]);
    };
    let (sequence, rest) = bytes.split_at(end + 1);
    let code = match sequence {
        b"A" => Some(KeyCode::Up),
        b"B" => Some(KeyCode::Down),
        b"C" => Some(KeyCode::Right),
        b"D" => Some(KeyCode::Left),
        b"H" | b"1~" | b"7~" => Some(KeyCode::Home),
        b"F" | b"4~" | b"8~" => Some(KeyCode::End),
        b"5~" => Some(KeyCode::PageUp),
        b"6~" => Some(KeyCode::PageDown),
        _ => None,
    };
    (code, rest)
}

/// A character; what is none, or does not show, is no key.
fn character(bytes: &[u8]) -> (Option<KeyCode>, &[u8]) {
    let chunk = bytes.utf8_chunks().next();
    let first = chunk.and_then(|chunk| chunk.valid().chars().next());
    let length = first.map_or(1, char::len_utf8);
    let code = first.filter(|c| !c.is_control()).map(KeyCode::Char);
    (code, bytes.get(length..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(bytes: &[u8]) -> Vec<KeyCode> {
        parse(bytes).into_iter().map(|key| key.code).collect()
    }

    #[test]
    fn sequences_become_keys() {
        use KeyCode::{
            Backspace, Char, Down, End, Enter, Esc, Home, Left, PageDown, PageUp, Right, Up,
        };
        for (bytes, keys) in [
            (
                &b"sS/\r\x7f"[..],
                &[Char('s'), Char('S'), Char('/'), Enter, Backspace][..],
            ),
            (b"\x1b", &[Esc]),
            (b"\x1b\x1b[A", &[Esc, Up]),
            (b"\x1b[A\x1bOB\x1b[C\x1b[D", &[Up, Down, Right, Left]),
            (
                b"\x1b[5~\x1b[6~\x1b[H\x1b[4~",
                &[PageUp, PageDown, Home, End],
            ),
            (b"\x1b[1;5Ax\x1b[200~y", &[Char('x'), Char('y')]),
            ("é\u{7f}".as_bytes(), &[Char('é'), Backspace]),
            (b"a\xff\x01\xc3b\x1b[", &[Char('a'), Char('b')]),
        ] {
            assert_eq!(codes(bytes), keys, "{bytes:?}");
        }
    }

    #[test]
    fn control_keys_are_told_from_letters() {
        let keys = parse(b"\x03c\x1a");
        let control = keys
            .iter()
            .map(|key| key.modifiers == KeyModifiers::CONTROL);
        assert_eq!(control.collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(codes(b"\x03\x1a"), [KeyCode::Char('c'), KeyCode::Char('z')]);
    }

    #[test]
    fn any_bytes_are_parsed() {
        crate::abi::noise::damage(b"\x1b[1;5A\x1bO\xc3\xa9x\x1b", 5000, |bytes| {
            assert!(parse(bytes).len() <= bytes.len());
        });
    }
}
