// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpreset from records alone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use super::{
    scene::{Scene, Session},
    tcpstates, trials,
};
use crate::{
    missing,
    pair::{filter, pass},
    tcpreset::reasons,
};

const TOLD: [&str; 9] = [
    "family",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "direction",
    "state",
    "reason",
    "after_shutdown",
];

/// `setsockopt` number that libc has no name for.
const TCP_REPAIR: i32 = 19;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpreset::every_cause", every_cause),
        trials("tcpreset::existing_sockets", existing_sockets),
        trials("tcpreset::by_listener", by_listener),
        trials("tcpreset::sums", sums),
    ])
}

/// What `every_cause` makes each end of one host send without a full socket: the client's after TIME_WAIT, and for a
/// segment to nobody; the server's for a SYN to nobody.
const HOMELESS: [u64; 2] = [2, 1];

/// Sent rows are as many as the kernel has sent on either side, but for those that it does not report.
fn out_rsts(scene: &Scene, rows: &[Value], untold: [u64; 2]) -> Result<()> {
    for ((side, end), untold) in [(&scene.net.a, '1'), (&scene.net.b, '2')]
        .into_iter()
        .zip(untold)
    {
        let kernel = side.counters()?["Tcp.OutRsts"];
        let sent = rows.iter().filter(|row| {
            let local = row["laddr"].as_str().is_some_and(|a| a.ends_with(end));
            row["direction"] == "sent" && local
        });
        let sent = sent.count() as u64;
        ensure!(
            sent + untold == kernel && sent > 0,
            "OutRsts {kernel}: {rows:#?}"
        );
    }
    Ok(())
}

/// A reset of a session that ends with SO_LINGER 0, with unread data, with data after shutdown and after close, and by
/// a real reset where those would have come.
fn every_cause(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpreset", &[])?;
    let hosts = scene.hosts();
    causes(&mut scene)?;
    let rows = both.agree(&by_row(), &TOLD)?;
    let without_socket = HOMELESS.map(|sent| sent * hosts.len() as u64);
    let (told, untold) = if reasons() {
        (without_socket, [0, 0])
    } else {
        ([0, 0], without_socket)
    };
    out_rsts(&scene, &rows, untold)?;
    let (owned, nobodys): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| !has_no_socket(row));
    ensure!(
        nobodys.len() as u64 == told.iter().sum::<u64>(),
        "{nobodys:#?}"
    );
    ensure!(
        nobodys.iter().all(|row| row["pid"].is_null()),
        "{nobodys:?}"
    );
    tcpstates::owners(&scene, &owned)?;
    for row in &owned {
        let session = row["state"] != "SYN_SENT";
        ensure!(row["age_us"].is_u64() == session, "{row}");
    }
    Ok(())
}

/// All of them, for the other tests of resets.
pub fn causes(scene: &mut Scene) -> Result<()> {
    for host in scene.hosts() {
        for cause in [
            linger_0,
            unread_data,
            after_shutdown,
            real_after_shutdown,
            after_close,
            refused,
            lost_client,
        ] {
            cause(scene, &host)?;
        }
    }
    Ok(())
}

fn has_no_socket(row: &Value) -> bool {
    row["state"].is_null() || row["state"] == "TIME_WAIT"
}

/// A connection may have several rows, in an order that its two ends' CPUs decide.
pub fn by_row() -> [&'static str; 6] {
    ["laddr", "lport", "raddr", "rport", "direction", "state"]
}

fn linger_0(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = scene.session(host)?;
    aborted(scene, session)
}

pub fn aborted(scene: &mut Scene, Session { c, s }: Session) -> Result<()> {
    scene.c.run(&format!("linger0 {c}"))?;
    scene.c.run(&format!("close {c}"))?;
    scene.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    scene.s.run(&format!("close {s}")).map(drop)
}

fn unread_data(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let Session { c, s } = scene.session(host)?;
    scene.c.run(&format!("send {c} 500"))?;
    scene.c.run(&format!("drained {c}"))?;
    scene.s.run(&format!("close {s}"))?;
    scene.c.fails(&format!("recv {c} 1"), libc::ECONNRESET)?;
    scene.c.run(&format!("close {c}")).map(drop)
}

fn shut_down(scene: &mut Scene, host: &(String, String)) -> Result<Session> {
    let session = scene.session(host)?;
    scene.c.run(&format!("shutdown {} both", session.c))?;
    scene.s.run(&format!("eof {}", session.s))?;
    scene.c.run(&format!("drained {}", session.c))?;
    Ok(session)
}

fn end(scene: &mut Scene, Session { c, s }: Session) -> Result<()> {
    scene.net.quiet()?;
    scene.c.run(&format!("close {c}"))?;
    scene.s.run(&format!("close {s}")).map(drop)
}

fn after_shutdown(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = shut_down(scene, host)?;
    scene.s.run(&format!("send {} 700", session.s))?;
    end(scene, session)
}

