// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that wait for a process, here or there.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{SO_KEEPALIVE, SOL_SOCKET};

use super::ss::compare;
use super::stalled::{OFTEN, cookies, told};
use super::{Play, is};
use crate::{
    missing,
    pair::{self, Pair},
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let tests: [(&str, Play); 3] = [
        ("unaccepted", unaccepted),
        ("close_wait", close_wait),
        ("quiet", quiet),
    ];
    let all = tests
        .into_iter()
        .flat_map(|(name, play)| pair::trials("tcptop", OFTEN, &format!("waiting::{name}"), play));
    all.collect()
}

fn unaccepted(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (listener, at) = pair.s.listen(host)?;
    let fd = pair.c.open(host)?;
    pair.c.run(&format!("connect {fd} {at}"))?;
    pair.c.run(&format!("send {fd} 90"))?;
    let (lport, rport) = pair.ports(fd)?;
    let row = pair.row("unaccepted", |row| {
        row["rport"] == lport && row["why"] == "unaccepted"
    })?;
    ensure!(row["rqueue_bytes"] == 90 && row["lport"] == rport, "{row}");
    let accepted = pair.s.number(&format!("accept {listener}"))?;
    let cookie = pair.s.run(&format!("cookie {accepted}"))?;
    let row = told(&pair, &cookie, "unread")?;
    ensure!(
        row["pid"] == pair.s.pid() || row["pid_source"] == "listener",
        "{row}"
    );
    pair.finish().map(drop)
}

fn close_wait(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [_, server] = cookies(&mut pair, fd, accepted)?;
    let (_, rport) = pair.ports(fd)?;
    pair.c.run(&format!("shutdown {fd} wr"))?;
    let row = told(&pair, &server, "close_wait")?;
    ensure!(
        row["state"] == "CLOSE_WAIT" && row["why"] == "close_wait",
        "{row}"
    );
    compare(&pair, &pair.net.b, rport)?;
    pair.s.run(&format!("eof {accepted}"))?;
    compare(&pair, &pair.net.b, rport)?;
    pair.finish().map(drop)
}

/// Nothing is in the way, and nothing happens.
fn quiet(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let [client, server] = cookies(&mut pair, fd, accepted)?;
    pair.c.run(&format!("send {fd} 10"))?;
    pair.s.run(&format!("recv {accepted} 10"))?;
    told(&pair, &client, "no_answer")?;
    told(&pair, &server, "unanswered")?;
    pair.s.run(&format!("send {accepted} 10"))?;
    pair.c.run(&format!("recv {fd} 10"))?;
    let row = told(&pair, &client, "idle")?;
    ensure!(
        row["why_us"].as_u64() >= Some(1_000_000) && row["keepalive"] == false,
        "{row}"
    );
    told(&pair, &server, "idle")?;
    pair.c.option(fd, SOL_SOCKET, SO_KEEPALIVE, 1)?;
    // With keepalive it is no longer listed.
    wait::until("rows of the server's end alone", PATIENCE, || {
        let seen = pair.tool.seen()?;
        let last = seen.iter().rev().take(3);
        let others = last.filter(|row| is(row, &server)).count();
        Ok((others == 3).then_some(()))
    })?;
    pair.finish().map(drop)
}
