// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for conditions. For a while sleeps only the test that is about the time itself.

use std::{
    env,
    process::{Child, ExitStatus},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Long enough for a loaded machine; nothing waits so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What every limit is multiplied with: `TCPTOOLS_PATIENCE`, for emulated machines.
static SCALE: LazyLock<u32> = LazyLock::new(|| {
    let scale = env::var("TCPTOOLS_PATIENCE").ok();
    scale.and_then(|text| text.parse().ok()).unwrap_or(1)
});

/// How far apart two programs may read the clock for the same event, in microseconds: an emulated processor may stop
/// for long between them.
pub fn apart_us() -> u64 {
    if *SCALE > 1 { 20_000 } else { 50 }
}

/// `factor` in an emulated machine, for what its stops must not be long against; 1 elsewhere.
pub fn slower(factor: u64) -> u64 {
    if *SCALE > 1 { factor } else { 1 }
}

/// The longest rest between two questions. In an emulated machine resting takes no time and asking does, so that there
/// the rests grow.
fn longest_rest() -> Duration {
    Duration::from_millis(slower(16))
}

/// Asks again until there is an answer.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = limit * *SCALE;
    let deadline = Instant::now() + limit;
    let mut rest = Duration::from_millis(1);
    loop {
        if let Some(value) = condition().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(rest);
        rest = (rest * 2).min(longest_rest());
    }
}

/// The end of a process.
pub fn exit_of(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    until("the end of a process", limit, || Ok(child.try_wait()?))
}
