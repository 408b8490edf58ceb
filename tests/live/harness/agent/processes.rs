// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent's commands on processes: names, threads, children, exec, other users, descriptors handed over.

use std::{
    ffi::CString,
    fs,
    io::{IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{fs::symlink, net::UnixDatagram, process::CommandExt},
    },
    process::Command,
    thread,
};

use nix::{
    Result,
    errno::Errno,
    sys::{
        prctl,
        signal::Signal,
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        wait::waitpid,
    },
    unistd::{self, Pid},
};

use super::{State, execute as execute_any, number, sys, unhex};

/// `None`: not a command of this kind.
pub fn execute(state: &mut State, verb: &str, args: &[&str]) -> Option<Result<String>> {
    Some(match verb {
        "pid" => Ok(std::process::id().to_string()),
        "comm" => rename(args).map(|()| String::new()),
        "thread" => in_thread(state, args),
        "leave" => leave(args),
        "burden" => burden(args),
        "fork" => fork(args),
        "fork_below" => sys::child_below().map(|pid| pid.to_string()),
        "daemonise" => daemonise(),
        "exec" => exec(args),
        "uid" => become_user(args),
        "cgroup" => join_cgroup(args),
        "mailbox" => open_mailbox(state, args),
        "give" => give(args),
        "take" => take(state),
        _ => return None,
    })
}

fn rename(args: &[&str]) -> Result<()> {
    let name =
        CString::new(unhex(args.first().ok_or(Errno::EINVAL)?)?).map_err(|_| Errno::EINVAL)?;
    prctl::set_name(&name)
}

/// `thread HEXNAME COMMAND...`: the command runs in a thread of that name.
fn in_thread(state: &mut State, args: &[&str]) -> Result<String> {
    let body = || {
        rename(&args[..1])?;
        execute_any(state, &args[1..])
    };
    thread::scope(|scope| scope.spawn(body).join()).map_err(|_| Errno::EIO)?
}

/// `leave NAME`: a thread of that name takes over the channel, and the first thread ends; the other's id.
fn leave(args: &[&str]) -> Result<String> {
    let name = CString::new(*args.first().ok_or(Errno::EINVAL)?).map_err(|_| Errno::EINVAL)?;
    thread::spawn(move || {
        let settle = || {
            prctl::set_name(&name)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(unistd::gettid().to_string())
        };
        super::answer(settle());
        super::serve(&mut State::default());
        std::process::exit(0);
    });
    sys::end_thread()
}

/// `burden MIB`: memory in small pages, which it takes time to give back.
fn burden(args: &[&str]) -> Result<String> {
    let mut memory = vec![0_u8; number::<usize>(args, 0)? << 20];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::mem::forget(std::hint::black_box(memory));
    Ok(String::new())
}

/// `fork [FD...]`: the child takes over the channel until `exit`; the parent closes the descriptors at once, as a
/// forking server does, and before the child answers.
fn fork(args: &[&str]) -> Result<String> {
    let handed_over: Vec<RawFd> = (0..args.len())
        .map(|i| number(args, i))
        .collect::<Result<_>>()?;
    let (parent_closed, parent_alive) = unistd::pipe()?;
    let Some(child) = sys::fork()? else {
        drop(parent_alive);
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Returns 0 at the end of the pipe: the parent has closed its copies.
        unistd::read(&parent_closed, &mut [0])?;
        drop(parent_closed);
        return Ok(std::process::id().to_string());
    };
    for fd in handed_over {
        unistd::close(fd)?;
    }
    drop(parent_alive);
    waitpid(Pid::from_raw(child), None)?;
    Ok(String::from("back"))
}

/// `daemonise`: the child takes over the channel for good; the parent has ended when it answers. It ends with the channel.
fn daemonise() -> Result<String> {
    let (ended, alive) = unistd::pipe()?;
    if sys::fork()?.is_some() {
        std::process::exit(0);
    }
    drop(alive);
    unistd::read(&ended, &mut [0])?;
    Ok(std::process::id().to_string())
}

/// `exec NAME FD...`: this process starts anew under another name, with the descriptors kept. Answers from there.
fn exec(args: &[&str]) -> Result<String> {
    let name = args.first().ok_or(Errno::EINVAL)?;
    for i in 1..args.len() {
        sys::keep_on_exec(number(args, i)?)?;
    }
    let dir = std::env::temp_dir().join(format!("tcptools-exec-{}", std::process::id()));
    let link = dir.join(name);
    fs::create_dir(&dir)
        .and_then(|()| symlink(std::env::current_exe()?, &link))
        .map_err(|e| sys::errno(&e))?;
    let error = Command::new(&link)
        .arg("agent")
        .arg("resumed")
        .arg(&link)
        .exec();
    Err(sys::errno(&error))
}

/// The first thing after `exec`: tidy up, and answer for it.
pub fn resumed(link: &str) {
    let tidy = || {
        fs::remove_file(link)?;
        std::path::Path::new(link)
            .parent()
            .map_or(Ok(()), fs::remove_dir)
    };
    super::answer(tidy().map(|()| String::new()).map_err(|e| sys::errno(&e)));
}

/// A change of user clears the parent-death signal.
fn become_user(args: &[&str]) -> Result<String> {
    sys::become_user(number(args, 0)?)?;
    prctl::set_pdeathsig(Signal::SIGKILL).map(|()| String::new())
}

fn join_cgroup(args: &[&str]) -> Result<String> {
    let dir = args.first().ok_or(Errno::EINVAL)?;
    fs::write(format!("{dir}/cgroup.procs"), "0").map_err(|e| sys::errno(&e))?;
    Ok(String::new())
}

fn open_mailbox(state: &mut State, args: &[&str]) -> Result<String> {
    let path = args.first().ok_or(Errno::EINVAL)?;
    state.mailbox = Some(UnixDatagram::bind(path).map_err(|e| sys::errno(&e))?);
    Ok(String::new())
}

/// `give FD PATH`: a copy of the descriptor goes to the agent whose mailbox that is.
fn give(args: &[&str]) -> Result<String> {
    let fds = [number(args, 0)?];
    let to = UnixDatagram::unbound()
        .and_then(|s| {
            s.connect(args.get(1).copied().unwrap_or_default())
                .map(|()| s)
        })
        .map_err(|e| sys::errno(&e))?;
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &message,
        MsgFlags::empty(),
        None,
    )?;
    Ok(String::new())
}

/// `take`: the descriptor that was given.
fn take(state: &State) -> Result<String> {
    let mailbox = state.mailbox.as_ref().ok_or(Errno::ENOTCONN)?;
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        mailbox.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            return fds.first().map(ToString::to_string).ok_or(Errno::EBADMSG);
        }
    }
    Err(Errno::EBADMSG)
}
