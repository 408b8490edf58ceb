// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions that are still open when tcplife ends.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::scene::{ANSWER, End, HOSTS, REQUEST, Scene, merged};
use crate::trial;

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcplife::active::at_exit", || at_exit("")),
        // Kernels that refuse to visit a map's elements: every namespace is visited instead.
        trial("tcplife::active::by_namespace", || at_exit("map_elements")),
        trial("tcplife::active::at_interval", at_interval),
        trial("tcplife::active::off_by_default", off_by_default),
    ]
}

fn want_open(scene: &mut Scene, (c, s): &(End, End), partial: bool) {
    let open = json!({"event": "active", "close_reason": null, "partial": partial, "state": "ESTABLISHED"});
    let c = End {
        row: merged(&c.row, open.clone()),
        ..c.clone()
    };
    let s = End {
        row: merged(&s.row, open),
        ..s.clone()
    };
    scene.want(&c, json!({"tx_bytes": REQUEST, "rx_bytes": ANSWER}));
    scene.want(&s, json!({"tx_bytes": ANSWER, "rx_bytes": REQUEST}));
}

/// One session from before the start, one from after it, and one that is over: a row for each end, no listener.
fn at_exit(without: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    for host in HOSTS {
        let ends = scene.talk(host)?;
        want_open(&mut scene, &ends, true);
    }
    scene.watch_without(without, &["--active"])?;
    let _listener = scene.s.listen(HOSTS[0])?;
    for host in HOSTS {
        let ends = scene.talk(host)?;
        want_open(&mut scene, &ends, false);
        let ends = scene.talk(host)?;
        scene.c.run(&format!("close {}", ends.0.fd))?;
        scene.s.run(&format!("eof {}", ends.1.fd))?;
        scene.s.run(&format!("close {}", ends.1.fd))?;
        scene.want_talk(&ends, "fin_local", "fin_remote");
    }
    let tool = scene.tool.as_ref().expect("it watches");
    tool.wait_lines(4)?;
    let rows = scene.stop()?.rows()?;
    scene.check(&rows)
}

/// Every second, and at the end once more.
fn at_interval() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.watch(&["--active=1"])?;
    let (c, _) = scene.talk(HOSTS[0])?;
    scene.tool.as_ref().expect("it watches").wait_lines(4)?;
    let rows = scene.stop()?.rows()?;
    let of_client: Vec<&Value> = rows
        .iter()
        .filter(|row| row["cookie"] == c.row["cookie"])
        .collect();
    ensure!(of_client.len() >= 2, "{rows:?}");
    ensure!(
        of_client
            .iter()
            .all(|row| row["event"] == "active" && row["tx_bytes"] == REQUEST),
        "{rows:?}"
    );
    let durations: Vec<u64> = of_client
        .iter()
        .filter_map(|row| row["duration_us"].as_u64())
        .collect();
    ensure!(
        durations.is_sorted() && durations.len() == of_client.len(),
        "{durations:?}"
    );
    Ok(())
}

fn off_by_default() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.watch(&[])?;
    scene.talk(HOSTS[0])?;
    let rows = scene.stop()?.rows()?;
    scene.check(&rows)
}
