// SPDX-License-Identifier: MIT OR Apache-2.0
//! Endings that look like a reset of ours: `rst_sent` where one was sent, and nowhere else. The kernel's OutRsts is the
//! witness of each scene.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::json;

use crate::scene::{ANSWER, End, HOSTS, REQUEST, Scene};
use crate::{
    net::{Netns, Side},
    pair::{filter, pass},
    trial,
};

/// `setsockopt` numbers that libc has no name for.
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_OFF_NO_WP: i32 = -1;

pub fn tests() -> Vec<Trial> {
    vec![
        cut("repair", repair),
        cut("repaired", repaired),
        cut("linger_time", linger_time),
        cut("linger2", linger2),
        cut("disconnect", disconnect),
        stray("disconnect_last_ack", disconnect_last_ack),
        cut("unacknowledged", unacknowledged),
        stray("fast_open_child", fast_open_child),
        cut("reported_errors", reported_errors),
    ]
}

/// As `scene`; besides, there are as many rows with `rst_sent` as the kernel has sent resets. Then again without a ring
/// buffer, where rows are made of records and of the sockets themselves.
fn cut(name: &str, play: fn(&mut Scene, &str) -> Result<()>) -> Trial {
    twice(name, 0, play)
}

/// As `cut`; a late segment is answered with one more reset, by no socket.
fn stray(name: &str, play: fn(&mut Scene, &str) -> Result<()>) -> Trial {
    twice(name, HOSTS.len() as u64, play)
}

fn twice(name: &str, strays: u64, play: fn(&mut Scene, &str) -> Result<()>) -> Trial {
    trial(format!("tcplife::cut::{name}"), move || {
        for without in ["", "ringbuf,mmap"] {
            played(without, strays, play).with_context(|| format!("without {without:?}"))?;
        }
        Ok(())
    })
}

fn played(without: &str, strays: u64, play: fn(&mut Scene, &str) -> Result<()>) -> Result<()> {
    let mut scene = Scene::new()?;
    scene.watch_without(without, &[])?;
    for host in HOSTS {
        play(&mut scene, host).with_context(|| host.to_owned())?;
    }
    scene.net.quiet()?;
    let rows = scene.stop()?.rows()?;
    match without {
        "" => scene.check(&rows)?,
        _ => scene.check_only(&rows, &["netns", "lport", "rport", "close_reason"])?,
    }
    let sent = rows.iter().filter(|row| row["close_reason"] == "rst_sent");
    let outrsts = |ns: &Netns| Ok::<_, anyhow::Error>(ns.counters()?["Tcp.OutRsts"]);
    let kernel = outrsts(&scene.net.a)? + outrsts(&scene.net.b)?;
    ensure!(
        sent.count() as u64 + strays == kernel,
        "OutRsts is {kernel}: {rows:#?}"
    );
    Ok(())
}

