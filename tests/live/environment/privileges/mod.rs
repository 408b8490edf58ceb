// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of root's rights once a command reads: as /proc/PID/status has it, and by trying.

mod process;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use libtest_mimic::Trial;
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use self::process::{Rights, Running, threads};
use crate::{
    environment::capabilities::{BPF, NOBODY, PERFMON, SYS_ADMIN, tcplife_with},
    missing, procfs,
    scratch::Folder,
    tool, trial,
    wait::{PATIENCE, until},
};

/// include/uapi/linux/capability.h
const DAC_OVERRIDE: u64 = 1 << 1;
const SYS_PTRACE: u64 = 1 << 19;

/// Who calls sudo here, and another user.
const CALLER: u32 = 4321;
const CALLERS_GROUP: u32 = 4322;
const OTHER: u32 = 4323;

/// Every command that traces, and what has parts of a command at work that are not always.
const RUNS: [(&str, &[&str]); 18] = [
    ("sockbuf", &[]),
    ("tcpaccept", &[]),
    ("tcpaccept", &["--summary"]),
    ("tcpcong", &[]),
    ("tcpcong", &["--summary"]),
    ("tcpconnect", &[]),
    ("tcpconnect", &["--dns"]),
    ("tcpdrop", &[]),
    ("tcpinfo", &[]),
    ("tcplife", &["--active=1s"]),
    ("tcplife", &["--stats", "--json"]),
    ("tcpprobe", &[]),
    ("tcprcvspace", &["--summary"]),
    ("tcpreset", &[]),
    ("tcpretrans", &[]),
    ("tcpretrans", &["--count"]),
    ("tcpstates", &[]),
    ("tcpstates", &["--summary=1s"]),
];

pub fn tests() -> Vec<Trial> {
    vec![
        trial("privileges::all_dropped", all_dropped),
        trial("privileges::all_dropped_records", all_dropped_records),
        trial("privileges::sudo_user", sudo_user),
        trial("privileges::own_pipe", own_pipe),
        trial("privileges::files", files),
        trial("privileges::plots", plots),
        trial("privileges::root_kept_where_needed", root_kept_where_needed),
        trial("privileges::file_capabilities", file_capabilities),
        trial("privileges::namespace_workers", namespace_workers),
        trial("privileges::root_files_not_writable", out_of_reach),
    ]
}

/// A command that sudo has not started.
fn command(features: &str, name: &str) -> Command {
    let mut command = Command::new(tool::path(name));
    command
        .env("TCPTOOLS_WITHOUT", features)
        .env_remove("SUDO_UID")
        .env_remove("SUDO_GID");
    command
}

/// One that this user has started by sudo.
fn by_sudo(name: &str, uid: &str, gid: &str) -> Command {
    let mut command = command("", name);
    command.env("SUDO_UID", uid).env("SUDO_GID", gid);
    command
}

fn all_dropped() -> Result<()> {
    missing::needs_programs()?;
    for (name, args) in RUNS {
        if missing::needs_tracepoint_of(name).is_err() {
            continue;
        }
        let running = Running::start(&mut command("", name), args)?;
        let left = running.until_left(&Rights::of(NOBODY, NOBODY));
        left.with_context(|| format!("{name} {args:?}"))?;
        running.stop().with_context(|| format!("{name} {args:?}"))?;
    }
    Ok(())
}

fn all_dropped_records() -> Result<()> {
    for name in [
        "sockbuf",
        "tcpconnect",
        "tcpinfo",
        "tcplife",
        "tcpprobe",
        "tcpstates",
    ] {
        let running = Running::start(&mut command("btf", name), &[])?;
        let left = running.until_left(&Rights::of(NOBODY, NOBODY));
        left.context(name)?;
        running.stop().context(name)?;
    }
    Ok(())
}

