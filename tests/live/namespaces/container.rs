// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command in a pid namespace of its own, as in a container: ids are those that its user sees.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio, id},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::prctl;
use serde_json::Value;

use crate::{net::Net, scratch::Scratch, tool::Tool, trial};

/// The verb with which this program runs itself in the namespace.
pub const INSIDE: &str = "inside-pid-namespace";

pub fn tests() -> Vec<Trial> {
    ["tcplife", "tcpstates", "tcpconnect"]
        .map(|tool| trial(format!("namespaces::pid_of_{tool}"), move || pid(tool)))
        .into()
}

/// A server outside, a command and a client inside.
fn pid(tool: &str) -> Result<()> {
    let net = Net::new()?;
    let mut server = net.b.agent()?;
    server.comm("outside")?;
    let (listener, at) = server.listen("10.9.0.2:0")?;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(env::current_exe()?)
        .args([INSIDE, tool, &at, &net.inodes()]);
    // Process ids, which tell temporary files apart, are the same in every such namespace.
    let files = Scratch::path("inside");
    fs::create_dir(&*files)?;
    command
        .env("TMPDIR", &*files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = net.a.enter(&mut command)?.spawn().context("unshare")?;
    let mut said = [0];
    let connected = child
        .stdout
        .as_mut()
        .context("no stdout")?
        .read(&mut said)?;
    if connected == 1 {
        let accepted = server.number(&format!("accept {listener}"))?;
        server.run(&format!("eof {accepted}"))?;
        server.run(&format!("close {accepted}"))?;
        net.quiet()?;
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    Ok(())
}

/// The half within; the caller prints what is wrong.
pub fn inside(args: &[String]) -> Result<()> {
    let [tool, at, inodes] = args else {
        anyhow::bail!("{INSIDE} TOOL ADDRESS NAMESPACES");
    };
    prctl::set_name(c"inside")?;
    let args = ["--json", "--netns", inodes.as_str()];
    let everything = Tool::start(tool, &args)?;
    let own = id().to_string();
    let mine = Tool::start(tool, &[&args[..], &["-p", &own]].concat())?;
    let mut client = TcpStream::connect(at)?;
    println!();
    client.write_all(b"hello")?;
    client.shutdown(std::net::Shutdown::Write)?;
    client.read_to_end(&mut vec![])?;
    drop(client);
    // The other half closes the pipe when both ends are over.
    std::io::stdin().read_to_end(&mut vec![])?;
    let (everything, mine) = (everything.stop()?.rows()?, mine.stop()?.rows()?);

    let of =
        |comm: &str| -> Vec<&Value> { everything.iter().filter(|r| r["comm"] == comm).collect() };
    let (inner, outer) = (of("inside"), of("outside"));
    ensure!(!inner.is_empty(), "no row of ours: {everything:#?}");
    ensure!(inner.iter().all(|r| r["pid"] == id()), "{inner:#?}");
    ensure!(outer.iter().all(|r| r["pid"].is_null()), "{outer:#?}");
    let outer_shows = tool != "tcpconnect";
    ensure!(outer.is_empty() != outer_shows, "{everything:#?}");
    let cookies = |rows: &[&Value]| rows.iter().map(|r| r["cookie"].clone()).collect::<Vec<_>>();
    let mine: Vec<_> = mine.iter().collect();
    ensure!(cookies(&mine) == cookies(&inner), "-p {own}: {mine:#?}");
    Ok(())
}
