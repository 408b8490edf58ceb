// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--stats`: the reported cost of a command, compared with another run that shows everything.
//!
//! Programs see the whole host, so the numbers of a run include what other tests do meanwhile. The other run was there
//! before it and is there after it: its rows bound them from both sides, and on a quiet host from both alike.

use anyhow::{Context, Result, ensure};
use caps::Capability;
use libtest_mimic::Trial;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    missing,
    scene::{HOSTS, Scene},
    tool::{self, Run, Tool},
    tools, trial,
};

/// Commands whose rows the traffic of these tests causes on both sides, and a filter of the command's own.
const FILTERED: [(&str, &[&str]); 8] = [
    ("tcpaccept", &[]),
    ("tcpconnect", &["--min-ms", "0.001"]),
    ("tcpinfo", &[]),
    ("tcplife", &[]),
    ("tcpprobe", &["--every", "3"]),
    ("tcprcvspace", &["--every", "2"]),
    ("tcpreset", &[]),
    ("tcpstates", &["--new", "CLOSE"]),
];

pub fn tests() -> Vec<Trial> {
    let filtered = FILTERED.map(|(tool, own)| {
        trial(format!("stats::filtered_{tool}"), move || {
            filtered(tool, own)
        })
    });
    let mut trials = Vec::from(filtered);
    trials.extend([
        trial("stats::every_command", every_command),
        trial("stats::runs", runs),
        trial("stats::without_sys_admin", without_sys_admin),
        trial("stats::reader_closed", reader_closed),
        trial("stats::verified", verified),
    ]);
    trials
}

fn boot_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// Sessions from either side, with data, some of them reset.
fn traffic(scene: &mut Scene) -> Result<()> {
    for host in HOSTS {
        for resets in [false, true] {
            let (c, s) = scene.talk(host)?;
            if resets {
                scene.c.run(&format!("linger0 {}", c.fd))?;
            }
            scene.c.run(&format!("close {}", c.fd))?;
            scene.s.run(&format!("close {}", s.fd))?;
        }
        let back = host.replace("::2", "::1").replace(".0.2", ".0.1");
        let (listener, at) = scene.c.listen(&back)?;
        let fd = scene.s.open(&at)?;
        scene.s.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.c.number(&format!("accept {listener}"))?;
        scene.s.run(&format!("send {fd} 20000"))?;
        scene.c.run(&format!("recv {accepted} 20000"))?;
        scene.c.run(&format!("close {listener}"))?;
        scene.s.run(&format!("linger0 {fd}"))?;
        scene.s.run(&format!("close {fd}"))?;
        scene.c.run(&format!("close {accepted}"))?;
    }
    scene.net.quiet()
}

fn summary(run: &Run) -> Result<Value> {
    let last = run.records()?.pop().context("no record")?;
    ensure!(last["event"] == "summary" && last["lost"] == 0, "{last}");
    Ok(last)
}

fn number(summary: &Value, key: &str) -> Result<u64> {
    let value = summary[key].as_u64();
    value.with_context(|| format!("{key} is no number: {summary}"))
}

/// The line on standard error, of which there is one.
fn cost_line<'a>(run: &'a Run, tool: &str) -> Result<&'a str> {
    let begin = format!("{tool}: cost: ");
    let mut found = run.stderr.lines().filter_map(|l| l.strip_prefix(&begin));
    let line = found.next().with_context(|| run.stderr.clone())?;
    ensure!(found.next().is_none(), "twice: {}", run.stderr);
    Ok(line)
}

/// Everything the host shows while the inner run lives; the narrow time is inside that life, the wide one around it.
struct Around {
    outer: Tool,
    wide: (u64, u64),
    narrow: (u64, u64),
}

impl Around {
    fn begin(tool: &str, args: &[&str]) -> Result<Self> {
        let all = [&["--json", "--buffer", "65536"], args].concat();
        let outer = Tool::start(tool, &all)?;
        let now = boot_ns()?;
        Ok(Self {
            outer,
            wide: (now, now),
            narrow: (now, now),
        })
    }

    /// The rows of both times that `is_it` counts.
    fn end(self, is_it: impl Fn(&Value) -> bool) -> Result<(u64, u64)> {
        let rows = self.outer.stop()?.rows()?;
        let count = |(from, to): (u64, u64)| {
            let within = |row: &&Value| (from..=to).contains(&row["boot_ns"].as_u64().unwrap_or(0));
            rows.iter().filter(within).filter(|row| is_it(row)).count() as u64
        };
        Ok((count(self.narrow), count(self.wide)))
    }

    /// Plays the traffic while the command runs.
    fn play(&mut self, scene: &mut Scene, tool: &str, args: &[&str]) -> Result<Run> {
        let inner = Tool::start(tool, &[&["--json", "--stats"], args].concat())?;
        self.narrow.0 = boot_ns()?;
        traffic(scene)?;
        self.narrow.1 = boot_ns()?;
        let run = inner.stop()?;
        self.wide.1 = boot_ns()?;
        Ok(run)
    }
}

