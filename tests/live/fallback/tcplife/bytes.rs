// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife from records and inet_diag: the bytes of sessions, however they end, must be known and be those that were
//! sent.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use crate::fallback::scene::{Scene, Session};
use crate::fallback::{tcpstates, trials};
use crate::net::Side;

/// Fields from inet_diag, except `min_rtt_us` and others that a short session may lack.
const TOLD: [&str; 11] = [
    "tx_bytes",
    "rx_bytes",
    "srtt_us",
    "min_rtt_us",
    "total_retrans",
    "snd_cwnd",
    "mss",
    "delivery_rate_bytes_per_s",
    "cookie",
    "netns",
    "close_reason",
];

/// What each end has sent.
const REQUEST: u64 = 1234;
const ANSWER: u64 = 5678;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcplife::bytes::endings", endings),
        trials("tcplife::bytes::existing_sockets", existing_sockets),
        trials("tcplife::bytes::one_process", one_process),
        trials("tcplife::bytes::burst", burst),
        trials("tcplife::bytes::cleared", cleared),
        trials("tcplife::bytes::kept", kept),
    ])
}

/// A session's ports, and the bytes that its client and its server have sent and that the other end has acknowledged.
struct Sent {
    ports: [u64; 2],
    client: u64,
    server: u64,
}

pub type Way = fn(&mut Scene, Session) -> Result<(u64, u64)>;

/// The first few do not wait until all is quiet.
pub const WAYS: [Way; 9] = [
    client_first,
    server_first,
    half_closed,
    simultaneous,
    unread,
    half_closed_unread,
    half_closed_twice,
    late_data,
    killed,
];

fn talk(scene: &mut Scene, Session { c, s }: Session) -> Result<()> {
    scene.c.run(&format!("send {c} {REQUEST}"))?;
    scene.s.run(&format!("recv {s} {REQUEST}"))?;
    scene.s.run(&format!("send {s} {ANSWER}"))?;
    scene.c.run(&format!("recv {c} {ANSWER}"))?;
    scene.s.run(&format!("drained {s}")).map(drop)
}

fn client_first(scene: &mut Scene, session: Session) -> Result<(u64, u64)> {
    scene.close(session)?;
    Ok((0, 0))
}

fn server_first(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    scene.s.run(&format!("close {s}"))?;
    scene.c.run(&format!("eof {c}"))?;
    scene.c.run(&format!("close {c}"))?;
    Ok((0, 0))
}

/// In FIN_WAIT2 the client reads all that comes, the end too.
fn half_closed(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    scene.c.run(&format!("shutdown {c} wr"))?;
    scene.s.run(&format!("eof {s}"))?;
    scene.s.run(&format!("send {s} 5000"))?;
    scene.s.run(&format!("close {s}"))?;
    scene.c.run(&format!("eof {c}"))?;
    scene.c.run(&format!("close {c}"))?;
    Ok((0, 5000))
}

/// In FIN_WAIT2 the client reads nothing of what has come, and the FIN has.
fn half_closed_unread(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    scene.c.run(&format!("shutdown {c} wr"))?;
    scene.s.run(&format!("eof {s}"))?;
    scene.s.run(&format!("send {s} 700"))?;
    scene.s.run(&format!("close {s}"))?;
    scene.net.b.quiet()?;
    scene.c.run(&format!("close {c}"))?;
    Ok((0, 700))
}

/// In FIN_WAIT2 the client closes, and the FIN comes later.
fn half_closed_twice(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    scene.c.run(&format!("shutdown {c} wr"))?;
    scene.s.run(&format!("eof {s}"))?;
    scene.c.run(&format!("close {c}"))?;
    scene.net.a.quiet()?;
    scene.s.run(&format!("close {s}"))?;
    Ok((0, 0))
}

fn simultaneous(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    let ends = (scene.net.hold(Side::A), scene.net.hold(Side::B));
    ends.0.and(ends.1)?;
    scene.c.run(&format!("close {c}"))?;
    scene.s.run(&format!("close {s}"))?;
    scene.net.release(Side::A)?;
    scene.net.release(Side::B)?;
    Ok((0, 0))
}

/// The client closes with something unread, and so resets.
fn unread(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    scene.s.run(&format!("send {s} 100"))?;
    scene.s.run(&format!("drained {s}"))?;
    scene.c.run(&format!("close {c}"))?;
    scene.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    scene.s.run(&format!("close {s}"))?;
    Ok((0, 100))
}

