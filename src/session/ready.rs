// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notifies a script or a supervisor that every probe is attached, and that the run ends.

use std::env;
use std::ffi::OsStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::Result;
use nix::errno::Errno;

use crate::cli::Run;
use crate::kernel::files::{Made, Place, as_the_user};
use crate::kernel::privileges::Rights;
use crate::output::nonblocking::Writer;

const FLAG: &str = "--ready-file";
/// How long to wait for the caller's descriptor to accept a byte.
const WRITE_TIMEOUT: Duration = Duration::from_millis(100);

/// Where to notify.
pub(super) struct Ready {
    tool: &'static str,
    file: Option<Place>,
    fd: Option<RawFd>,
}

/// A notification that can be withdrawn.
pub(super) struct Announced {
    tool: &'static str,
    file: Option<Made>,
    supervisor: Option<UnixDatagram>,
}

impl Ready {
    /// Call it before anything is attached, so that the file of an earlier run is not mistaken for this run's.
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

    /// The privileges needed to remove the file at the end.
    pub(super) fn rights(&self) -> Rights {
        self.file.as_ref().map(Place::rights).unwrap_or_default()
    }

    /// Call it with the initial privileges.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn announce(self) -> Result<Announced> {
        let tool = self.tool;
        let file = self.file.map(Place::make).transpose()?;
        if let Some(fd) = self.fd
            && let Err(error) = newline(fd)
        {
            crate::message!("{tool}: --ready-fd {fd}: {}", error.desc());
        }
        let supervisor = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let connected = as_the_user(|| supervisor(&name));
            let supervisor = connected.and_then(|socket| socket.send(b"READY=1").map(|_| socket));
            let said = |error| {
                let name = name.display();
                crate::message!("{tool}: cannot notify NOTIFY_SOCKET {name}: {error}");
            };
            supervisor.map_err(said).ok()
        });
        Ok(Announced {
            tool,
            file,
            supervisor,
        })
    }
}

impl Announced {
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
        Err(Errno::EAGAIN) if writer.wait(WRITE_TIMEOUT) => writer.try_write(b"\n"),
        result => result,
    }
    .map(drop)
}
