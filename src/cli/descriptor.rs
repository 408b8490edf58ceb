// SPDX-License-Identifier: MIT OR Apache-2.0
//! A descriptor that the caller has opened for this command.

use std::os::fd::RawFd;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// The value of `--ready-fd`: a descriptor that the caller has opened for writing.
///
/// # Errors
/// A message for the user.
pub(crate) fn descriptor(text: &str) -> Result<RawFd, String> {
    let fd = text
        .parse::<u16>()
        .map_err(|_| format!("'{text}' is not a file descriptor"))?;
    let fd = RawFd::from(fd);
    if fd <= 2 {
        return Err("0, 1 and 2 are standard input, output and error".into());
    }
    // SAFETY: looked at only, and an error if it is none.
    let given = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let flags = fcntl(given, FcntlArg::F_GETFL).map_err(|_| format!("{fd} is not open"))?;
    let access = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE;
    if access == OFlag::O_RDONLY || OFlag::from_bits_truncate(flags).contains(OFlag::O_PATH) {
        return Err(format!("{fd} is not open for writing"));
    }
    // It is for this process alone.
    let _ = fcntl(given, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn descriptor_must_be_open_and_writable() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(
            descriptor(&writer.as_raw_fd().to_string()),
            Ok(writer.as_raw_fd())
        );
        for text in [
            "-1",
            "x",
            "0",
            "1",
            "2",
            "65535",
            &reader.as_raw_fd().to_string(),
        ] {
            assert!(descriptor(text).is_err(), "{text}");
        }
    }
}
