// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a test is run: tried, ignored where the kernel lacks what it needs, noted.

use std::{
    env,
    fs::OpenOptions,
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use libtest_mimic::{Completion, Failed, Trial};
use nix::sched::{CloneFlags, unshare};

use crate::{
    missing::{self, Missing},
    unseen,
};

/// How often a test may be tried where the kernel does not show some events to a program. `TCPTOOLS_TRIES` says less,
/// as in guests, whose kernels run every program, but those of classic tracepoints: a test whose command says that it
/// missed some of their events is tried again everywhere.
const TRIES: u32 = 4;

/// How many more tries all tests of a run have together. What needs more has another cause.
const MORE_TRIES: u32 = 24;

/// The tests that passed, but not at once, and why not.
static LATE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Tests of several modules or modes, one after the other.
pub fn group<const N: usize>(lists: [Vec<Trial>; N]) -> Vec<Trial> {
    lists.into_iter().flatten().collect()
}

/// A test as a plain function that returns its reason for failing; or, as [`Missing`], for not running on this kernel.
pub fn trial(
    name: impl Into<String>,
    test: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let name = name.into();
    Trial::ignorable_test(name.clone(), move || {
        let mut failed = Vec::new();
        loop {
            let (unseen, said) = (unseen::count(), unseen::said());
            let started = Instant::now();
            let outcome = runs_here(&name).and_then(|()| test());
            note(&name, started.elapsed(), outcome.as_ref().err());
            let error = match outcome {
                Ok(()) => {
                    passed(&name, &failed);
                    return Ok(Completion::Completed);
                }
                Err(error) => error,
            };
            if let Some(missing) = error.downcast_ref::<Missing>() {
                return Ok(Completion::ignored_with(missing));
            }
            let unseen = unseen::count() - unseen;
            let said = unseen::said() - said;
            failed.push(format!(
                "{unseen} events were not shown, {said} said: {error:#}"
            ));
            let tries = if said > 0 { TRIES } else { tries() };
            if unseen + said == 0 || !may_try_again(failed.len(), tries) {
                return Err(Failed::from(failed.join("\n")));
            }
        }
    })
}

/// As [`trial`], with sockets that no other test's child inherits.
///
/// Tests are threads of one process, and a child has all open files of its parent until it runs its program. So it may
/// close a socket last, long after the test has, and a scan may find the socket there. /proc/PID/fd does not show what a
/// thread has for itself.
pub fn trial_apart(
    name: impl Into<String>,
    test: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    trial(name, move || {
        unshare(CloneFlags::CLONE_FILES)?;
        test()
    })
}

fn tries() -> u32 {
    let asked = env::var("TCPTOOLS_TRIES").ok().and_then(|n| n.parse().ok());
    asked.unwrap_or(TRIES)
}

/// Whether a test that was tried so often is tried once more.
fn may_try_again(tried: usize, tries: u32) -> bool {
    static USED: AtomicU32 = AtomicU32::new(0);
    tried < tries as usize && USED.fetch_add(1, Ordering::Relaxed) < MORE_TRIES
}

fn passed(name: &str, failed: &[String]) {
    if !failed.is_empty() {
        let line = format!("{name}, at try {}: {}", failed.len() + 1, failed.join("; "));
        LATE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

/// Says at the end of a run which tests did not pass at once.
pub fn report() {
    let late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
    for line in &*late {
        println!("passed late: {line}");
    }
}

/// Without type information, or a ring buffer, only the tests of what the commands do then; and none but that they say
/// so where BPF may not read the kernel's memory.
fn runs_here(name: &str) -> anyhow::Result<()> {
    if name == "fallback::lockdown" {
        return missing::needs_confidentiality();
    }
    missing::needs_no_confidentiality()?;
    match name.starts_with("fallback::") {
        true => Ok(()),
        false => missing::needs_programs(),
    }
}

/// Adds to the file `TCPTOOLS_NOTES`, if that is set, how long a test took, and at once why it did not pass: the
/// test library tells that when all is over, which a run that is ended before its time never reaches.
fn note(name: &str, took: Duration, error: Option<&anyhow::Error>) {
    let Some(path) = env::var_os("TCPTOOLS_NOTES") else {
        return;
    };
    let why = error.map_or_else(String::new, |error| format!(" {error:#}"));
    let line = format!("{:.1} {name}{why}\n", took.as_secs_f32());
    let file = OpenOptions::new().create(true).append(true).open(path);
    // Progress for a human reader only.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
