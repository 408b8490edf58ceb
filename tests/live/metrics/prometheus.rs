// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real Prometheus scrapes, and answers with the number that the traffic made.

use std::{fs, io::Write, net::TcpStream, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::scene::{ADDRESS, HERE, Scene, answer, program_of_prometheus};
use crate::{
    net::Netns,
    scratch::Folder,
    servers::program::Program,
    wait::{self, PATIENCE},
};

const PORT: u16 = 9090;

/// A Prometheus in a namespace, with data and configuration of its own.
pub struct Prometheus {
    ns: Arc<Netns>,
    program: Program,
    _folder: Folder,
}

impl Prometheus {
    /// Scrapes `tcptools metrics` in this namespace, if it is there, and evaluates the rules that are shipped.
    pub fn start(ns: &Arc<Netns>) -> Result<Self> {
        let folder = Folder::new("prometheus")?;
        let config = folder.join("prometheus.yml");
        let rules = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/packaging/prometheus/tcptools.rules.yml"
        );
        fs::write(
            &config,
            format!(
                "global:\n  scrape_interval: 200ms\n  evaluation_interval: 200ms\n\
                 rule_files:\n  - {rules}\n\
                 scrape_configs:\n  - job_name: tcptools\n    static_configs:\n      - targets: ['{ADDRESS}']\n"
            ),
        )?;
        let mut command = Command::new(program_of_prometheus("prometheus")?);
        command.args([
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={HERE}:{PORT}"),
        ]);
        let program = Program::start(ns, &mut command, folder.join("log"))?;
        let mut prometheus = Self {
            ns: Arc::clone(ns),
            program,
            _folder: folder,
        };
        let ready = || {
            let asked = get(ns, "/-/ready");
            Ok(asked.is_ok_and(|answer| answer.0 == "200 OK"))
        };
        prometheus.program.ready("Prometheus", ready)?;
        Ok(prometheus)
    }

    /// The answer of its API.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let (status, body) = get(&self.ns, path)?;
        let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(
            status == "200 OK" && answer["status"] == "success",
            "{path}: {status}: {answer}"
        );
        Ok(answer["data"].clone())
    }

    /// The samples of a query.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(query)))?;
        Ok(data["result"].as_array().context("a vector")?.clone())
    }

    /// The only number of a query, if there is one.
    pub fn number(&self, query: &str) -> Result<Option<f64>> {
        let samples = self.query(query)?;
        let number = samples
            .first()
            .and_then(|sample| sample["value"][1].as_str());
        Ok(number.map(str::parse).transpose()?)
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn get(ns: &Netns, path: &str) -> Result<(String, String)> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
    let answer = ns.inside(|| {
        let mut stream = TcpStream::connect((HERE, PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        answer(stream)
    });
    let answer = answer?;
    Ok((answer.status, answer.body))
}

pub fn scrapes() -> Result<()> {
    let mut scene = Scene::new(&[])?;
    for host in ["10.9.0.2:0", "[fd09::2]:0"] {
        for _ in 0..3 {
            let ends = scene.session(host)?;
            scene.send(ends, 700)?;
            scene.close(ends)?;
        }
    }
    let prometheus = Prometheus::start(&scene.metrics.ns)?;
    let becomes = |query: &str, want: f64| {
        wait::until(query, PATIENCE, || {
            Ok((prometheus.number(query)? == Some(want)).then_some(()))
        })
    };
    becomes(r#"up{job="tcptools"}"#, 1.0)?;
    let opens = scene.kernel("Tcp.ActiveOpens")? as f64;
    becomes(
        r#"sum(tcptools_connections_opened_total{outcome="established"})"#,
        opens,
    )?;
    becomes("sum(tcptools_connections_opened_total)", opens)?;
    becomes("sum(tcptools_sent_bytes_total)", 6.0 * 700.0)?;
    becomes("sum(tcptools_connect_duration_seconds_count)", opens)?;
    becomes(
        r#"sum(tcptools_connect_duration_seconds_bucket{le="+Inf"})"#,
        opens,
    )?;
    // What comes while it looks is an increase.
    let ends = scene.session("10.9.0.2:0")?;
    scene.send(ends, 300)?;
    becomes("sum(tcptools_sent_bytes_total)", 6.0 * 700.0 + 300.0)?;
    becomes(r#"tcptools_sockets{state="ESTABLISHED"}"#, 2.0)?;
    let grown = "sum(increase(tcptools_connections_opened_total[1m])) > bool 0";
    becomes(grown, 1.0)?;
    becomes("count(tcptools_build_info)", 1.0)?;
    let families = prometheus.ask("/api/v1/metadata?metric=tcptools_sent_bytes")?;
    let about = &families["tcptools_sent_bytes"][0];
    ensure!(
        about["type"] == "counter" && about["unit"] == "bytes",
        "{families}"
    );
    let rules = prometheus.ask("/api/v1/rules")?;
    for group in rules["groups"].as_array().context("groups")? {
        for rule in group["rules"].as_array().context("rules")? {
            ensure!(rule["health"] != "err", "{rule}");
        }
    }
    Ok(())
}
