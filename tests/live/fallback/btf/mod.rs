// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets read by type information where records are all there is: this kernel's, given by hand (`--btf FILE`), as
//! where it has none; its own, as where only the ring buffer is lacking; and files that are not of this kernel.

mod refused;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;

use super::scene::{Both, Scene};
use super::{
    tcplife::{self, bytes},
    tcprcvspace, tcpreset, tcpretrans, tcpstates,
};
use crate::cgroups::Groups;
use crate::scratch::Scratch;
use crate::tool::Tool;
use crate::{
    missing::{self, needs_btf},
    trial,
};

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("btf::tcplife", sessions),
        trials("btf::tcplife_timed_out", tcplife_timed_out),
        trials("btf::tcpconnect", tcpconnect),
        trials("btf::heads", heads),
        trials("btf::tcpretrans", tcpretrans),
        trials("btf::tcpretrans_handshakes", handshakes),
        trials("btf::tcpreset", tcpreset),
        trials("btf::tcpreset_by_listener", by_listener),
        trials("btf::tcprcvspace", tcprcvspace),
        trials("btf::filters", filters),
        trials("btf::cgroups", cgroups),
        vec![trial("fallback::btf::refused", refused::refused)],
    ])
}

/// As [`super::MODES`], and with the kernel's own types.
fn trials(name: &str, play: fn(Scene) -> Result<()>) -> Vec<Trial> {
    let own = trial(format!("fallback::{name}_own"), move || {
        needs_btf()?;
        play(Scene::new("ringbuf,mmap")?)
    });
    let mut all = super::trials(name, play);
    all.push(own);
    all
}

fn release() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(text.trim().to_owned())
}

/// A directory that is removed when this is dropped.
struct Files {
    directory: PathBuf,
    _path: Scratch,
}

impl Files {
    fn new() -> Result<Self> {
        let path = Scratch::path("btf");
        let directory = PathBuf::from(path.text());
        fs::create_dir(&directory)?;
        Ok(Self {
            directory,
            _path: path,
        })
    }

    /// With this kernel's types, by its release.
    fn right() -> Result<Self> {
        needs_btf()?;
        let files = Self::new()?;
        files.add(&format!("{}.btf", release()?), &fs::read(KERNEL_BTF)?)?;
        Ok(files)
    }

