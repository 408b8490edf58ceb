// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path and time in rows, compared with TCP_INFO and the clocks.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::scene::{HOSTS, Scene, scene};
use crate::{
    peer::Agent,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("details::tcp_info", tcp_info),
        trial("tcplife::details::times", times),
    ]
}

/// TCP_INFO of a socket, by the names of the row.
fn expected(agent: &mut Agent, fd: u64) -> Result<Value> {
    let info = agent.info(fd)?;
    Ok(json!({
        "srtt_us": info["srtt_us"], "min_rtt_us": info["min_rtt_us"], "total_retrans": info["total_retrans"],
        "snd_cwnd": info["snd_cwnd"], "mss": info["snd_mss"], "delivery_rate_bytes_per_s": info["delivery_rate"],
    }))
}

/// A session with a loss, ended by a reset, which changes none of the numbers at either end.
fn tcp_info(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("drop {}", s.fd))?;
    scene.c.run(&format!("send {} 5000", c.fd))?;
    wait::until("a retransmission", PATIENCE, || {
        Ok((scene.c.info(c.fd)?["total_retrans"] > 0).then_some(()))
    })?;
    scene.s.run(&format!("undrop {}", s.fd))?;
    scene.s.run(&format!("recv {} 5000", s.fd))?;
    scene.c.run(&format!("drained {}", c.fd))?;
    let algorithm = scene.net.a.inside(|| {
        Ok(fs::read_to_string(
            "/proc/sys/net/ipv4/tcp_congestion_control",
        )?)
    })?;
    let (of_client, of_server) = (expected(&mut scene.c, c.fd)?, expected(&mut scene.s, s.fd)?);
    ensure!(of_client["total_retrans"].as_u64() > Some(0));
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.over(s.port("lport"), s.port("rport"))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want(
        &c,
        crate::scene::merged(&of_client, json!({"ca_name": algorithm.trim()})),
    );
    scene.want(&s, of_server);
    Ok(())
}

fn now(clock: ClockId) -> Result<Duration> {
    Ok(clock_gettime(clock)?.into())
}

/// What is known of when a session was open, by the boot clock.
struct Times {
    cookie: Value,
    opened: [Duration; 2],
    closed: [Duration; 2],
}

/// The duration lies between what is measured inside and outside of the session, and its end at the right time.
fn times() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.watch(&[])?;
    let offset = now(ClockId::CLOCK_REALTIME)? - now(ClockId::CLOCK_BOOTTIME)?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let before_open = now(ClockId::CLOCK_BOOTTIME)?;
        let (c, s) = scene.talk(host)?;
        let opened = [before_open, now(ClockId::CLOCK_BOOTTIME)?];
        scene.exchange(&c, &s)?;
        let before_close = now(ClockId::CLOCK_BOOTTIME)?;
        scene.c.run(&format!("linger0 {}", c.fd))?;
        scene.c.run(&format!("close {}", c.fd))?;
        scene.net.b.over(s.port("lport"), s.port("rport"))?;
        let closed = [before_close, now(ClockId::CLOCK_BOOTTIME)?];
        sessions.extend([c, s].map(|end| Times {
            cookie: end.row["cookie"].clone(),
            opened,
            closed,
        }));
    }
    let rows = scene.stop()?.rows()?;
    for times in sessions {
        let row = rows
            .iter()
            .find(|row| row["cookie"] == times.cookie)
            .context("no row")?;
        check_times(row, &times, offset).with_context(|| row.to_string())?;
    }
    Ok(())
}

fn check_times(row: &Value, times: &Times, offset: Duration) -> Result<()> {
    let field = |name: &str| row[name].as_u64().with_context(|| name.to_owned());
    let (end, lasted) = (
        Duration::from_nanos(field("boot_ns")?),
        Duration::from_micros(field("duration_us")?),
    );
    // Cut to whole microseconds.
    let microsecond = Duration::from_micros(1);
    let shortest = times.closed[0]
        .saturating_sub(times.opened[1])
        .saturating_sub(microsecond);
    let longest = times.closed[1] - times.opened[0];
    ensure!(
        (shortest..=longest).contains(&lasted),
        "{lasted:?} is not in {shortest:?}..{longest:?}"
    );
    ensure!(
        (times.closed[0]..=times.closed[1]).contains(&end),
        "{end:?} is not in {:?}",
        times.closed
    );
    let ts = chrono::DateTime::parse_from_rfc3339(row["ts"].as_str().context("ts")?)?;
    let utc = Duration::from_nanos(ts.timestamp_nanos_opt().context("ts")?.try_into()?);
    // The two clocks drift apart a little while they are steered.
    ensure!(
        utc.abs_diff(offset + end) < Duration::from_millis(50),
        "{utc:?} is not {:?}",
        offset + end
    );
    ensure!(
        row["ts"]
            .as_str()
            .is_some_and(|ts| ts.len() == 30 && ts.ends_with('Z')),
        "not to the nanosecond, UTC"
    );
    Ok(())
}
