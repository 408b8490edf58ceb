// SPDX-License-Identifier: MIT OR Apache-2.0
//! `-o journal` with journald itself, where that can run.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::traffic;
use crate::{
    net::Net,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![trial("logs::journald", journald)]
}

/// journald, in a mount namespace with a /run and a log of its own.
const JOURNALD: &str = "mount --make-rprivate / && mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
    [ -s /etc/machine-id ] || { echo 0123456789abcdef0123456789abcdef >/run/id && \
    touch /etc/machine-id && mount --bind /run/id /etc/machine-id; }; \
    exec /usr/lib/systemd/systemd-journald";

/// What journalctl finds, by our fields and by those that it has for every program.
#[allow(clippy::print_stderr)] // a test that did not run is named
fn journald() -> Result<()> {
    if !fs::exists("/usr/lib/systemd/systemd-journald")? {
        eprintln!("NOT RUN: logs::journald: systemd-journald is not installed");
        return Ok(());
    }
    let mut server = Command::new("unshare")
        .args(["--mount", "sh", "-c", JOURNALD])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let root = format!("/proc/{}/root", server.id());
    let socket = format!("{root}/run/systemd/journal/socket");
    let tested = found_by_journalctl(&root, &socket);
    server.kill()?;
    server.wait()?;
    tested
}

fn found_by_journalctl(root: &str, socket: &str) -> Result<()> {
    wait::until("journald", PATIENCE, || {
        Ok(UnixDatagram::unbound()?.connect(socket).ok())
    })?;
    let net = Net::new()?;
    let inodes = net.inodes();
    let args = [
        "--netns",
        &inodes,
        "-o",
        "journal",
        "--journal-socket",
        socket,
    ];
    let logged = Tool::start("tcpconnect", &args)?;
    traffic(&net)?;
    let run = logged.stop()?;
    ensure!(run.status.success(), "{run:?}");
    let directory = format!("--directory={root}/run/log/journal");
    let find = |terms: &[&str]| -> Result<Vec<Value>> {
        let output = Command::new("journalctl")
            .args([&directory, "-o", "json", "--no-pager", "-q"])
            .args(terms)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        text.lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    };
    // The last is the summary.
    let count = |terms: &[&str], count: usize| {
        let what = format!("{count} entries of {terms:?}");
        wait::until(&what, PATIENCE, || {
            let found = find(terms)?;
            Ok((found.len() == count).then_some(found))
        })
    };
    count(&["-t", "tcpconnect"], 5)?;
    let failed = count(&["-t", "tcpconnect", "-p", "warning"], 2)?;
    for entry in &failed {
        ensure!(
            entry["TCPTOOLS_ERROR"] == "ECONNREFUSED" && entry["_UID"].is_string(),
            "{entry}"
        );
        ensure!(
            entry["MESSAGE"]
                .as_str()
                .is_some_and(|said| said.contains("open refused")),
            "{entry}"
        );
    }
    let one = count(
        &["TCPTOOLS_OUTCOME=established", "TCPTOOLS_RADDR=fd09::2"],
        1,
    )?;
    // A name of any bytes is text: journalctl shows what is no text as a list of bytes.
    ensure!(one[0]["TCPTOOLS_COMM"] == r#""\xff\xfe\\"#, "{}", one[0]);
    ensure!(one[0]["PRIORITY"] == "6", "{}", one[0]);
    Ok(())
}
