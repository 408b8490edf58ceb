// SPDX-License-Identifier: MIT OR Apache-2.0
//! Table, CSV and JSON as they reach a terminal or a script: complete, and clean whatever a process calls itself.

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;

use crate::scene::{HOSTS, Scene};
use crate::{
    tool::{Run, Tool},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcplife::formats::hostile_names", hostile_names),
        trial("tcplife::formats::table", table),
        trial("tcplife::formats::csv", csv),
    ]
}

/// What a session between processes of these names prints.
fn printed(args: &[&str], comm: &str) -> Result<Run> {
    let mut scene = Scene::new()?;
    scene.c.comm(comm)?;
    scene.s.comm(comm)?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    let inodes = scene.net.inodes();
    let tool = Tool::start("tcplife", &[&["--netns", inodes.as_str()], args].concat())?;
    scene.brief(&at, listener, 1)?;
    scene.net.quiet()?;
    let run = tool.stop()?;
    ensure!(run.status.success(), "{run:?}");
    Ok(run)
}

/// No control byte gets out, in any format, and no row is broken.
fn hostile_names() -> Result<()> {
    for args in [
        &["-o", "table"][..],
        &["-o", "table", "-w"],
        &["-o", "csv"],
        &["-o", "json"],
    ] {
        let run = printed(args, "\u{1b}[31m\n\r\t\u{7f}x")?;
        ensure!(run.lines.len() == 3, "{args:?}: {:?}", run.lines);
        let control = run
            .lines
            .iter()
            .flat_map(|line| line.chars())
            .find(|c| c.is_control());
        ensure!(
            control.is_none(),
            "{args:?}: {control:?} in {:?}",
            run.lines
        );
        let row = run
            .lines
            .iter()
            .find(|line| line.contains(r"x1b[31m"))
            .context("the name is not shown")?;
        // JSON doubles the backslash.
        let name = if args.contains(&"json") {
            r"\\x1b[31m"
        } else {
            r"\x1b[31m"
        };
        ensure!(row.contains(name), "{args:?}: {row}");
    }
    Ok(())
}

fn table() -> Result<()> {
    let run = printed(&[], "a_name_of_15_ch")?;
    let [header, rows @ ..] = &run.lines[..] else {
        bail!("no header: {run:?}")
    };
    ensure!(
        header.starts_with("PID") && rows.len() == 2,
        "{:?}",
        run.lines
    );
    ensure!(
        run.lines.iter().all(|line| line.chars().count() <= 80),
        "wider than 80: {:?}",
        run.lines
    );
    for word in [
        "COMM", "LADDR", "LPORT", "RADDR", "RPORT", "TX_KB", "RX_KB", "MS",
    ] {
        ensure!(header.contains(word), "no {word}: {header}");
    }
    for (args, first) in [(["-T"], "TIME"), (["-t"], "TIME")] {
        let run = printed(&args, "x")?;
        ensure!(
            run.lines.len() == 3 && run.lines[0].starts_with(first),
            "{args:?}: {:?}",
            run.lines
        );
    }
    Ok(())
}

/// A header, and as many fields in every row, whatever the name and the other flags are.
fn csv() -> Result<()> {
    for args in [
        &["-s"][..],
        &["--csv", "-T"],
        &["-o", "csv", "-w"],
        &["-s", "-t", "-w"],
    ] {
        let run = printed(args, "a,\"b\",c")?;
        let records: Vec<Vec<String>> = run.lines.iter().map(|line| csv_fields(line)).collect();
        let [header, rows @ ..] = &records[..] else {
            bail!("no header: {run:?}")
        };
        let comm = header
            .iter()
            .position(|name| name == "comm")
            .context("no comm")?;
        let fits = |row: &Vec<String>| row.len() == header.len() && row[comm] == r#"a\x2c"b"\x2cc"#;
        ensure!(
            rows.len() == 2 && rows.iter().all(fits),
            "{args:?}: {:?}",
            run.lines
        );
    }
    Ok(())
}

/// The fields of a record of RFC 4180 that has no line breaks in it.
fn csv_fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is one");
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    fields
}
