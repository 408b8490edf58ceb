// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments, tables, and kernels that do not have its tracepoints.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::{Scene, both};
use crate::{
    environment::renamed_btf,
    missing,
    scratch::Scratch,
    tool::{self, run},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcplat::arguments", arguments),
        trial("tcplat::no_tracepoint", no_tracepoint),
        both("table", table),
    ]
}

/// What would have no effect is refused.
fn arguments() -> Result<()> {
    for (args, reason) in [
        (&["--mptcp"][..], "MPTCP"),
        (&["--changes"], "--every"),
        (&["--every", "0"], "0"),
        (&["--min-ms", "x"], "'x'"),
        (&["--by", "comm"], "--summary"),
        (&["--hist", "--by", "server"], "--summary"),
        (&["--top", "3"], "--summary"),
        (&["--refresh", "1s"], "--hist"),
        (&["--hist", "--summary"], "--summary"),
        (&["--hist=comm", "--by", "pid"], "--by"),
        (&["--hist=nonsense"], "nonsense"),
        (&["--summary", "--by", "nonsense"], "nonsense"),
        (&["--summary", "--columns", "where,laddr"], "'laddr'"),
    ] {
        let run = run("tcplat", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {run:?}");
        ensure!(
            run.stderr.contains(reason) && run.stderr.lines().count() == 1,
            "{run:?}"
        );
    }
    Ok(())
}

/// The kernel's types as before 6.3.
fn no_tracepoint() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_tracepoint_of("tcplat")?;
    for name in ["sock_send_length", "sock_recv_length", "sk_data_ready"] {
        let btf = Scratch::path("btf");
        std::fs::write(&*btf, renamed_btf(&[&format!("btf_trace_{name}")])?)?;
        let script = "mount --bind \"$1\" /sys/kernel/btf/vmlinux && exec \"$2\" --duration 10ms";
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-ec", script, "sh", btf.text()])
            .arg(tool::path("tcplat"))
            .output()
            .context("unshare")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let why = format!("tcplat: this kernel has no tracepoint sock:{name}: ");
        ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        ensure!(
            said.starts_with(&why) && said.lines().count() == 1,
            "{said}"
        );
    }
    Ok(())
}

/// Narrow and wide, rows and totals: a line each, in 80 columns where addresses are IPv4.
fn table(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let inodes = scene.net.inodes();
    let start =
        |args: &[&str]| tool::Tool::start("tcplat", &[&["--netns", &inodes], args].concat());
    let tools = [
        start(&[])?,
        start(&["-w"])?,
        start(&["--summary"])?,
        start(&["--hist"])?,
    ];
    let talk = scene.connect(host)?;
    scene.play(talk, "send:100 recv:500", "recv:100 sleep:30000 send:500")?;
    let mut lines = Vec::new();
    for tool in tools {
        lines.push(tool.stop()?.lines);
    }
    let [narrow, wide, totals, hists] = &lines[..] else {
        unreachable!("four runs");
    };
    ensure!(
        [narrow.len(), wide.len(), totals.len()] == [3, 3, 3],
        "{lines:#?}"
    );
    let words = |line: &String| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    ensure!(
        words(&narrow[0])[..3] == ["COMM", "R", "LPORT"],
        "{narrow:#?}"
    );
    let server = narrow.iter().map(words).find(|line| line[0] == "server");
    let server = server.context("no row of the server")?;
    ensure!(
        server[1] == "S" && server[server.len() - 1] == "app",
        "{server:?}"
    );
    let fits = |line: &String| line.len() <= 80 || host.starts_with('[');
    ensure!(narrow.iter().all(fits), "{narrow:#?}");
    ensure!(
        totals[0].contains("P99") && totals[0].len() <= 80,
        "{totals:#?}"
    );
    ensure!(wide[0].contains("SRTT"), "{wide:#?}");
    for sample in ["sample = app", "sample = wait", "sample = unread"] {
        ensure!(hists.iter().any(|line| line == sample), "{hists:#?}");
    }
    Ok(())
}