/// Nothing acknowledges data after the client's end.
fn late_data(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    scene.c.run(&format!("close {c}"))?;
    scene.s.run(&format!("eof {s}"))?;
    scene.s.run(&format!("send {s} 100"))?;
    scene.net.a.quiet()?;
    scene.s.run(&format!("close {s}"))?;
    Ok((0, 0))
}

fn killed(scene: &mut Scene, Session { c, s }: Session) -> Result<(u64, u64)> {
    let next = scene.net.a.agent()?;
    std::mem::replace(&mut scene.c, next).kill()?;
    scene.c.comm("client")?;
    scene.s.run(&format!("eof {s}"))?;
    scene.s.run(&format!("close {s}"))?;
    let _ = c;
    Ok((0, 0))
}

fn ports(scene: &mut Scene, session: Session) -> Result<[u64; 2]> {
    let mut port = |verb: &str| -> Result<u64> {
        let text = scene.c.run(&format!("{verb} {}", session.c))?;
        let port = text.rsplit_once(':').context("no port")?.1;
        Ok(port.parse()?)
    };
    Ok([port("local")?, port("peer")?])
}

/// Ends sessions, each in its own way, and returns what they have sent.
fn end(scene: &mut Scene, session: Session, way: Way) -> Result<Sent> {
    let ports = ports(scene, session)?;
    let (client, server) = way(scene, session)?;
    Ok(Sent {
        ports,
        client: REQUEST + client,
        server: ANSWER + server,
    })
}

/// Both ends of every session are rows with these bytes, and nothing else is.
fn check(rows: &[Value], all: &[Sent]) -> Result<()> {
    ensure!(rows.len() == 2 * all.len(), "{} rows", rows.len());
    for sent in all {
        let [client, server] = sent.ports;
        for (lport, rport, tx, rx) in [
            (client, server, sent.client, sent.server),
            (server, client, sent.server, sent.client),
        ] {
            let row = rows
                .iter()
                .find(|row| row["lport"] == lport && row["rport"] == rport);
            let row = row.with_context(|| format!("no row from {lport} to {rport}"))?;
            let right = row["tx_bytes"] == tx && row["rx_bytes"] == rx;
            ensure!(right, "sent {tx}, received {rx}: {row}");
        }
    }
    Ok(())
}

/// Every ending of which the kernel gives an account, over every kind of address.
fn endings(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcplife", &[])?;
    let mut all = Vec::new();
    for host in scene.hosts() {
        for way in WAYS {
            let session = scene.session(&host)?;
            talk(&mut scene, session)?;
            all.push(end(&mut scene, session, way)?);
        }
    }
    scene.net.quiet()?;
    check(&both.agree(&tcpstates::ends(), &TOLD)?, &all)
}

/// The direction of an existing session follows from what was sent.
fn existing_sockets(mut scene: Scene) -> Result<()> {
    let mut sessions = Vec::new();
    for host in scene.hosts() {
        for way in &WAYS[..5] {
            let session = scene.session(&host)?;
            sessions.push((session, *way));
        }
    }
    let half = sessions.len() / 2;
    for (session, _) in &sessions[..half] {
        talk(&mut scene, *session)?;
    }
    let both = scene.watch("tcplife", &[])?;
    let mut all = Vec::new();
    for (i, (session, way)) in sessions.into_iter().enumerate() {
        if i >= half {
            talk(&mut scene, session)?;
        }
        all.push(end(&mut scene, session, way)?);
    }
    scene.net.quiet()?;
    check(&both.agree(&tcpstates::ends(), &TOLD)?, &all)
}