/// A checkpoint: the socket goes, and the other end does not notice.
fn repair(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.option(c.fd, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.a.over(c.port("lport"), c.port("rport"))?;
    scene.s.run(&format!("linger0 {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "aborted", "rst_sent");
    Ok(())
}

/// Repaired and in use again, and then reset.
fn repaired(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    for value in [1, TCP_REPAIR_OFF_NO_WP] {
        scene.c.option(c.fd, libc::IPPROTO_TCP, TCP_REPAIR, value)?;
    }
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// close() that waits: an ordinary end.
fn linger_time(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("linger {} 5", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "fin_local", "fin_remote");
    Ok(())
}

/// A closed socket that does not wait for the other end's FIN resets it when its own is acknowledged, however late.
fn linger2(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.be_patient()?; // a FIN that comes twice is answered twice, and so is reset twice
    for late in [false, true] {
        let (c, s) = scene.talk(host)?;
        scene
            .c
            .option(c.fd, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)?;
        if late {
            scene.net.hold(Side::A)?;
        }
        scene.c.run(&format!("close {}", c.fd))?;
        scene.net.release(Side::A)?;
        scene.net.b.over(s.port("lport"), s.port("rport"))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.want_talk(&(c, s), "rst_sent", "rst_received");
    }
    Ok(())
}

/// connect() with AF_UNSPEC.
fn disconnect(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("disconnect {}", c.fd))?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// The same while a FIN is under way, to an end that has finished already: no reset, and no proper end.
fn disconnect_last_ack(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.be_patient()?;
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("shutdown {} wr", s.fd))?;
    scene.s.run(&format!("drained {}", s.fd))?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.net.hold(Side::A)?;
    scene.c.run(&format!("shutdown {} wr", c.fd))?;
    scene.c.run(&format!("disconnect {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.release(Side::A)?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "aborted", "fin_local");
    Ok(())
}

/// shutdown(), and then SO_LINGER 0 before that was acknowledged.
fn unacknowledged(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.be_patient()?;
    let (c, s) = scene.talk(host)?;
    scene.net.hold(Side::A)?;
    scene.c.run(&format!("shutdown {} wr", c.fd))?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.release(Side::A)?;
    scene.net.b.over(s.port("lport"), s.port("rport"))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// A child with data that came with the SYN is closed before it is established, and that data is not read.
fn fast_open_child(scene: &mut Scene, host: &str) -> Result<()> {
    scene.net.a.sysctl("ipv4/tcp_fastopen", "5")?; // data in the SYN without a cookie
    scene.net.b.sysctl("ipv4/tcp_fastopen", "1538")?; // and taken without one, by any listener
    let (listener, at) = scene.s.listen(host)?;
    let fd = scene.c.open(&at)?;
    scene.c.run(&format!("nonblock {fd}"))?;
    scene.net.hold(Side::B)?;
    scene.c.run(&format!("fastopen {fd} {at} 300"))?;
    let accepted = scene.s.number(&format!("accept {listener}"))?;
    let s = scene.server(accepted)?;
    let cookie = scene.c.number(&format!("cookie {fd}"))?;
    scene.s.run(&format!("close {accepted}"))?;
    scene.s.run(&format!("close {listener}"))?;
    scene.net.release(Side::B)?;
    scene.net.a.over(s.port("rport"), s.port("lport"))?;
    scene.c.run(&format!("close {fd}"))?;
    let (lport, rport) = (s.port("rport"), s.port("lport"));
    let c = json!({"netns": scene.net.a.inode, "cookie": cookie, "lport": lport, "rport": rport});
    scene.want(&End { fd, row: c }, json!({"close_reason": "rst_received"}));
    scene.want(&s, json!({"close_reason": "rst_sent", "state": "SYN_RECV"}));
    Ok(())
}

/// An ICMP error that the process asked for, and has not read when it closes: it ended nothing.
fn reported_errors(scene: &mut Scene, host: &str) -> Result<()> {
    let (level, name) = match host.starts_with('[') {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    for reset in [false, true] {
        let (c, s) = scene.talk(host)?;
        scene.c.option(c.fd, level, name, 1)?;
        filter(
            &scene.net.b,
            "input",
            "meta l4proto tcp reject with icmpx type port-unreachable",
        )?;
        scene.c.run(&format!("send {} 10", c.fd))?;
        scene.c.run(&format!("polled {}", c.fd))?;
        pass(&scene.net.b)?;
        scene.s.run(&format!("recv {} 10", s.fd))?;
        scene.c.run(&format!("drained {}", c.fd))?;
        if reset {
            scene.c.run(&format!("linger0 {}", c.fd))?;
            scene.c.run(&format!("close {}", c.fd))?;
            scene
                .s
                .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
        } else {
            scene.c.run(&format!("close {}", c.fd))?;
            scene.s.run(&format!("eof {}", s.fd))?;
        }
        scene.s.run(&format!("close {}", s.fd))?;
        let (mine, other) = match reset {
            true => ("rst_sent", "rst_received"),
            false => ("fin_local", "fin_remote"),
        };
        scene.want_end(&c, mine, REQUEST + 10, ANSWER);
        scene.want_end(&s, other, ANSWER, REQUEST + 10);
    }
    Ok(())
}
