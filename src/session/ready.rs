// SPDX-License-Identifier: MIT OR Apache-2.0
//! Telling a script or a supervisor that every probe is attached, and that this is over.

use std::env;
use std::ffi::OsStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::cli::Run;
use crate::files::{Made, Place, as_the_user};
use crate::nonblocking::Writer;

const FLAG: &str = "--ready-file";
/// How long a descriptor of the caller's may take to take a byte.
const MOMENT: Duration = Duration::from_millis(100);

/// What is to be told, and where.
pub(super) struct Ready {
    tool: &'static str,
    file: Option<Place>,
    fd: Option<RawFd>,
}

/// What has been told, until it is no longer true.
pub(super) struct Told {
    tool: &'static str,
    file: Option<Made>,
    supervisor: Option<UnixDatagram>,
}

impl Ready {
    /// Before anything is attached: the file of a run before must not be taken for this one's.
    ///
    /// # Errors
    /// A sentence about the file.
    pub(super) fn new(tool: &'static str, run: &Run) -> Result<Self> {
        let file = run.ready_file.as_deref();
        let file = file.map(|path| Place::new(FLAG, path)).transpose()?;
        if let Some(place) = &file {
            place.clear(FLAG)?;
        }
        let fd = run.ready_fd;
        Ok(Self { tool, file, fd })
    }

    /// Whether root needs CAP_DAC_OVERRIDE to remove the file at the end.
    pub(super) fn overrides(&self) -> bool {
        self.file.as_ref().is_some_and(Place::overrides)
    }

    /// With the privileges of the start.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn tell(self) -> Result<Told> {
        let tool = self.tool;
        let file = self.file.map(Place::make).transpose()?;
        if let Some(fd) = self.fd
            && let Err(error) = newline(fd)
        {
            crate::message!("{tool}: --ready-fd {fd}: {}", error.desc());
        }
        let supervisor = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let connected = as_the_user(|| supervisor(&name));
            let told = connected.and_then(|socket| socket.send(b"READY=1").map(|_| socket));
            let said = |error| {
                let name = name.display();
                crate::message!("{tool}: cannot tell NOTIFY_SOCKET {name}: {error}");
            };
            told.map_err(said).ok()
        });
        Ok(Told {
            tool,
            file,
            supervisor,
        })
    }
}

impl Told {
    /// The run ends.
    pub(super) fn withdraw(self) {
        if let Some(socket) = self.supervisor {
            // It may have gone.
            let _ = socket.send(b"STOPPING=1");
        }
        if let Some(Err(error)) = self.file.map(Made::remove) {
            crate::message!("{}: {error}", self.tool);
        }
    }
}

/// As sd_notify(3) has it: a path, or a name in the abstract namespace.
fn supervisor(name: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

fn newline(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: the caller has opened it for this, as `descriptor` saw; nothing else here uses it.
    let mut writer = Writer::new(unsafe { OwnedFd::from_raw_fd(fd) });
    match writer.try_write(b"\n") {
        Err(Errno::EAGAIN) if writer.wait(MOMENT) => writer.try_write(b"\n"),
        result => result,
    }
    .map(drop)
}

/// The value of `--ready-fd`: a descriptor that the caller has opened for writing.
///
/// # Errors
/// A sentence.
pub(crate) fn descriptor(text: &str) -> Result<RawFd, String> {
    let fd = text
        .parse::<u16>()
        .map_err(|_| format!("'{text}' is not a descriptor"))?;
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
    fn a_descriptor_must_be_there_and_take_bytes() {
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
