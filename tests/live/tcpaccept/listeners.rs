// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a listener is: inherited, handed over, shared, or there before tcpaccept.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Listener, Play, listen};
use crate::{
    scene::{HOSTS, merged},
    scratch::Scratch,
    wait::{self, PATIENCE},
};

/// A child accepts; at the handshake only the listener's owner is known, the running parent.
pub fn inherited(play: &mut Play, host: &str) -> Result<()> {
    let listener = listen(&mut play.scene.s, host, 16)?;
    play.scene.s.fork(&[listener.fd])?;
    let (fd, row) = play.connect(&listener.at)?;
    play.scene.s.number(&format!("accept {}", listener.fd))?;
    play.want(&row, &listener, json!({}));
    play.close(&[fd])?;
    play.scene.s.exit_child()
}

/// Who called listen() has exited: no process is named, and least of all the one that has its number now.
pub fn orphaned(play: &mut Play, host: &str) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    play.scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    play.scene.s.fork(&[])?;
    let listener = listen(&mut play.scene.s, host, 16)?;
    play.scene
        .s
        .run(&format!("give {} {}", listener.fd, mailbox.text()))?;
    play.scene.s.exit_child()?;
    let heir = play.scene.s.number("take")?;
    let (fd, row) = play.connect(&listener.at)?;
    play.scene.s.number(&format!("accept {heir}"))?;
    let nobody = json!({"pid": null, "comm": null, "pid_source": null, "accept_queue_max": 16});
    play.want(&row, &listener, nobody);
    play.close(&[fd])?;
    play.scene.s.run(&format!("close {heir}")).map(drop)
}

/// As systemd does: it listens and lives on, another process serves. The row says whose the listener is.
pub fn socket_activation(play: &mut Play, host: &str) -> Result<()> {
    activated(play, host, true)
}

/// Like inetd's children: the process that listened has exited.
pub fn activator_exited(play: &mut Play, host: &str) -> Result<()> {
    activated(play, host, false)
}

fn activated(play: &mut Play, host: &str, lives: bool) -> Result<()> {
    let mailbox = Scratch::path("mailbox");
    play.scene.s.run(&format!("mailbox {}", mailbox.text()))?;
    let mut activator = play.scene.net.b.agent()?;
    activator.comm("server")?;
    let listener = listen(&mut activator, host, 16)?;
    activator.run(&format!("give {} {}", listener.fd, mailbox.text()))?;
    let taken = play.scene.s.number("take")?;
    let activator = if lives {
        Some(activator)
    } else {
        activator.kill()?;
        None
    };
    let (fd, row) = play.connect(&listener.at)?;
    play.scene.s.number(&format!("accept {taken}"))?;
    let owner = if lives {
        json!({})
    } else {
        json!({"pid": null, "comm": null, "pid_source": null})
    };
    play.want(&row, &listener, owner);
    play.close(&[fd])?;
    drop(activator);
    play.scene.s.run(&format!("close {taken}")).map(drop)
}

/// Two processes share a port: each open belongs to the one whose listener received it.
pub fn reuseport(play: &mut Play, host: &str) -> Result<()> {
    let first = listen(&mut play.scene.s, host, 16)?;
    let mut other = play.scene.net.b.agent()?;
    other.comm("server")?;
    let second = listen(&mut other, &first.at, 16)?;
    play.scene.s.run(&format!("nonblock {}", first.fd))?;
    other.run(&format!("nonblock {}", second.fd))?;
    for _ in 0..16 {
        let (fd, row) = play.connect(&first.at)?;
        let of_first = wait::until("the open", PATIENCE, || {
            if play
                .scene
                .s
                .attempt(&format!("accept {}", first.fd))?
                .is_ok()
            {
                return Ok(Some(true));
            }
            let other = other.attempt(&format!("accept {}", second.fd))?;
            Ok(other.is_ok().then_some(false))
        })?;
        play.want(
            &row,
            if of_first { &first } else { &second },
            json!({"accept_queue": 1}),
        );
        play.close(&[fd])?;
    }
    play.scene.s.run(&format!("close {}", first.fd)).map(drop)
}

/// A listener that was there before is found, with its owner and its queue.
pub fn existing_listener() -> Result<()> {
    before(&[], |listener| {
        json!({"pid": listener.pid, "comm": "server", "pid_source": "listener",
               "listener_cookie": listener.cookie, "accept_queue": 1, "accept_queue_max": 16})
    })
}

/// Without looking for it nothing is known of it, and nothing is claimed.
pub fn no_scan() -> Result<()> {
    before(&["--no-scan"], |_| {
        json!({"pid": null, "comm": null, "pid_source": null,
               "listener_cookie": null, "accept_queue": null, "accept_queue_max": null})
    })
}

fn before(args: &[&str], fields: fn(&Listener) -> Value) -> Result<()> {
    let mut play = Play::new()?;
    let mut listeners = Vec::new();
    for host in HOSTS {
        listeners.push(listen(&mut play.scene.s, host, 16)?);
    }
    let tool = play.watch(args)?;
    for listener in listeners {
        let (fd, row) = play.connect(&listener.at)?;
        play.scene.s.number(&format!("accept {}", listener.fd))?;
        play.wants.push(merged(&row, fields(&listener)));
        play.close(&[fd])?;
    }
    play.finish(tool)
}
