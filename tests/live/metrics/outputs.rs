// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file for node_exporter, and standard output.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::scene::Page;
use crate::{
    missing,
    net::Netns,
    scratch::Folder,
    tool::{self, Tool},
    wait::{self, PATIENCE},
};

/// Whoever reads it finds a whole page, and nothing else in the directory.
pub fn textfile() -> Result<()> {
    missing::needs_programs()?;
    let (ns, folder) = (Netns::new()?, Folder::new("textfile")?);
    let file = folder.join("tcptools.prom");
    let (netns, name) = (ns.inode.to_string(), file.to_str().context("a plain name")?);
    let args = [
        "metrics",
        "--textfile",
        name,
        "-i",
        "20ms",
        "--netns",
        &netns,
    ];
    let tool = Tool::start("tcptools", &args)?;
    wait::until("the file", PATIENCE, || Ok(file.exists().then_some(())))?;
    for _ in 0..200 {
        let text = fs::read_to_string(&file)?;
        ensure!(
            text.ends_with("\n") && text.contains("tcptools_build_info{"),
            "{text}"
        );
        Page::read(&text)?;
    }
    let before = fs::metadata(&file)?.modified()?;
    wait::until("a newer one", PATIENCE, || {
        Ok((fs::metadata(&file)?.modified()? > before).then_some(()))
    })?;
    tool.signal(Signal::SIGINT)?;
    let run = tool.finish(PATIENCE)?;
    ensure!(run.status.success() && run.said_nothing(), "{run:?}");
    let left = fs::read_dir(&*folder)?.count();
    ensure!(left == 1, "{left} files");
    Ok(())
}

/// What is there now, on standard output; or what has come for a while.
pub fn once() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    for time in [&[][..], &["-d", "100ms"]] {
        let args = [&["metrics", "--once", "--netns", &netns], time].concat();
        let run = tool::run("tcptools", &args)?;
        ensure!(run.status.success() && run.said_nothing(), "{run:?}");
        let page = Page::read(&run.lines.join("\n"))?;
        ensure!(page.sum("build_info", &[]) == 1, "{page:?}");
    }
    Ok(())
}

/// Each is one sentence.
pub fn refusals() -> Result<()> {
    for (args, said) in [
        (&["--textfile", "/tmp/x.txt"][..], ".prom"),
        (&["--textfile", "/nowhere/x.prom"], "No such file"),
        (&["--listen", "localhost"], "invalid"),
        (&["--labels", "color"], "unknown label 'color'"),
        (&["--labels", "raddr/99"], "'99'"),
        (&["--max-series", "1"], "1"),
        (&["--once", "--textfile", "x.prom"], "--textfile"),
        (&["--interval", "1s"], "--textfile"),
        (&["--mptcp", "--once"], "--mptcp"),
    ] {
        let run = tool::run("tcptools", &[&["metrics"], args].concat())?;
        let code = if said == "No such file" { 1 } else { 2 };
        ensure!(run.status.code() == Some(code), "{args:?}: {run:?}");
        ensure!(
            run.stderr.contains(said) && run.stderr.lines().count() == 1,
            "{args:?}: {run:?}"
        );
    }
    missing::needs_programs()?;
    let run = tool::run_without("btf", "tcptools", &["metrics", "--once"])?;
    ensure!(run.status.code() == Some(1), "{run:?}");
    ensure!(
        run.stderr.lines().count() == 1 && run.stderr.contains("metrics are counted by programs"),
        "{run:?}"
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let at = taken.local_addr()?.to_string();
    let run = tool::run("tcptools", &["metrics", "--listen", &at])?;
    ensure!(
        run.status.code() == Some(1) && run.stderr.contains("Address already in use"),
        "{run:?}"
    );
    ensure!(!Path::new("/tmp/x.txt").exists());
    Ok(())
}
