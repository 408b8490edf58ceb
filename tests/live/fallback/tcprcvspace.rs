// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcprcvspace from records alone.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{
    scene::{Scene, Session},
    tcpstates, trials,
};
use crate::tool;

const TOLD: [&str; 7] = [
    "cookie", "family", "laddr", "lport", "raddr", "rport", "calls",
];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcprcvspace::reads", reads),
        trials("tcprcvspace::refusals", refusals),
    ])
}

/// A row per read, also of sessions that were there before, and every third.
fn reads(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let before = scene.session(&host)?;
    let each = scene.watch("tcprcvspace", &[])?;
    let third = scene.watch("tcprcvspace", &["--every", "3"])?;
    talk(&mut scene, before)?;
    let rows = each.agree(&["cookie"], &TOLD)?;
    ensure!(rows.len() == 40, "{} rows", rows.len());
    let untold = |row: &Value| row["rcvbuf_bytes"].is_null() && row["growth"].is_null();
    ensure!(rows.iter().all(untold), "{rows:?}");
    let known = rows.iter().filter(|row| row["pid"].is_u64());
    let known: Vec<_> = known.cloned().collect();
    ensure!(known.len() >= 35, "{} owners", known.len());
    tcpstates::owners(&scene, &known)?;
    ensure!(third.agree(&["cookie"], &TOLD)?.len() == 16);
    Ok(())
}

/// Ten reads of each of four sessions, one of which is there already.
pub fn talk(scene: &mut Scene, before: Session) -> Result<()> {
    let mut sessions = vec![before];
    for host in scene.hosts() {
        sessions.push(scene.session(&host)?);
    }
    for session in &sessions {
        for bytes in [1000, 200, 1400, 1, 700] {
            scene.exchange(*session, bytes)?;
        }
    }
    for session in sessions {
        scene.close(session)?;
    }
    scene.net.quiet()
}

fn refusals(scene: Scene) -> Result<()> {
    for flag in ["--summary", "--changes"] {
        let run = tool::run_without(scene.without, "tcprcvspace", &[flag])?;
        let sentence = run.stderr.trim_end();
        let right = run.status.code() == Some(2) && sentence.lines().count() == 1;
        ensure!(
            right && sentence.starts_with(&format!("tcprcvspace: {flag}: this kernel has no")),
            "{run:?}"
        );
    }
    Ok(())
}
