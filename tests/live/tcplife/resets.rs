// SPDX-License-Identifier: MIT OR Apache-2.0
//! How sessions end by a reset, seen from both ends: who sent it is what counts.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::libc;

use crate::net::Side;
use crate::scene::{ANSWER, REQUEST, Scene, scene};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("resets::client_resets", client_resets),
        scene("resets::server_resets", server_resets),
        scene("resets::client_disconnects", client_disconnects),
        scene("resets::unread_data", unread_data),
        scene("resets::data_crosses_close", data_crosses_close),
        scene("resets::data_after_close", data_after_close),
        scene("resets::unacknowledged_bytes", unacknowledged_bytes),
        scene("resets::unread_data_and_fin", unread_data_and_fin),
        scene("resets::finished_then_unread", finished_then_unread),
        scene("resets::finished_then_reset", finished_then_reset),
        scene("resets::data_after_shutdown", data_after_shutdown),
    ]
}

fn client_resets(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

fn server_resets(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("linger0 {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene
        .c
        .fails(&format!("recv {} 1", c.fd), libc::ECONNRESET)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, s), "rst_received", "rst_sent");
    Ok(())
}

/// connect() to nowhere ends a session with a reset, and zeroes the socket.
fn client_disconnects(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("disconnect {}", c.fd))?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// Who closes without having read everything sends a reset.
fn unread_data(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("send {} 500", s.fd))?;
    scene.s.run(&format!("drained {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_end(&c, "rst_sent", REQUEST, ANSWER + 500);
    scene.want_end(&s, "rst_received", ANSWER + 500, REQUEST);
    Ok(())
}

/// The client closes while data is on its way to it: its FIN, then its reset.
fn data_crosses_close(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.net.hold(Side::A)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("send {} 700", s.fd))?;
    scene.net.release(Side::A)?;
    scene.net.b.quiet()?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_end(&c, "rst_sent", REQUEST, ANSWER);
    scene.want_end(&s, "rst_received", ANSWER, REQUEST);
    Ok(())
}

/// The client has closed and its FIN was acknowledged: what comes then finds no session any more, and a reset answers.
fn data_after_close(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.net.a.quiet()?;
    scene.s.run(&format!("send {} 700", s.fd))?;
    scene.net.b.quiet()?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "fin_local", "rst_received");
    Ok(())
}

/// Only what the other end has acknowledged counts as sent.
fn unacknowledged_bytes(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("drop {}", s.fd))?;
    scene.c.run(&format!("send {} 4000", c.fd))?;
    scene.c.run(&format!("linger0 {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("undrop {}", s.fd))?;
    // What is not known there is answered with a reset.
    scene.s.run(&format!("send {} 1", s.fd))?;
    scene
        .s
        .fails(&format!("recv {} 1", s.fd), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}

/// The other side has finished, and its last bytes are not read.
fn unread_data_and_fin(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("send {} 500", s.fd))?;
    scene.s.run(&format!("shutdown {} wr", s.fd))?;
    scene.s.run(&format!("drained {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.over(s.port("lport"), s.port("rport"))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_end(&c, "rst_sent", REQUEST, ANSWER + 500);
    scene.want_end(&s, "rst_received", ANSWER + 500, REQUEST);
    Ok(())
}

/// This side has finished, then closes without reading what came after that.
fn finished_then_unread(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("shutdown {} wr", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("send {} 500", s.fd))?;
    scene.s.run(&format!("drained {}", s.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.net.b.over(s.port("lport"), s.port("rport"))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_end(&c, "rst_sent", REQUEST, ANSWER + 500);
    scene.want_end(&s, "rst_received", ANSWER + 500, REQUEST);
    Ok(())
}

/// This side has finished, then resets all the same: by SO_LINGER 0, and by a FIN_WAIT2 that may not last.
fn finished_then_reset(scene: &mut Scene, host: &str) -> Result<()> {
    for by_linger2 in [false, true] {
        let (c, s) = scene.talk(host)?;
        scene.c.run(&format!("shutdown {} wr", c.fd))?;
        scene.s.run(&format!("eof {}", s.fd))?;
        scene.c.run(&format!("drained {}", c.fd))?;
        if by_linger2 {
            scene
                .c
                .option(c.fd, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)?;
        } else {
            scene.c.run(&format!("linger0 {}", c.fd))?;
        }
        scene.c.run(&format!("close {}", c.fd))?;
        scene.net.b.over(s.port("lport"), s.port("rport"))?;
        scene.s.run(&format!("close {}", s.fd))?;
        scene.want_talk(&(c, s), "rst_sent", "rst_received");
    }
    Ok(())
}

/// The client wants neither to send nor to receive any more, but keeps its socket: data for it is answered with a
/// reset, which the kernel notes as if one had been received.
fn data_after_shutdown(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("shutdown {} both", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.c.run(&format!("drained {}", c.fd))?;
    scene.s.run(&format!("send {} 700", s.fd))?;
    scene.net.quiet()?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "rst_sent", "rst_received");
    Ok(())
}
