// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clocks that jump. What is expected: `ts` is the wall clock's time as it is when the row is made, `boot_ns` and every
//! duration are of a clock that nobody sets, and nothing waits for a time that has gone.
//!
//! The host's clock is not touched: a library that is loaded before the C library's own answers for the wall clock. That
//! clocks since boot may be another namespace's is `fallback::time_namespace`; a suspended host is `faults::suspend`.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cli_contract::{collect, command, kill_at_last, records, sessions, signal, until_exists},
    missing::Missing,
    net::Netns,
    scratch::Folder,
    trial, unseen,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    ["tcplife", "tcpstates", "tcpconnect", "tcptop"]
        .map(|tool| {
            trial(format!("faults::clocks::stepped_{tool}"), move || {
                stepped(tool)
            })
        })
        .into()
}

/// The wall clock, so many seconds ahead as the file says.
const AHEAD: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile const long *ahead;
__attribute__((constructor)) static void begin(void)
{
	int fd = open(getenv("AHEAD"), O_RDONLY);
	ahead = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
}
int clock_gettime(clockid_t clock, struct timespec *now)
{
	int ret = syscall(SYS_clock_gettime, clock, now);
	if (!ret && clock == CLOCK_REALTIME)
		now->tv_sec += *ahead;
	return ret;
}
"#;

fn library(folder: &Folder) -> Result<String> {
    let (source, library) = (folder.join("ahead.c"), folder.join("ahead.so"));
    fs::write(&source, AHEAD)?;
    let compiled = Command::new("clang")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .output();
    match compiled {
        Err(_) => Err(Missing::Package("clang").into()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{said}");
            Ok(library.to_string_lossy().into_owned())
        }
    }
}

fn now() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64)
}

/// Steps, in seconds from the true time: an hour on, two back, a year on, and back.
const STEPS: [i64; 5] = [0, 3600, -3600, 31_536_000, 0];

fn stepped(tool: &str) -> Result<()> {
    let (folder, quiet) = (Folder::new("clock")?, Netns::new()?);
    let library = library(&folder)?;
    let (step, ready) = (folder.join("ahead"), folder.join("ready"));
    fs::write(&step, 0i64.to_ne_bytes())?;
    let (netns, ready_text) = (quiet.inode.to_string(), ready.to_string_lossy());
    let mut args = vec!["--json", "--netns", &netns, "--ready-file", &ready_text];
    if tool == "tcptop" {
        args.extend(["-i", "50ms", "--all"]);
    }
    let mut child = command("", tool, &args)
        .env("LD_PRELOAD", library)
        .env("AHEAD", &step)
        .stdout(File::create(folder.join("rows"))?)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    until_exists(&ready)?;
    let mut times = vec![];
    let written = || -> Result<usize> {
        let text = fs::read_to_string(folder.join("rows"))?;
        Ok(text.bytes().filter(|byte| *byte == b'\n').count())
    };
    for ahead in STEPS {
        let file = File::options().write(true).open(&step)?;
        file.write_all_at(&ahead.to_ne_bytes(), 0)?;
        // What the command held back is of the time before.
        let before = written()?;
        let begin = now()? + ahead;
        sessions(&quiet, 4)?;
        wait::until("rows", PATIENCE, || {
            Ok((written()? >= before + 4).then_some(()))
        })?;
        times.push((before, begin, now()? + ahead));
    }
    signal(&child, Signal::SIGTERM)?;
    ensure!(kill_at_last(child)?.success());
    let said = said.join().expect("no panic");
    ensure!(unseen::said_else(&said).is_empty(), "{said}");
    let mut rows = records(&fs::read_to_string(folder.join("rows"))?)?;
    rows.pop();
    let ends = times.iter().skip(1).map(|(first, ..)| *first);
    let ends: Vec<_> = ends.chain([rows.len()]).collect();
    for ((first, begin, end), last) in times.into_iter().zip(ends) {
        let rows = rows.get(first..last).context("rows")?;
        // Those of an interval that had begun before.
        let skipped = usize::from(tool == "tcptop");
        for row in rows.iter().skip(skipped) {
            right(row, begin, end).with_context(|| format!("{begin} to {end}"))?;
        }
    }
    let boot = |row: &Value| row["boot_ns"].as_u64();
    ensure!(rows.iter().map(boot).is_sorted(), "{rows:#?}");
    Ok(())
}

/// The second in which it was made, and a duration that a clock that is set has nothing to do with.
fn right(row: &Value, begin: i64, end: i64) -> Result<()> {
    let text = row["ts"].as_str().context("ts")?;
    let unix = chrono::DateTime::parse_from_rfc3339(text)?.timestamp();
    ensure!((begin - 1..=end + 1).contains(&unix), "{row}");
    for key in ["duration_us", "in_state_us", "latency_us", "interval_us"] {
        let us = row[key].as_u64();
        ensure!(us.is_none_or(|us| us < 60_000_000), "{key}: {row}");
    }
    Ok(())
}
