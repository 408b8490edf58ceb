// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tplist` against the kernel's tracefs, and `tcptools check` against what the commands really do.

mod attached;
mod ends;
mod follow;
mod record;
mod selftest;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{missing, scratch::Scratch, tool, tools, trial};

pub fn tests() -> Vec<Trial> {
    let mut all = vec![
        trial("front::btf_agrees_with_tracefs", btf_agrees_with_tracefs),
        trial("front::tracepoints_accounted_for", accounted_for),
        trial("front::output_matches_bcc", output_matches_bcc),
        trial("front::tplist_needs_one_source", tplist_needs_one_source),
        trial("front::check_reports_missing", check_reports_missing),
        trial("front::check_as_root", check_as_root),
        trial("front::check_as_nobody", check_as_nobody),
    ];
    all.extend(attached::tests());
    all
}

/// Those that run several commands at once.
pub fn many() -> Vec<Trial> {
    let all = [
        follow::tests(),
        record::tests(),
        selftest::tests(),
        ends::tests(),
    ];
    all.into_iter().flatten().collect()
}

fn tplist() -> PathBuf {
    tool::path("tplist")
}

fn tcptools() -> PathBuf {
    tool::path("tcptools")
}

/// Whatever the host has mounted: in a mount namespace of its own, tracefs is there or it is not.
const SHOWN: &str =
    "[ -d /sys/kernel/tracing/events ] || mount -t tracefs none /sys/kernel/tracing";
const HIDDEN: &str =
    "mount -t tmpfs none /sys/kernel/tracing; mount -t tmpfs none /sys/kernel/debug";

fn within(mounts: &str, script: &str) -> Result<String> {
    let script = format!("{mounts}; {script}");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .arg(tplist())
        .output()
        .context("unshare")?;
    ensure!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines()
        .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
        .collect()
}

/// `category:event` and the format file of each networking tracepoint, straight from the kernel.
fn formats() -> Result<BTreeMap<String, String>> {
    let script = "cd /sys/kernel/tracing/events; \
        for e in tcp/*/ sock/*/ udp/*/ skb/*/ net/*/; do echo \"@$e\"; cat $e/format; done";
    let text = within(SHOWN, script)?;
    let entry = |part: &str| -> Option<(String, String)> {
        let (path, format) = part.split_once('\n')?;
        let name = path.trim_end_matches('/').replace('/', ":");
        Some((name, format.to_owned()))
    };
    Ok(text.split('@').filter_map(entry).collect())
}

/// The declarations of a format's own fields.
fn declared(format: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    format.lines().filter_map(|line| {
        let parts: Vec<&str> = line.trim().split(';').collect();
        let declaration = parts[0].strip_prefix("field:")?;
        let number = |part: &str| part.trim().split_once(':')?.1.parse().ok();
        let own = !declaration.contains(" common_");
        own.then_some((declaration, number(parts[1])?, number(parts[2])?))
    })
}

/// Of each tracepoint of this kernel's TCP and its sockets: the command that uses it, or why none does.
fn accounted_for() -> Result<()> {
    let mut listed = lines(&within(SHOWN, "\"$1\" --json 'tcp:*'")?)?;
    listed.extend(lines(&within(SHOWN, "\"$1\" --json 'sock:*'")?)?);
    let events = formats()?;
    let mine = |name: &&String| name.starts_with("tcp:") || name.starts_with("sock:");
    ensure!(listed.len() == events.keys().filter(mine).count());
    for line in &listed {
        let has = |key: &str| line[key].as_array().is_some_and(|tools| !tools.is_empty());
        let used = has("shown_by") || has("read_by");
        ensure!(used != line["unused"].is_string(), "{line}");
    }
    Ok(())
}

