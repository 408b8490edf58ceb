// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page as promtool reads it, and the rules and the dashboard that are shipped.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    prometheus::Prometheus,
    scene::{Metrics, program_of_prometheus},
};
use crate::{missing, net::Netns, tool};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/prometheus")
        .join(name)
}

fn promtool_says(args: &[&str], input: &[u8]) -> Result<String> {
    let mut command = Command::new(program_of_prometheus("promtool")?);
    command.args(args).current_dir(shipped(""));
    let piped = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
    let [stdin, stdout, stderr] = piped;
    let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input)?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "promtool {args:?}: {said}");
    Ok(said)
}

/// No complaint about a name, a unit or a label, with the user's labels and without.
pub fn promtool() -> Result<()> {
    missing::needs_programs()?;
    program_of_prometheus("promtool")?;
    for args in [
        &[][..],
        &[
            "--labels",
            "comm,lport,container,cgroup,unit,netns,raddr/24,uid",
        ],
    ] {
        let run = tool::run("tcptools", &[&["metrics", "--once"], args].concat())?;
        ensure!(run.status.success(), "{run:?}");
        let said = promtool_says(
            &["check", "metrics"],
            (run.lines.join("\n") + "\n").as_bytes(),
        )?;
        ensure!(said.is_empty(), "{said}");
    }
    Ok(())
}

/// Each alert has a case, and the name of a finding.
pub fn rules() -> Result<()> {
    promtool_says(&["check", "rules", "tcptools.rules.yml"], b"")?;
    promtool_says(&["test", "rules", "tcptools.rules.test.yml"], b"")?;
    let text = fs::read_to_string(shipped("tcptools.rules.yml"))?;
    let tested = fs::read_to_string(shipped("tcptools.rules.test.yml"))?;
    let findings = tool::run("tcptools", &["triage", "--list"])?
        .lines
        .join("\n");
    let value =
        |line: &str, key: &str| Some(line.trim_start().strip_prefix(key)?.trim().to_owned());
    for alert in text.lines().filter_map(|line| value(line, "- alert:")) {
        ensure!(tested.contains(&alert), "{alert} has no test");
    }
    for finding in text.lines().filter_map(|line| value(line, "finding:")) {
        ensure!(findings.contains(&finding), "triage finds no {finding}");
    }
    Ok(())
}

/// What a dashboard asks: each query is one that Prometheus understands, of metrics that there are.
pub fn dashboard() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let metrics = Metrics::start(&ns.inode.to_string(), &[])?;
    let text = metrics.ask("GET /metrics HTTP/1.1\r\n\r\n")?.body;
    let known: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let dashboard: Value = serde_json::from_slice(&fs::read(shipped("tcptools.dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let prometheus = Prometheus::start(&metrics.ns)?;
    let (mut ids, mut queries) = (BTreeSet::new(), 0);
    for panel in panels {
        ensure!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        let place = &panel["gridPos"];
        let right = place["x"]
            .as_u64()
            .zip(place["w"].as_u64())
            .map(|(x, w)| x + w);
        ensure!(right <= Some(24) && panel["title"].is_string(), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("a query")?;
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".*");
            prometheus.query(&query)?;
            queries += 1;
            are_known(&query, &known)?;
        }
    }
    ensure!(queries >= 20, "{queries}");
    // The rules ask for nothing else.
    let rules = fs::read_to_string(shipped("tcptools.rules.yml"))?;
    are_known(&rules, &known)
}

/// Names of drops and of listeners are there once there are some.
const LATER: [&str; 5] = [
    "tcptools_dropped_segments_total",
    "tcptools_listener_accept_queue",
    "tcptools_listener_accept_queue_max",
    "tcptools_listener_drops_total",
    "tcptools_listener_syn_queue",
];

fn are_known(text: &str, known: &BTreeSet<&str>) -> Result<()> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    for name in text
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("tcptools_"))
    {
        let of = name.strip_suffix("_bucket").unwrap_or(name);
        ensure!(
            known.contains(of) || LATER.contains(&of),
            "there is no {name}"
        );
    }
    Ok(())
}
