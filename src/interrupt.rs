// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT, SIGTERM and SIGHUP as a file descriptor to wait for.

use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::limits;

/// A signal that follows so soon is the same wish: `timeout` sends its own to the process and then to its group.
const SAME: Duration = Duration::from_millis(500);

/// Says when the user wants the tool to stop. A second signal, a while later, ends the process at once.
#[derive(Clone)]
pub struct Interrupt {
    first: Arc<OnceLock<Instant>>,
    event: Arc<EventFd>,
}

impl Interrupt {
    /// Installs the handlers; once per process.
    ///
    /// # Errors
    /// When another handler is installed, or no descriptor is left.
    pub fn install() -> Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context("no file descriptor for signals")?;
        let interrupt = Self {
            first: Arc::default(),
            event: Arc::new(event),
        };
        let inner = interrupt.clone();
        ctrlc::set_handler(move || inner.signal()).map_err(|_| anyhow!("{}", limits::thread()))?;
        Ok(interrupt)
    }

    fn signal(&self) {
        if self.first.get_or_init(Instant::now).elapsed() >= SAME {
            process::exit(130);
        }
        // The counter cannot overflow with one write; a failure would only delay the stop until the next tick.
        let _ = self.event.write(1);
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.first.get().is_some()
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
