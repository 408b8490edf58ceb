// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which failed retransmissions the kernel counts as sent.

use nix::errno::Errno;

/// Whether RetransSegs includes this attempt, by its `err`: failures before the segment is built are excluded,
/// failures below TCP included (`net/ipv4/tcp_output.c: __tcp_retransmit_skb`). Above 0 is `NET_XMIT_*`, below an
/// errno.
///
/// A few of these errors can come from below, too: only the socket's own count would tell.
pub fn is_counted(err: i32) -> bool {
    let early = [
        Errno::EBUSY,
        Errno::EAGAIN,
        Errno::EINVAL,
        Errno::ENOMEM,
        Errno::EHOSTUNREACH,
    ];
    !early
        .iter()
        .any(|errno| err == (*errno as i32).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::is_counted;

    #[test]
    fn passed_attempts_are_counted() {
        for (err, counted) in [(0, true), (1, true), (-1, true), (-105, true)] {
            assert_eq!(is_counted(err), counted, "{err}");
        }
        for err in [-11, -12, -16, -22, -113] {
            assert!(!is_counted(err), "{err}");
        }
    }
}
