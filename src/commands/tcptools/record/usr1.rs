// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGUSR1: the user wants what is kept now.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static CAME: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    CAME.store(true, Ordering::SeqCst);
}

/// From now on it does not end the process.
///
/// # Errors
/// The kernel refuses; it has no reason to.
pub fn install() -> Result<()> {
    let handler = SigHandler::Handler(note);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only writes an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.context("cannot handle a signal")?;
    Ok(())
}

/// Whether it has come since the last call.
pub fn came() -> bool {
    CAME.swap(false, Ordering::SeqCst)
}
