// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT, SIGTERM and SIGHUP as a file descriptor to wait for.

use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Says when the user wants the tool to stop. A second signal ends the process at once.
#[derive(Clone)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
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
            stop: Arc::new(AtomicBool::new(false)),
            event: Arc::new(event),
        };
        let inner = interrupt.clone();
        ctrlc::set_handler(move || inner.signal()).context("cannot handle signals")?;
        Ok(interrupt)
    }

    fn signal(&self) {
        if self.stop.swap(true, Ordering::Relaxed) {
            process::exit(130);
        }
        // The counter cannot overflow with one write; a failure would only delay the stop until the next tick.
        let _ = self.event.write(1);
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