fn btf_agrees_with_tracefs() -> Result<()> {
    let formats = formats()?;
    ensure!(
        formats.contains_key("tcp:tcp_probe"),
        "{:?}",
        formats.keys()
    );
    let listed = lines(&within(HIDDEN, "\"$1\" --json")?)?;
    for (name, format) in &formats {
        let (category, event) = name.split_once(':').context("name")?;
        let found = listed.iter().find(|t| t["name"] == event);
        let found = found.with_context(|| format!("{name} is not listed"))?;
        ensure!(
            found["category"] == category && found["source"] == "btf",
            "{name}: {found}"
        );
        let fields = found["fields"]
            .as_array()
            .with_context(|| format!("{name} has no fields"))?;
        let expected: Vec<_> = declared(format)
            .map(|(_, offset, size)| (offset, size))
            .collect();
        let number = |f: &Value, key: &str| f[key].as_u64().unwrap_or(u64::MAX);
        let seen: Vec<_> = fields
            .iter()
            .map(|f| (number(f, "offset"), number(f, "size")))
            .collect();
        ensure!(seen == expected, "{name}: {seen:?} against {expected:?}");
        for (field, (declaration, ..)) in fields.iter().zip(declared(format)) {
            // `__data_loc char[] name`, `__u8 saddr[sizeof(struct sockaddr_in6)]`
            let array = declaration.strip_suffix(']');
            let before = array.and_then(|d| d.rsplit_once('[')).map(|d| d.0);
            let plain = before.unwrap_or(declaration).rsplit(' ').next();
            let plain = plain.unwrap_or_default();
            let name = field["name"].as_str().unwrap_or_default();
            ensure!(
                name.trim_start_matches("__data_loc_") == plain,
                "{field} against {declaration}"
            );
        }
    }
    Ok(())
}

fn output_matches_bcc() -> Result<()> {
    let mut expected = String::new();
    for (name, format) in formats()?
        .iter()
        .filter(|(name, _)| name.starts_with("tcp:"))
    {
        expected += &format!("{name}\n");
        declared(format).for_each(|(declaration, ..)| expected += &format!("    {declaration};\n"));
    }
    let ours = within(SHOWN, "\"$1\" -v 'tcp:*'")?;
    let bcc = |line: &str| match line.starts_with(' ') {
        true => (!line.contains("tp_btf(")).then(|| line.to_owned()),
        false => line.split(' ').next().map(str::to_owned),
    };
    let ours: Vec<_> = ours.lines().filter_map(bcc).collect();
    ensure!(
        ours.join("\n") + "\n" == expected,
        "{ours:#?}\nagainst\n{expected}"
    );
    Ok(())
}

/// Statuses of the checks and of the commands.
struct Report {
    lines: Vec<Value>,
    code: Option<i32>,
}

impl Report {
    fn of(output: &Output) -> Result<Self> {
        let lines = lines(std::str::from_utf8(&output.stdout)?)?;
        Ok(Self {
            lines,
            code: output.status.code(),
        })
    }

    fn status(&self, check: &str) -> &Value {
        let found = self
            .lines
            .iter()
            .find(|l| l["event"] == "check" && l["name"] == check);
        found.map_or(&Value::Null, |line| &line["status"])
    }

    fn commands(&self) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(|l| l["event"] == "command")
    }
}

fn tplist_needs_one_source() -> Result<()> {
    let no_btf = "mount -t tmpfs none /sys/kernel/btf";
    let text = within(
        &format!("{no_btf}; {SHOWN}"),
        "\"$1\" -v tcp_destroy_sock 2>&1",
    )?;
    ensure!(text.contains("    __u64 sock_cookie;\n"), "{text}");
    ensure!(!text.contains("tp_btf("), "arguments without BTF: {text}");
    let neither = within(
        &format!("{no_btf}; {HIDDEN}"),
        "\"$1\" 2>&1 || echo \"exit $?\"",
    )?;
    let lines: Vec<_> = neither.lines().collect();
    ensure!(
        lines.len() == 2 && lines[0].contains("mount -t tracefs") && lines[1] == "exit 1",
        "{neither}"
    );
    Ok(())
}