    fn add(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, bytes)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn text(&self) -> String {
        self.directory.to_string_lossy().into_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Only a directory for temporary files.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The command as it is, and with only records and the types of sockets.
fn watch(scene: &Scene, name: &str, args: &[&str]) -> Result<Both> {
    needs_btf()?;
    let addresses = scene.addresses();
    let args = [&["--json", "--addr", &addresses], args].concat();
    Ok(Both {
        with_btf: Tool::start(name, &args)?,
        without_btf: start_without_btf(scene, name, &args)?,
    })
}

/// Without types of the kernel's own it gets a file, which may go once it is ready.
fn start_without_btf(scene: &Scene, name: &str, args: &[&str]) -> Result<Tool> {
    let files = Files::right()?;
    let file = files.text();
    let given = match scene.without.contains("btf") {
        true => &["--btf", &file][..],
        false => &[],
    };
    Tool::start_reduced(scene.without, name, &[args, given].concat())
}

/// Every field but the cookie, which may not exist yet, and the time without data, which only programs of a kernel's own
/// types read.
fn all_but_cookie(scene: &mut Scene, both: Both, by: &[&str]) -> Result<Vec<serde_json::Value>> {
    scene.net.quiet()?;
    agree(both, by)
}

/// The same where a session may sit out TIME_WAIT.
fn agree(both: Both, by: &[&str]) -> Result<Vec<serde_json::Value>> {
    both.with_btf.wait_lines(1)?;
    let probe = both.with_btf.seen()?.clone();
    let keys: Vec<String> = probe
        .iter()
        .filter_map(|row| row.as_object())
        .flat_map(|row| row.keys().cloned())
        .filter(|key| !["cookie", "idle_us"].contains(&key.as_str()))
        .collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    ensure!(!keys.is_empty(), "no row");
    both.agree(by, &keys)
}

/// All fields of tcplife, for every kind of ending.
fn sessions(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let early = scene.session(&host)?;
    let both = watch(&scene, "tcplife", &[])?;
    for host in scene.hosts() {
        // The others wait until no session is left.
        for way in &bytes::WAYS[..5] {
            let session = scene.session(&host)?;
            scene.exchange(session, 2000)?;
            way(&mut scene, session)?;
        }
        tcpstates::reset(&mut scene, &host)?;
        tcpstates::refused(&mut scene, &host)?;
    }
    // It was there before.
    scene.close(early)?;
    let rows = all_but_cookie(&mut scene, both, &tcpstates::ends())?;
    ensure!(
        rows.iter()
            .all(|row| row["tx_bytes"].is_u64() && row["rx_bytes"].is_u64()),
        "{rows:#?}"
    );
    Ok(())
}

/// What only the socket's error shows.
fn tcplife_timed_out(mut scene: Scene) -> Result<()> {
    scene.net.a.sysctl("ipv4/tcp_orphan_retries", "1")?;
    let both = watch(&scene, "tcplife", &[])?;
    tcplife::unanswered_fin(&mut scene)?;
    let rows = all_but_cookie(&mut scene, both, &tcpstates::ends())?;
    let timeout = rows.iter().any(|row| row["close_reason"] == "timeout");
    ensure!(timeout, "{rows:#?}");
    Ok(())
}

/// Opens that fail without an RST.
fn tcpconnect(mut scene: Scene) -> Result<()> {
    scene.net.a.sysctl("ipv4/tcp_syn_retries", "1")?;
    let addresses = scene.addresses();
    let without_btf = start_without_btf(&scene, "tcpconnect", &["--json", "--addr", &addresses])?;
    let host = scene.hosts()[0].clone();
    let session = scene.session(&host)?;
    scene.close(session)?;
    tcpstates::refused(&mut scene, &host)?;
    crate::pair::filter(&scene.net.b, "prerouting", "meta l4proto tcp drop")?;
    let to = format!("{}:9", host.1);
    let fd = scene.c.open(&to)?;
    scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ETIMEDOUT)?;
    scene.c.run(&format!("close {fd}"))?;
    scene.net.quiet()?;
    let rows = without_btf.stop()?.rows()?;
    let found: Vec<_> = rows
        .iter()
        .filter(|row| row["event"] != "pending")
        .map(|row| (row["outcome"].as_str(), row["errno"].as_i64()))
        .collect();
    let refused = (Some("refused"), Some(libc::ECONNREFUSED.into()));
    let timeout = (Some("timeout"), Some(libc::ETIMEDOUT.into()));
    ensure!(
        found.len() == 4 && found[1..] == [refused, refused, timeout],
        "{rows:#?}"
    );
    let known = |row: &serde_json::Value| row["netns"] == scene.net.a.inode && row["uid"] == 0;
    ensure!(rows.iter().all(known), "{rows:#?}");
    Ok(())
}

/// Everything of a segment that is sent again, and its cause.
fn tcpretrans(mut scene: Scene) -> Result<()> {
    let both = watch(&scene, "tcpretrans", &["--failed"])?;
    let again = tcpretrans::losses(&mut scene)?;
    let rows = all_but_cookie(&mut scene, both, &tcpstates::ends())?;
    let sent = rows.iter().filter(|row| row["error"].is_null()).count();
    ensure!(sent as u64 == again, "{again} were sent again, {sent} rows");
    let told = |row: &serde_json::Value| row["kind"].is_string() && row["seq"].is_u64();
    ensure!(rows.iter().all(told), "{rows:#?}");
    Ok(())
}

fn handshakes(mut scene: Scene) -> Result<()> {
    let both = watch(&scene, "tcpretrans", &[])?;
    tcpretrans::handshakes(&mut scene, &both)?;
    let rows = all_but_cookie(&mut scene, both, &tcpstates::ends())?;
    let queues = rows
        .iter()
        .any(|row| row["kind"] == "synack" && row["accept_queue_max"].is_u64());
    ensure!(queues, "{rows:#?}");
    Ok(())
}

/// The bytes of the sessions, and the packets that are answered.
fn tcpreset(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let early = scene.session(&host)?;
    scene.exchange(early, 700)?;
    let both = watch(&scene, "tcpreset", &[])?;
    tcpreset::aborted(&mut scene, early)?;
    tcpreset::causes(&mut scene)?;
    let rows = agree(both, &tcpreset::by_row())?;
    let bytes = |n: u64| rows.iter().filter(|row| row["tx_bytes"] == n).count();
    ensure!(bytes(700) == 2 && bytes(500) == 3, "{rows:#?}");
    ensure!(
        rows.iter().any(|row| row["trigger_flags"].is_string()),
        "{rows:#?}"
    );
    Ok(())
}

/// The sender is known from the packet.
fn by_listener(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let both = watch(&scene, "tcpreset", &["--laddr", &host.1])?;
    tcpreset::listener(&mut scene, &host)?;
    let rows = all_but_cookie(&mut scene, both, &["laddr", "lport"])?;
    ensure!(
        rows.len() == 1 && rows[0]["rport"].as_u64() > Some(0),
        "{rows:#?}"
    );
    Ok(())
}

/// The receive buffer at every read, and where it changes.
fn tcprcvspace(mut scene: Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let before = scene.session(&host)?;
    let each = watch(&scene, "tcprcvspace", &[])?;
    let changes = watch(&scene, "tcprcvspace", &["--changes"])?;
    tcprcvspace::talk(&mut scene, before)?;
    let rows = all_but_cookie(&mut scene, each, &["cookie"])?;
    ensure!(rows.len() == 40, "{} rows", rows.len());
    let told = |row: &serde_json::Value| row["rcvbuf_bytes"].is_u64() && row["growth"] == "open";
    ensure!(rows.iter().all(told), "{rows:#?}");
    let fewer = all_but_cookie(&mut scene, changes, &["cookie"])?.len();
    ensure!((4..40).contains(&fewer), "{fewer} rows");
    Ok(())
}

/// Whose namespace and user it is, in commands that know nothing else of a socket.
fn heads(mut scene: Scene) -> Result<()> {
    let mut commands = vec!["tcpstates", "tcpaccept", "tcpreset", "tcpinfo", "tcpprobe"];
    commands.retain(|name| *name != "tcpprobe" || missing::probe_tells_socket());
    let watches: Result<Vec<_>> = commands
        .iter()
        .map(|name| watch(&scene, name, &[]))
        .collect();
    for host in scene.hosts() {
        tcpstates::client_first(&mut scene, &host)?;
        tcpstates::reset(&mut scene, &host)?;
    }
    scene.net.quiet()?;
    for (both, name) in watches?.into_iter().zip(commands.iter().copied()) {
        let by: &[&str] = match name {
            "tcpinfo" | "tcpprobe" => &["cookie"],
            "tcpstates" => &["laddr", "lport", "raddr", "rport", "new_state"],
            _ => &["laddr", "lport", "raddr", "rport"],
        };
        let rows = both.agree(by, &["netns", "uid"]).context(name)?;
        let known = rows.iter().filter(|row| row["netns"].is_u64()).count();
        ensure!(known > 0, "{name}: {rows:#?}");
    }
    Ok(())
}

/// Filters that ask of a socket.
fn filters(mut scene: Scene) -> Result<()> {
    let (a, user) = (scene.net.a.inode.to_string(), "1-65535");
    let not_a = format!("!{a}");
    let lists: [(&[&str], usize); 5] = [
        (&["--netns", &a], 3),
        (&["--netns", &not_a], 3),
        (&["-u", "0"], 6),
        (&["-u", user], 0),
        (&["--netns", &a, "-u", "!0"], 0),
    ];
    let watches: Result<Vec<_>> = lists
        .iter()
        .map(|(args, _)| watch(&scene, "tcplife", args))
        .collect();
    for host in scene.hosts() {
        tcpstates::client_first(&mut scene, &host)?;
    }
    scene.net.quiet()?;
    for (both, (args, count)) in watches?.into_iter().zip(lists) {
        let rows = both.agree(&tcpstates::ends(), &["netns", "uid", "tx_bytes"])?;
        ensure!(rows.len() == count, "{args:?}: {rows:#?}");
    }
    Ok(())
}

/// By the cgroup of who made the socket, or one above it.
fn cgroups(mut scene: Scene) -> Result<()> {
    let groups = Groups::new()?;
    let [group, below] = [&groups.above, &groups.below];
    let not = format!("!{group}");
    // The client's end, or the server's.
    let lists = [(group, "1"), (below, "1"), (&not, "2")];
    let watches: Result<Vec<_>> = lists
        .iter()
        .map(|(list, _)| watch(&scene, "tcplife", &["--cgroup", list]))
        .collect();
    scene.c.run(&format!("cgroup {below}"))?;
    for host in scene.hosts() {
        let session = scene.session(&host)?;
        scene.close(session)?;
    }
    scene.net.quiet()?;
    for (both, (list, end)) in watches?.into_iter().zip(lists) {
        let rows = both.agree(&tcpstates::ends(), &["tx_bytes"])?;
        let right = |row: &serde_json::Value| {
            row["laddr"]
                .as_str()
                .is_some_and(|laddr| laddr.ends_with(end))
        };
        ensure!(
            rows.len() == 3 && rows.iter().all(right),
            "{list}: {rows:#?}"
        );
    }
    scene.c.kill()
}