fn real_after_shutdown(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let Session { c, s } = shut_down(scene, host)?;
    scene.s.run(&format!("linger0 {s}"))?;
    scene.s.run(&format!("close {s}"))?;
    scene.net.quiet()?;
    scene.c.run(&format!("close {c}")).map(drop)
}

fn after_close(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let Session { c, s } = scene.session(host)?;
    scene.c.run(&format!("close {c}"))?;
    scene.s.run(&format!("eof {s}"))?;
    scene.net.a.quiet()?;
    scene.s.run(&format!("send {s} 700"))?;
    scene.net.b.quiet()?;
    scene.s.run(&format!("close {s}")).map(drop)
}

fn refused(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let to = format!("{}:9", host.1);
    let fd = scene.c.open(&to)?;
    scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ECONNREFUSED)?;
    scene.c.run(&format!("close {fd}")).map(drop)
}

fn lost_client(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let Session { c, s } = scene.session(host)?;
    filter(&scene.net.b, "prerouting", "meta l4proto tcp drop")?;
    scene.c.run(&format!("linger0 {c}"))?;
    scene.c.run(&format!("close {c}"))?;
    pass(&scene.net.b)?;
    scene.s.run(&format!("send {s} 10"))?;
    scene.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    scene.s.run(&format!("close {s}")).map(drop)
}

/// Sessions that were there before the command: the kernel was asked for their states.
fn existing_sockets(mut scene: Scene) -> Result<()> {
    let mut sessions = Vec::new();
    for host in scene.hosts() {
        sessions.push(shut_down(&mut scene, &host)?);
        sessions.push(scene.session(&host)?);
    }
    let both = scene.watch("tcpreset", &[])?;
    for Session { s, .. } in &sessions {
        scene.s.run(&format!("linger0 {s}"))?;
        scene.s.run(&format!("close {s}"))?;
    }
    scene.net.quiet()?;
    for Session { c, .. } in sessions {
        scene.c.run(&format!("close {c}"))?;
    }
    let told = [&TOLD[..], &["pid", "comm", "partial", "pid_source"]].concat();
    let rows = both.agree(&by_row(), &told)?;
    ensure!(rows.len() == 12, "{rows:#?}");
    for state in ["CLOSE_WAIT", "ESTABLISHED", "FIN_WAIT2"] {
        ensure!(rows.iter().any(|row| row["state"] == state), "{rows:#?}");
    }
    ensure!(rows.iter().all(|row| row["partial"] == true), "{rows:#?}");
    tcpstates::owners(&scene, &rows)
}

/// A listener gets a segment of a connection that it does not know.
pub fn listener(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let (_, to) = scene.listen(host)?;
    let fd = scene.c.open(&to)?;
    scene.c.option(fd, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    scene.c.run(&format!("connect {fd} {to}"))?;
    scene.c.option(fd, libc::IPPROTO_TCP, TCP_REPAIR, 0)?;
    scene.c.attempt(&format!("send {fd} 10"))?.ok();
    scene.net.a.quiet()
}

/// The record has the listener's two ends, and no other.
fn by_listener(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let both = scene.watch("tcpreset", &["--laddr", &host.1])?;
    listener(&mut scene, &host)?;
    let (with_btf, without_btf) = (
        both.with_btf.stop()?.rows()?,
        both.without_btf.stop()?.rows()?,
    );
    ensure!(
        with_btf.len() == 1 && without_btf.len() == 1,
        "{with_btf:?} {without_btf:?}"
    );
    for key in ["laddr", "lport", "state", "reason", "pid", "comm"] {
        ensure!(
            with_btf[0][key] == without_btf[0][key],
            "{key}: {with_btf:?} {without_btf:?}"
        );
    }
    let told = with_btf[0]["rport"] != 0;
    ensure!(
        without_btf[0]["rport"] == 0 && told == missing::btf(),
        "{without_btf:?}"
    );
    Ok(())
}

/// Totals count what is shown, so a reset that was none is not in them.
fn sums(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpreset", &["--summary"])?;
    for host in scene.hosts() {
        linger_0(&mut scene, &host)?;
        after_shutdown(&mut scene, &host)?;
    }
    let (with_btf, without_btf) = (
        both.with_btf.stop()?.rows()?,
        both.without_btf.stop()?.rows()?,
    );
    let counts = |rows: &[Value]| -> BTreeMap<String, u64> {
        let entry = |row: &Value| {
            let key = json!([row["direction"], row["state"], row["reason"]]);
            (key.to_string(), row["count"].as_u64().unwrap_or(0))
        };
        rows.iter().map(entry).collect()
    };
    ensure!(
        counts(&with_btf) == counts(&without_btf)
            && counts(&without_btf).values().sum::<u64>() == 12,
        "{with_btf:#?} {without_btf:#?}"
    );
    Ok(())
}
