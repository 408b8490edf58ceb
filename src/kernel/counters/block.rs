// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read in one network namespace, as the process that visits namespaces hands it over: a line for the
//! namespace, then a name and a value a line.

use std::fmt::Write;
use std::fs;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{known, parse};
use crate::kernel::clock::boot_ns;
use crate::kernel::namespaces;

/// What makes a namespace another one than before: inode numbers are used again, and by the next one already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// As in `readlink /proc/PID/ns/net`.
    pub inode: u32,
    /// That of its files in /proc.
    pub files: u64,
    /// `SO_NETNS_COOKIE`, never used again; 0 before Linux 5.14.
    pub cookie: u64,
}

/// One namespace's counters at one moment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Block<'t> {
    pub identity: Identity,
    /// When they had been read.
    pub boot_ns: u64,
    /// Those that are not zero, by name.
    pub values: Vec<(&'t str, u64)>,
}

/// The beginning of a namespace's line, which no counter's name has.
const MARK: &str = "=";

/// Reads the counters of the namespace that this thread is in, those that `wanted` names.
///
/// # Errors
/// When /proc does not have them.
pub(super) fn read(wanted: fn(&str) -> bool) -> Result<Vec<u8>> {
    let at = namespaces::here().context("no /proc")?;
    let file = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let mut text = String::new();
    let mut packets = super::Undelivered::default();
    let mut note = |name: &str, value: u64| {
        packets.note(name, value);
        if value != 0 && (wanted(name) || name == super::ARRIVED) {
            let _ = writeln!(text, "{name} {value}");
        }
    };
    parse::pairs(&file("snmp").context("no counters")?, &mut note);
    parse::pairs(&file("netstat").unwrap_or_default(), &mut note);
    // Not there without IPv6.
    parse::lines(&file("snmp6").unwrap_or_default(), &mut note);
    let undelivered = packets.packets();
    if undelivered != 0 && wanted(known::UNDELIVERED) {
        let _ = writeln!(text, "{} {undelivered}", known::UNDELIVERED);
    }
    let (inode, files, cookie, now) = (at.inode, at.files, cookie(), boot_ns());
    Ok(format!("{MARK} {inode} {files} {cookie} {now}\n{text}").into_bytes())
}

/// Of the namespace that this thread is in. The socket asks for it, and is closed at once.
fn cookie() -> u64 {
    /// include/uapi/asm-generic/socket.h: since 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let flags = SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = socket(AddressFamily::Unix, SockType::Datagram, flags, None) else {
        return 0;
    };
    let (mut cookie, mut size) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `size` bytes to `cookie`, and the descriptor is open.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if asked == 0 { cookie } else { 0 }
}

/// The blocks of a visit, one namespace after the other.
pub(crate) fn decode(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match (words.next(), blocks.last_mut()) {
            (Some(MARK), _) => {
                let mut number =
                    || -> u64 { words.next().and_then(|word| word.parse().ok()).unwrap_or(0) };
                let (inode, files, cookie) = (number(), number(), number());
                blocks.push(Block {
                    identity: Identity {
                        // The kernel's own type of it (include/linux/ns_common.h).
                        inode: inode as u32,
                        files,
                        cookie,
                    },
                    boot_ns: number(),
                    values: Vec::new(),
                });
            }
            (Some(name), Some(block)) => {
                if let Some(Ok(value)) = words.next().map(str::parse) {
                    block.values.push((name, value));
                }
            }
            _ => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_decoded() {
        let text = read(|name| name.starts_with("Ip")).unwrap();
        let text = [text.clone(), text].concat();
        let blocks = decode(std::str::from_utf8(&text).unwrap());
        assert_eq!(blocks.len(), 2);
        let (block, here) = (&blocks[0], namespaces::here().unwrap());
        assert_eq!(u64::from(block.identity.inode), here.inode);
        assert_eq!(block.identity.files, here.files);
        assert!(block.boot_ns <= boot_ns() && block.boot_ns > 0);
        assert!(
            block
                .values
                .iter()
                .all(|(name, n)| name.starts_with("Ip") && *n > 0)
        );
        assert!(block.values.iter().any(|(name, _)| *name == "IpDefaultTTL"));
    }

    #[test]
    fn stray_lines_are_left_out() {
        assert_eq!(decode("A 1\n= x\nB 2\nC\n").len(), 1);
        assert_eq!(decode("A 1\n= x\nB 2\nC\n")[0].values, [("B", 2)]);
        assert_eq!(decode(""), []);
    }
}