/// The caller's pipe is opened anew before root is dropped, which costs a row less than a thread that writes.
fn own_pipe() -> Result<()> {
    missing::needs_programs()?;
    let mut command = command("", "tcplife");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let running = Running(command.stdout(Stdio::piped()).spawn()?);
    running.until_left(&Rights::of(NOBODY, NOBODY))?;
    let process = format!("/proc/{}", running.0.id());
    let given = fs::read_link(format!("{process}/fd/1"))?;
    let mut own = 0;
    let read = |fd: &Path| {
        let info = Path::new(&process).join("fdinfo");
        let info = info.join(fd.file_name().expect("a number"));
        Ok((fs::read_to_string(info)?, fs::read_link(fd)?))
    };
    for (info, target) in procfs::each(&format!("{process}/fd"), read)? {
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.context("no flags")?.trim(), 8)?;
        own += i32::from(target == given && flags & libc::O_NONBLOCK != 0);
    }
    ensure!(own == 1, "{own} descriptors of its own for {given:?}");
    running.stop().map(drop)
}

/// SUDO_UID and SUDO_GID are used together, if they are valid.
fn sudo_user() -> Result<()> {
    let nobody = Rights::of(NOBODY, NOBODY);
    let (uid, gid) = (CALLER.to_string(), CALLERS_GROUP.to_string());
    for (uid, gid, wanted) in [
        (
            uid.as_str(),
            gid.as_str(),
            &Rights::of(CALLER, CALLERS_GROUP),
        ),
        (&uid, "0", &nobody),
        ("0", &gid, &nobody),
        ("rubbish", &gid, &nobody),
        (&uid, "", &nobody),
        ("-1", &gid, &nobody),
        ("4294967295", &gid, &nobody),
    ] {
        let running = Running::start(&mut by_sudo("tcplife", uid, gid), &[])?;
        running
            .until_left(wanted)
            .with_context(|| format!("{uid}:{gid}"))?;
        running.stop()?;
    }
    Ok(())
}

/// A directory of that user.
fn directory(owner: u32, mode: u32) -> Result<(Folder, PathBuf)> {
    let folder = Folder::new("privileges")?;
    chown(&*folder, Some(owner), Some(owner))?;
    fs::set_permissions(&*folder, PermissionsExt::from_mode(mode))?;
    let file = folder.join("file");
    Ok((folder, file))
}

/// Whose directory takes what to write there later.
fn directories() -> [(u32, u32, Rights); 5] {
    let caller = Rights::of(CALLER, CALLERS_GROUP);
    let root = caller.clone().saving_root();
    [
        (CALLER, 0o700, caller),
        (0, 0o700, root.clone()),
        (0, 0o1777, root.clone()),
        (OTHER, 0o1777, root.clone()),
        (OTHER, 0o755, root.permitting(DAC_OVERRIDE)),
    ]
}

/// The ready file is root's, and is removed wherever root could make it.
fn files() -> Result<()> {
    let (uid, gid) = (CALLER.to_string(), CALLERS_GROUP.to_string());
    for (owner, mode, wanted) in directories() {
        let (_folder, file) = directory(owner, mode)?;
        let args = ["--ready-file", &file.to_string_lossy()];
        let running = Running::start(&mut by_sudo("tcplife", &uid, &gid), &args)?;
        let left = running.until_left(&wanted);
        left.with_context(|| format!("{owner} {mode:o}"))?;
        ensure!(fs::metadata(&file)?.uid() == 0);
        let said = running.stop()?;
        ensure!(
            !file.exists() && said.is_empty(),
            "{owner} {mode:o}: {said}"
        );
    }
    Ok(())
}

/// A picture is written at the end, into the caller's directories as the caller's.
fn plots() -> Result<()> {
    let (uid, gid) = (CALLER.to_string(), CALLERS_GROUP.to_string());
    for (owner, mode, wanted) in directories() {
        let (_folder, file) = directory(owner, mode)?;
        let maker = if owner == CALLER { CALLER } else { 0 };
        // One that root has made before is replaced.
        fs::write(&file, "old")?;
        let args = ["--plot", &file.to_string_lossy()];
        let running = Running::start(&mut by_sudo("tcpprobe", &uid, &gid), &args)?;
        let left = running.until_left(&wanted);
        left.with_context(|| format!("{owner} {mode:o}"))?;
        let said = running.stop()?;
        ensure!(
            fs::read_to_string(&file)?.starts_with("<svg"),
            "{owner} {mode:o}: {said}"
        );
        let made = fs::metadata(&file)?;
        ensure!(made.uid() == maker, "{owner} {mode:o}: {}", made.uid());
    }
    Ok(())
}

