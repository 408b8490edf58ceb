// SPDX-License-Identifier: MIT OR Apache-2.0
//! Process ids where /proc is not that of the command's own pid namespace: they are those of its user, or blank.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio, id},
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{net::Net, scratch::Scratch, tool::Tool, trial};

/// The verb with which this program runs itself in the namespace.
pub const INSIDE: &str = "inside-foreign-proc";

/// What is done to /proc within.
const OUTER: &str = ":";
const NONE: &str = "umount -l /proc";

pub fn tests() -> Vec<Trial> {
    [
        ("pids::proc_of_another_namespace", "", OUTER, "own"),
        ("pids::no_proc", "", NONE, "own or blank"),
        (
            "fallback::pids::proc_of_another_namespace",
            "btf",
            OUTER,
            "blank",
        ),
    ]
    .map(|(name, without, proc, expected)| trial(name, move || outside(without, proc, expected)))
    .into()
}

/// A server outside, the command and two clients inside: one connects before the command starts, one after.
fn outside(without: &str, proc: &str, expected: &str) -> Result<()> {
    let net = Net::new()?;
    let networks = net.own_networks()?;
    for network in networks {
        let host = match network.contains(':') {
            true => format!("[{network}2]:0"),
            false => format!("{network}2:0"),
        };
        within(&net, &host, &[without, proc, expected])
            .with_context(|| format!("{host} {without} {proc}"))?;
    }
    Ok(())
}

fn within(net: &Net, host: &str, how: &[&str]) -> Result<()> {
    let mut server = net.b.agent()?;
    let (listener, at) = server.listen(host)?;
    let files = Scratch::path("pids");
    fs::create_dir(&*files)?;
    let script = format!("{}; exec \"$@\"", how[1]);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "sh", "-ec", &script, "sh"])
        .arg(env::current_exe()?)
        .args([INSIDE, how[0], &at, how[2]])
        .env("TMPDIR", &*files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = net.a.enter(&mut command)?.spawn().context("unshare")?;
    let mut pipe = child.stdout.take().context("no stdout")?;
    if pipe.read(&mut [0])? == 1 {
        for _ in 0..2 {
            let accepted = server.number(&format!("accept {listener}"))?;
            server.run(&format!("eof {accepted}"))?;
            server.run(&format!("close {accepted}"))?;
        }
        net.quiet()?;
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", output.status);
    Ok(())
}

/// The half within; the caller prints what is wrong.
pub fn inside(args: &[String]) -> Result<()> {
    let [without, at, expected] = args else {
        bail!("{INSIDE} WITHOUT ADDRESS EXPECTED");
    };
    let early = TcpStream::connect(at)?;
    let address: std::net::SocketAddr = at.parse()?;
    let server = address.ip().to_string();
    let tool = Tool::start_reduced(without, "tcplife", &["--json", "--raddr", &server])?;
    let late = TcpStream::connect(at)?;
    let ports = [early.local_addr()?.port(), late.local_addr()?.port()];
    println!();
    for mut client in [early, late] {
        client.write_all(b"hello")?;
        client.shutdown(std::net::Shutdown::Write)?;
        client.read_to_end(&mut vec![])?;
    }
    // The other half closes the pipe when both ends are over.
    std::io::stdin().read_to_end(&mut vec![])?;
    let rows = tool.stop()?.rows()?;
    for port in ports {
        let row = rows.iter().find(|row| row["lport"] == port);
        let row = row.with_context(|| format!("{port} is missing: {rows:#?}"))?;
        let right = match expected.as_str() {
            "own" => row["pid"] == id(),
            "blank" => row["pid"].is_null(),
            _ => row["pid"] == id() || row["pid"] == Value::Null,
        };
        ensure!(right, "expected {expected} ({}): {row}", id());
    }
    Ok(())
}
