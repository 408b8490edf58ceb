// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a listener is: inherited, handed over, shared, or there before tcpaccept.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Listener, Play, listen};
use crate::{
    missing,
    net::Netns,
    scene::{HOSTS, merged},
    scratch::Scratch,
    tool::Tool,
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

/// More than there is room for at a time, with some intervals between: each is counted.
pub fn closed_are_forgotten() -> Result<()> {
    /// More than half of `MAX_LISTENERS` (src/commands/tcpaccept/mod.rs).
    const LISTENERS: usize = 10_000;
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let tool = Tool::start(
        "tcpaccept",
        &["--summary=100ms", "--json", "--netns", &netns],
    )?;
    for part in 1..=2 {
        ns.inside(|| listen_one_by_one(LISTENERS))?;
        tool.wait_lines(part * LISTENERS)?;
        thread::sleep(Duration::from_secs(2));
    }
    let run = tool.stop()?;
    let rows = run.rows()?;
    let accepts = rows.iter().filter_map(|row| row["accepts"].as_u64());
    let (counted, summary) = (accepts.sum::<u64>(), run.records()?.pop());
    let uncounted = summary.map(|summary| summary["uncounted"].clone());
    ensure!(
        counted == 2 * LISTENERS as u64 && uncounted == Some(json!(0)),
        "{counted} counted, {uncounted:?} not"
    );
    Ok(())
}

fn listen_one_by_one(count: usize) -> Result<()> {
    for _ in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        // Nobody has accepted: its end is a reset, and no TIME_WAIT is left.
        drop(listener);
        drop(client);
    }
    Ok(())
}