/// Both ends are one thread's: its own segments arrive while it works, so it is the same task at CLOSE and later,
/// whether a process still has the socket or not.
fn one_process(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcplife", &[])?;
    let mut all = Vec::new();
    for host in scene.hosts() {
        for round in 0..20 {
            // The server's own address: over its loopback interface.
            let (listener, to) = scene.listen(&host)?;
            let c = scene.s.open(&to)?;
            scene.s.run(&format!("connect {c} {to}"))?;
            let s = scene.s.number(&format!("accept {listener}"))?;
            scene.s.run(&format!("close {listener}"))?;
            let mut port = |fd: u64| -> Result<u64> {
                let text = scene.s.run(&format!("local {fd}"))?;
                Ok(text.rsplit_once(':').context("no port")?.1.parse()?)
            };
            let ports = [port(c)?, port(s)?];
            scene.s.run(&format!("send {c} {REQUEST}"))?;
            scene.s.run(&format!("recv {s} {REQUEST}"))?;
            scene.s.run(&format!("send {s} {ANSWER}"))?;
            scene.s.run(&format!("recv {c} {ANSWER}"))?;
            if round % 2 == 0 {
                scene.s.run(&format!("shutdown {c} wr"))?;
                scene.s.run(&format!("close {s}"))?;
                scene.s.run(&format!("eof {c}"))?;
                scene.s.run(&format!("close {c}"))?;
            } else {
                scene.s.run(&format!("close {c}"))?;
                scene.s.run(&format!("close {s}"))?;
            }
            all.push(Sent {
                ports,
                client: REQUEST,
                server: ANSWER,
            });
        }
    }
    scene.net.quiet()?;
    check(&both.agree(&tcpstates::ends(), &TOLD)?, &all)
}

/// Hundreds of sessions that end at once.
fn burst(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcplife", &[])?;
    let hosts = scene.hosts();
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut sessions = Vec::new();
        for i in 0..120 {
            let session = scene.session(&hosts[i % 3])?;
            talk(&mut scene, session)?;
            sessions.push((session, ports(&mut scene, session)?));
        }
        for (session, _) in &sessions {
            scene.c.begin(&format!("close {}", session.c))?;
            scene.s.begin(&format!("close {}", session.s))?;
        }
        for (_, ports) in sessions {
            ensure!(
                scene.c.finish()?.is_ok() && scene.s.finish()?.is_ok(),
                "close"
            );
            all.push(Sent {
                ports,
                client: REQUEST,
                server: ANSWER,
            });
        }
    }
    scene.net.quiet()?;
    check(&both.agree(&tcpstates::ends(), &TOLD)?, &all)
}

/// What the kernel has cleared is blank, and of an attempt there is nothing to clear.
fn cleared(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcplife", &[])?;
    for host in scene.hosts() {
        let session = scene.session(&host)?;
        talk(&mut scene, session)?;
        scene.c.run(&format!("linger0 {}", session.c))?;
        scene.c.run(&format!("close {}", session.c))?;
        let recv = format!("recv {} 1", session.s);
        scene.s.fails(&recv, libc::ECONNRESET)?;
        scene.s.run(&format!("close {}", session.s))?;
        tcpstates::refused(&mut scene, &host)?;
    }
    scene.net.quiet()?;
    let rows = both.agree(&tcpstates::ends(), &["close_reason", "state"])?;
    let count = |reason: &str, tx: Value, rx: Value| {
        let same = |row: &&Value| {
            row["close_reason"] == reason && row["tx_bytes"] == tx && row["rx_bytes"] == rx
        };
        rows.iter().filter(same).count()
    };
    let counts = (
        count("rst_sent", Value::Null, Value::Null),
        count("rst_received", ANSWER.into(), REQUEST.into()),
        count("refused", 0.into(), 0.into()),
    );
    ensure!(
        counts == (3, 3, 6) && rows.len() == 12,
        "{counts:?} {rows:#?}"
    );
    Ok(())
}

/// A process that keeps a dead socket holds up neither the other rows nor, for ever, its own.
fn kept(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcplife", &[])?;
    let host = scene.hosts()[0].clone();
    let (kept, other) = (scene.session(&host)?, scene.session(&host)?);
    scene.c.run(&format!("linger0 {}", kept.c))?;
    scene.c.run(&format!("close {}", kept.c))?;
    scene.close(other)?;
    both.without_btf.wait_lines(3)?;
    let early = both.without_btf.seen()?.clone();
    ensure!(
        early.len() == 3,
        "the row of the kept socket waits: {early:#?}"
    );
    both.without_btf.wait_lines(4)?;
    scene.s.run(&format!("close {}", kept.s))?;
    scene.net.quiet()?;
    let rows = both.agree(&tcpstates::ends(), &["close_reason"])?;
    let blank = |row: &&Value| row["tx_bytes"].is_null();
    ensure!(rows.iter().filter(blank).count() == 2, "{rows:#?}");
    Ok(())
}