fn filtered(tool: &str, own: &[&str]) -> Result<()> {
    let mut scene = Scene::new()?;
    let mut around = Around::begin(tool, &[])?;
    let shown = scene.net.a.inode.to_string();
    let args = [&["--netns", &shown], own].concat();
    let run = around.play(&mut scene, tool, &args)?;
    let summary = summary(&run)?;
    let rows = run.rows()?.len() as u64;
    let filtered = number(&summary, "filtered")?;
    let (least, most) = around.end(|_| true)?;
    ensure!(
        (least..=most).contains(&(rows + filtered)) && rows > 0 && filtered > 0,
        "{rows} rows and {filtered} filtered, but {least} to {most} events"
    );
    let line = cost_line(&run, tool)?;
    let says = format!("; {filtered} filtered, {rows} rows, 0 lost; reader ");
    ensure!(line.contains(&says), "{line}");
    Ok(())
}

/// tcpaccept has a program at inet_sock_set_state only, and a backup of it, which does not count twice.
fn runs() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut around = Around::begin("tcpstates", &["--mptcp"])?;
    let run = around.play(&mut scene, "tcpaccept", &[])?;
    let summary = summary(&run)?;
    let (least, most) = around.end(|_| true)?;
    let (runs, ns) = (
        number(&summary, "runs")?,
        number(&summary, "kernel_ns_avg")?,
    );
    // MPTCP also reports changes from a state to itself, which are no rows.
    ensure!(
        (least..=most + most / 2).contains(&runs),
        "{least} to {most} changes of state: {summary}"
    );
    ensure!((5..1_000_000).contains(&ns), "{summary}");
    ensure!(number(&summary, "reader_cpu_us")? > 0, "{summary}");
    ensure!(summary["filtered"] == 0, "{summary}");
    let line = cost_line(&run, "tcpaccept")?;
    let begin = format!("{runs} events in the kernel, {ns} ns each (");
    ensure!(line.starts_with(&begin), "{line}");
    ensure!(line.contains(" us per row"), "{line}");
    Ok(())
}

fn every_command() -> Result<()> {
    let mut scene = Scene::new()?;
    let inodes = scene.net.inodes();
    let start = |tool, stats: &[&'static str]| {
        Tool::start(tool, &[&["--json", "--netns", &inodes], stats].concat())
    };
    let both = |tool: &'static str| (tool, start(tool, &["--stats"]), start(tool, &[]));
    let tools: Vec<_> = tools::here().map(both).collect();
    traffic(&mut scene)?;
    for (tool, with, without) in tools {
        let with = with?.stop()?;
        let said = summary(&with)?;
        ensure!(number(&said, "runs")? > 0, "{said}");
        ensure!(number(&said, "kernel_ns_avg")? > 0, "{said}");
        number(&said, "filtered")?;
        number(&said, "reader_cpu_us")?;
        cost_line(&with, tool)?;
        let without = without?.stop()?;
        let silent = summary(&without)?;
        let keys = ["runs", "filtered", "kernel_ns_avg", "reader_cpu_us"];
        ensure!(keys.iter().all(|key| silent.get(key).is_none()), "{silent}");
        ensure!(cost_line(&without, tool).is_err(), "{}", without.stderr);
    }
    Ok(())
}

/// `--verbose` names each program that the kernel has verified, with a plausible number.
fn verified() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_verified_instructions()?;
    for tool in ["tcplife", "tcpdrop"] {
        let said = tool::run(tool, &["--verbose", "--duration", "1ms"])?.stderr;
        let mut counts = Vec::new();
        for line in said.lines().filter(|line| line.contains("verified instr")) {
            let [of, program, _, count] = line.split(": ").collect::<Vec<_>>()[..] else {
                anyhow::bail!("{line}");
            };
            let count: u64 = count.parse()?;
            ensure!(of == tool && !program.is_empty() && count < 1_000_000);
            counts.push(count);
        }
        ensure!(
            counts.len() >= 3 && counts.iter().any(|&count| count > 1000),
            "{counts:?}"
        );
    }
    Ok(())
}

fn without_sys_admin() -> Result<()> {
    let mut scene = Scene::new()?;
    let inodes = scene.net.inodes();
    let args = ["--json", "--stats", "--netns", &inodes];
    let tool = Tool::start_without(Capability::CAP_SYS_ADMIN, "tcplife", &args)?;
    traffic(&mut scene)?;
    let run = tool.stop()?;
    ensure!(!run.rows()?.is_empty(), "{run:?}");
    let summary = summary(&run)?;
    number(&summary, "filtered")?;
    let counts_anyway = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")?;
    if counts_anyway.trim() == "1" {
        return number(&summary, "runs").map(drop);
    }
    ensure!(summary["runs"].is_null(), "{summary}");
    ensure!(summary["kernel_ns_avg"].is_null(), "{summary}");
    let said = |what: &str| run.stderr.lines().filter(|l| l.contains(what)).count() == 1;
    ensure!(said("CAP_SYS_ADMIN is missing"), "{}", run.stderr);
    ensure!(said("kernel events and time unknown"), "{}", run.stderr);
    Ok(())
}

/// A run whose reader has closed also reports its cost.
fn reader_closed() -> Result<()> {
    let mut scene = Scene::new()?;
    let inodes = scene.net.inodes();
    let (reader, writer) = std::io::pipe()?;
    let tool = Tool::with_stdout("tcplife", &["--stats", "--netns", &inodes], writer.into())?;
    drop(reader);
    traffic(&mut scene)?;
    let run = tool.finish(std::time::Duration::from_secs(5))?;
    ensure!(run.status.success(), "{run:?}");
    cost_line(&run, "tcplife").map(drop)
}
