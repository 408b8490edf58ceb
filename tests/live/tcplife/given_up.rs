// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions that the kernel or an administrator gives up.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::libc;

use crate::scene::{Scene, scene};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("given_up::user_timeout", user_timeout),
        scene("given_up::keepalive_timeout", keepalive_timeout),
        scene("given_up::killed_by_ss", killed_by_ss),
        scene("given_up::fin_unanswered", fin_unanswered),
    ]
}

fn user_timeout(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene
        .c
        .option(c.fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 300)?;
    scene.s.run(&format!("drop {}", s.fd))?;
    scene.c.run(&format!("send {} 4000", c.fd))?;
    scene
        .c
        .fails(&format!("recv {} 1", c.fd), libc::ETIMEDOUT)?;
    scene.s.run(&format!("undrop {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, s), "timeout", "rst_received");
    Ok(())
}

fn keepalive_timeout(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("drop {}", s.fd))?;
    for (name, value) in [
        (libc::TCP_KEEPIDLE, 1),
        (libc::TCP_KEEPINTVL, 1),
        (libc::TCP_KEEPCNT, 1),
    ] {
        scene.c.option(c.fd, libc::IPPROTO_TCP, name, value)?;
    }
    scene
        .c
        .option(c.fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    scene
        .c
        .fails(&format!("recv {} 1", c.fd), libc::ETIMEDOUT)?;
    scene.s.run(&format!("undrop {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, s), "timeout", "rst_received");
    Ok(())
}

/// An administrator ends it from outside.
fn killed_by_ss(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.net.a.feed(
        &["ss", "-K", "-t", &format!("sport = :{}", c.row["lport"])],
        "",
    )?;
    scene
        .c
        .fails(&format!("recv {} 1", c.fd), libc::ECONNABORTED)?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "aborted", "rst_received");
    Ok(())
}

/// The FIN is never acknowledged.
fn fin_unanswered(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene
        .c
        .option(c.fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 300)?;
    scene.s.run(&format!("drop {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.a.over(c.port("lport"), c.port("rport"))?;
    scene.s.run(&format!("undrop {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "timeout", "rst_received");
    Ok(())
}