/// Without CAP_SETUID, as in a container, the user stays, and what is to be done at the end is done.
fn root_kept_where_needed() -> Result<()> {
    let (_folder, file) = directory(CALLER, 0o700)?;
    let groups = fs::read_to_string("/proc/self/status")?;
    let groups = groups.lines().find_map(|line| line.strip_prefix("Groups:"));
    let mut command = by_sudo("tcplife", &CALLER.to_string(), &CALLERS_GROUP.to_string());
    // SAFETY: one system call, and nothing that the forked process shares with other threads.
    unsafe {
        command.pre_exec(|| {
            let dropped = caps::drop(None, CapSet::Bounding, Capability::CAP_SETUID);
            dropped.map_err(std::io::Error::other)
        });
    }
    let running = Running::start(&mut command, &["--ready-file", &file.to_string_lossy()])?;
    let mut wanted = Rights::of(0, 0).permitting(DAC_OVERRIDE);
    wanted.groups = groups.context("no groups")?.trim().to_owned();
    let mut rest = wanted.clone();
    rest.permitted = 0;
    until("capabilities to be dropped", PATIENCE, || {
        let all = threads(running.0.id())?;
        let is = |(n, thread): (usize, &Option<Rights>)| {
            let wanted = if n == 0 { &wanted } else { &rest };
            thread.as_ref().is_some_and(|thread| thread.is(wanted))
        };
        Ok(all.iter().enumerate().all(is).then_some(()))
    })?;
    let said = running.stop()?;
    ensure!(!file.exists() && said.is_empty(), "{said}");
    Ok(())
}

/// A command with file capabilities continues as its caller, regardless of sudo's variables. What it cannot take out
/// of the bounding set, without CAP_SETPCAP, no_new_privs keeps from it.
fn file_capabilities() -> Result<()> {
    let copy = tcplife_with(PERFMON | BPF)?;
    let mut command = Command::new(copy.tcplife());
    command.env("SUDO_UID", "1").env("SUDO_GID", "1");
    let running = Running::start(command.uid(OTHER).gid(OTHER), &[])?;
    let mut wanted = Rights::of(OTHER, OTHER);
    let own = fs::read_to_string("/proc/self/status")?;
    let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    wanted.bounding = u64::from_str_radix(bounding.context("a set")?.trim(), 16)?;
    running.until_left(&wanted)?;
    running.stop().map(drop)
}

/// The process that visits namespaces has what that takes, and cannot get more. The command can end it, as its real user
/// is the command's.
fn namespace_workers() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_storage()?;
    let running = Running::start(&mut command("map_elements", "tcpconnect"), &[])?;
    running.until_left(&Rights::of(NOBODY, NOBODY))?;
    let id = running.0.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let children: Vec<u32> = children
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(!children.is_empty(), "nobody visits");
    for &child in &children {
        let rights = until("capabilities to be dropped", PATIENCE, || {
            let found = threads(child)?.pop().flatten();
            Ok(found.filter(|rights| rights.permitted == SYS_ADMIN | SYS_PTRACE))
        })?;
        ensure!(rights.uids == [NOBODY, 0, 0, 0], "{rights:?}");
        // Only a signal ends it now.
        kill(Pid::from_raw(child as i32), Signal::SIGSTOP)?;
    }
    running.stop()?;
    for child in children {
        ensure!(!Path::new(&format!("/proc/{child}")).exists(), "{child}");
    }
    Ok(())
}

/// The user that a command goes on as cannot write what is root's.
fn out_of_reach() -> Result<()> {
    let (folder, file) = directory(0, 0o755)?;
    fs::write(&file, "root's")?;
    let running = Running::start(&mut command("", "tcplife"), &[])?;
    running.until_left(&Rights::of(NOBODY, NOBODY))?;
    let own = threads(running.0.id())?.swap_remove(0).context("rights")?;
    let write = |uid: u32, gid: u32| -> Result<bool> {
        let script = "echo written > file && : > new";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .current_dir(&*folder)
            .stderr(Stdio::null());
        // Drops the other groups, too.
        Ok(shell.uid(uid).gid(gid).status()?.success())
    };
    ensure!(!write(own.uids[1], own.gids[1])?);
    ensure!(fs::read_to_string(&file)? == "root's" && !folder.join("new").exists());
    ensure!(write(0, 0)?, "root can");
    running.stop().map(drop)
}
