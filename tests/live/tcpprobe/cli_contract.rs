// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wrong arguments, files that cannot be written, and a word of warning on a busy host.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::scene::{HOSTS, Scene};
use crate::{
    scratch::Scratch,
    tool::{Tool, run},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpprobe::cli_contract::wrong_arguments", wrong_arguments),
        trial("tcpprobe::cli_contract::warns_when_busy", warns_when_busy),
        trial(
            "tcpprobe::cli_contract::two_signals_at_once",
            two_signals_at_once,
        ),
    ]
}

fn wrong_arguments() -> Result<()> {
    for args in [
        &["--hist", "--every", "2"][..],
        &["--hist=port"],
        &["--live", "--json"],
        &["--live", "--plot", "x.svg"],
        &["-i", "1"],
        &["--every", "0"],
        &["--interval", "soon"],
        &["--plot"],
    ] {
        let run = run("tcpprobe", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {}", run.status);
        ensure!(
            run.stderr.lines().count() == 1 && run.lines.is_empty(),
            "{args:?}: {}",
            run.stderr
        );
    }
    let run = run("tcpprobe", &["--plot", "/no/such/place/x.svg", "-d", "1"])?;
    ensure!(
        run.status.code() == Some(1) && run.stderr.contains("/no/such/place/x.svg"),
        "{}",
        run.stderr
    );
    Ok(())
}

/// Thousands of segments, and a row for each: warns only without filter or sampling.
fn warns_when_busy() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.net.a.ip("link set v0 gso_max_segs 1")?;
    let talk = scene.connect(HOSTS[0])?;
    let rows = Scratch::path("rows");
    let out = || std::fs::File::create(&*rows).context("rows");
    let plain = Tool::with_stdout("tcpprobe", &[], out()?.into())?;
    let sampled = Tool::with_stdout(
        "tcpprobe",
        &["--every", "10000"],
        std::process::Stdio::null(),
    )?;
    let chosen = Tool::with_stdout("tcpprobe", &["-D", "1"], std::process::Stdio::null())?;
    scene.exchange(talk, 100_000_000, 1)?;
    let warned = |tool: Tool| -> Result<usize> {
        Ok(tool.stop()?.stderr.matches("rows per second").count())
    };
    ensure!(warned(plain)? == 1, "no warning, or several");
    ensure!(
        warned(sampled)? == 0 && warned(chosen)? == 0,
        "a warning too many"
    );
    Ok(())
}

/// `timeout` signals the process and then its group: both are one wish to stop, and the picture is drawn.
fn two_signals_at_once() -> Result<()> {
    let mut scene = Scene::new()?;
    let talk = scene.connect(HOSTS[0])?;
    for _ in 0..10 {
        let file = Scratch::path("plot.svg");
        let tool = scene.watch(&["--plot", file.text()])?;
        scene.exchange(talk, 1000, 1000)?;
        tool.signal(Signal::SIGTERM)?;
        ensure!(!tool.stop()?.rows()?.is_empty(), "no rows");
        let svg = std::fs::read_to_string(&*file)?;
        ensure!(svg.ends_with("</svg>\n"), "no picture");
    }
    Ok(())
}