/// What a host may lack, taken away from a real one.
fn check_reports_missing() -> Result<()> {
    let check_in = |how: &str, script: &str| -> Result<Report> {
        let script = format!("{script}; exec \"$1\" check --json");
        let mut command = Command::new("unshare");
        command
            .args(how.split(' '))
            .args(["sh", "-ec", &script, "sh"])
            .arg(tcptools());
        Report::of(&command.output()?)
    };
    let contained = check_in("--user --map-root-user", ":")?;
    ensure!(contained.code == Some(1), "{:?}", contained.code);
    for check in ["user_namespace", "trace"] {
        let status = contained.status(check);
        ensure!(status == "no", "{check} is {status}");
    }
    ensure!(contained.commands().all(|line| line["runs"] == false));
    // Tracepoints' records are left, and inet_diag, which tcptop asks.
    let bare = check_in("--mount", "mount -t tmpfs none /sys/kernel/btf")?;
    ensure!(bare.status("btf") == "note", "{}", bare.status("btf"));
    let needs_btf = |line: &Value| {
        let name = line["command"].as_str();
        name.is_some_and(|name| tools::NEED_BTF.contains(&name) && name != "tcptop")
    };
    let code = Some(i32::from(!tools::NEED_BTF.is_empty()));
    ensure!(
        bare.commands().all(|line| line["runs"] != needs_btf(line)) && bare.code == code,
        "{:#?}",
        bare.lines
    );
    Ok(())
}

fn check_as_root() -> Result<()> {
    let report = Report::of(
        &Command::new(tcptools())
            .args(["check", "--json"])
            .output()?,
    )?;
    for name in [
        "btf",
        "capabilities",
        "user_namespace",
        "trace",
        "ring_buffer",
        "socket_storage",
    ] {
        // A table can stand in for the storage.
        let stood_in = name == "socket_storage" && !missing::cookies();
        let expected = if stood_in { "note" } else { "ok" };
        ensure!(
            report.status(name) == expected,
            "{name}: {:#?}",
            report.lines
        );
    }
    let mut all = true;
    for line in report.commands() {
        let name = line["command"].as_str().context("command")?;
        let alone = Command::new(tcptools())
            .args([name, "--duration", "1ms"])
            .output()?;
        ensure!(line["runs"] == alone.status.success(), "{line}: {alone:?}");
        all &= alone.status.success();
    }
    ensure!(report.commands().count() > 0, "no command was tried");
    ensure!(
        report.code == Some(if all { 0 } else { 1 }),
        "{:?}",
        report.code
    );
    Ok(())
}

fn check_as_nobody() -> Result<()> {
    let dir = Scratch::path("nobody");
    fs::create_dir(&*dir)?;
    fs::set_permissions(&*dir, fs::Permissions::from_mode(0o755))?;
    let built = tcptools();
    for name in ["tcptools", "tcplife"] {
        fs::copy(built.with_file_name(name), dir.join(name))?;
    }
    let mut command = Command::new(dir.join("tcptools"));
    let output = command
        .args(["check", "--json"])
        .uid(65534)
        .gid(65534)
        .output();
    fs::remove_dir_all(&*dir)?;
    let output = output?;
    let report = Report::of(&output)?;
    ensure!(report.code == Some(1), "{output:?}");
    ensure!(report.status("btf") == "ok", "{:#?}", report.lines);
    for name in ["capabilities", "trace"] {
        ensure!(report.status(name) == "no", "{name}: {:#?}", report.lines);
    }
    let life = report
        .commands()
        .find(|l| l["command"] == "tcplife")
        .context("tcplife")?;
    let why = life["why_not"].as_str().unwrap_or_default();
    ensure!(life["runs"] == false && why.contains("CAP_BPF"), "{life}");
    Ok(())
}
