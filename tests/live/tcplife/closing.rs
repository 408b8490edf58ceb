// SPDX-License-Identifier: MIT OR Apache-2.0
//! How sessions end by FIN, seen from both ends.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::libc;

use crate::net::Side;
use crate::scene::{ANSWER, REQUEST, Scene, scene};

pub fn tests() -> Vec<Trial> {
    vec![
        scene("closing::client_first", client_first),
        scene("closing::server_first", server_first),
        scene("closing::half_closed", half_closed),
        scene("closing::simultaneous", simultaneous),
        scene("closing::killed", killed),
        scene("closing::empty", empty),
        scene("closing::big", big),
    ]
}

fn client_first(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "fin_local", "fin_remote");
    Ok(())
}

fn server_first(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_talk(&(c, s), "fin_remote", "fin_local");
    Ok(())
}

/// The client shuts down, then gets its answer.
fn half_closed(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.c.run(&format!("shutdown {} wr", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("send {} 5000", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_end(&c, "fin_local", REQUEST, ANSWER + 5000);
    scene.want_end(&s, "fin_remote", ANSWER + 5000, REQUEST);
    Ok(())
}

/// Both FINs are on the way at the same time, each sent before the other one arrives.
fn simultaneous(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    scene.net.hold(Side::A)?;
    scene.net.hold(Side::B)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.net.release(Side::A)?;
    scene.net.release(Side::B)?;
    scene.want_talk(&(c, s), "fin_both", "fin_both");
    Ok(())
}

/// The kernel closes the sockets of a process that is killed.
fn killed(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.talk(host)?;
    let next = scene.net.a.agent()?;
    std::mem::replace(&mut scene.c, next).kill()?;
    scene.c.comm("client")?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_talk(&(c, s), "fin_local", "fin_remote");
    Ok(())
}

/// Not a byte, by FIN and by reset from either side.
fn empty(scene: &mut Scene, host: &str) -> Result<()> {
    let (c, s) = scene.session(host)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.s.run(&format!("eof {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene.want_end(&c, "fin_local", 0, 0);
    scene.want_end(&s, "fin_remote", 0, 0);
    let (c, s) = scene.session(host)?;
    scene.s.run(&format!("linger0 {}", s.fd))?;
    scene.s.run(&format!("close {}", s.fd))?;
    scene
        .c
        .fails(&format!("recv {} 1", c.fd), libc::ECONNRESET)?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_end(&c, "rst_received", 0, 0);
    scene.want_end(&s, "rst_sent", 0, 0);
    Ok(())
}

/// Data both ways at once, more than any buffer holds, and the FIN right behind the last byte.
fn big(scene: &mut Scene, host: &str) -> Result<()> {
    const BYTES: u64 = 20_000_000;
    let (c, s) = scene.session(host)?;
    scene.c.begin(&format!("send {} {BYTES}", c.fd))?;
    scene.s.run(&format!("recv {} {BYTES}", s.fd))?;
    scene.c.finish()?.ok();
    scene.s.begin(&format!("send {} {}", s.fd, BYTES + 1))?;
    scene.c.run(&format!("recv {} {}", c.fd, BYTES + 1))?;
    scene.s.finish()?.ok();
    scene.s.run(&format!("close {}", s.fd))?;
    scene.c.run(&format!("eof {}", c.fd))?;
    scene.c.run(&format!("close {}", c.fd))?;
    scene.want_end(&c, "fin_remote", BYTES, BYTES + 1);
    scene.want_end(&s, "fin_local", BYTES + 1, BYTES);
    Ok(())
}
