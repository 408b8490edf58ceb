// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for conditions, never for a while.

use std::{
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Long enough for a loaded machine; nothing waits so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again until there is an answer.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The end of a process.
pub fn exit_of(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    until("the end of a process", limit, || Ok(child.try_wait()?))
}
