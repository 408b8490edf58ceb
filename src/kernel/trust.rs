// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a command trusts: the environment and the files of a user with fewer rights than the command, and the files
//! that it runs.

use std::env;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{self, OFlag};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::Uid;

use crate::kernel::privileges;

/// Variables that are harmless whoever sets them: they affect the look of the output and readiness notification.
const HARMLESS: [&str; 9] = [
    "COLUMNS",
    "LANG",
    "LC_ALL",
    "LINES",
    "NOTIFY_SOCKET",
    "NO_COLOR",
    "PATH",
    "TERM",
    "TZ",
];

/// Whether the file gave this process rights that its user does not have: file capabilities, set-user-ID. The kernel
/// says so (`secureexec` of security/commoncap.c), as it does to the dynamic loader.
pub fn elevated() -> bool {
    static ELEVATED: OnceLock<bool> = OnceLock::new();
    // SAFETY: takes an integer, and reads what the kernel gave this process at its start.
    *ELEVATED.get_or_init(|| unsafe { libc::getauxval(libc::AT_SECURE) } != 0)
}

/// What [`elevated`] rights mean for a user.
pub(crate) const ELEVATED: &str = "running with rights that you do not have (file capabilities): only TZ, TERM and similar variables of the environment are used, and --btf accepts only files of root";

/// Removes variables by which a user with fewer rights could influence the command: its own
/// (`TCPTOOLS_WITHOUT`) and the libraries' (`LIBBPF_BPF_TOKEN_PATH`, `RES_OPTIONS`).
///
/// Call it once, before any thread exists.
pub fn clean_environment() {
    if !elevated() {
        return;
    }
    for (name, value) in env::vars_os() {
        if !is_harmless(&name, &value) {
            // SAFETY: this is the only thread (see above).
            unsafe { env::remove_var(&name) };
        }
    }
}

fn is_harmless(name: &OsStr, value: &OsStr) -> bool {
    if name == "TZ" {
        // A zone name only, not a path: the file is opened with the command's rights.
        let value = value.to_string_lossy();
        return !value.starts_with([':', '/']) && !value.contains("..");
    }
    HARMLESS.iter().any(|known| name == *known)
}

/// Opens a file that decides what is read of the kernel. With [`elevated`] rights it must be root's alone, or its user
/// would choose what is read.
///
/// # Errors
/// A sentence: why it cannot be opened, that it has more bytes than `most`, or is not believed.
pub fn open(path: &Path, most: u64) -> Result<File, String> {
    let file = regular(path, most)?;
    if elevated() {
        let meta = file.metadata().map_err(|e| io_reason(&e));
        meta.and_then(|meta| roots_alone(&file, &meta))
            .map_err(|why| format!("{}: {why}", path.display()))?;
    }
    Ok(file)
}

/// A path by which an open file can be reopened even if its name is gone.
pub fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// That only root can have written it. In these file systems a user chooses what a file of root's has in it, such as
/// the arguments of a process in /proc.
fn roots_alone(file: &File, meta: &Metadata) -> Result<(), String> {
    const FUSE: FsType = FsType(0x6573_5546);
    const PROC: FsType = FsType(libc::PROC_SUPER_MAGIC);
    const REMEDY: &str = "a command with file capabilities reads only files of root, in directories of root, that others cannot write";
    let kind = fstatfs(file).map_err(|e| e.desc().to_owned())?;
    let chosen = [FUSE, PROC].contains(&kind.filesystem_type());
    if chosen || meta.uid() != 0 || others_write(meta) {
        return Err(REMEDY.into());
    }
    let path = path_of(file).read_link().map_err(|e| io_reason(&e))?;
    let owners = [0];
    // A sticky directory lets anyone mount or make what is below it.
    let fine = path.ancestors().skip(1).all(|directory| {
        let meta = directory.symlink_metadata();
        meta.is_ok_and(|meta| owners.contains(&meta.uid()) && !others_write(&meta))
    });
    if fine { Ok(()) } else { Err(REMEDY.into()) }
}

/// Whether somebody may write it who is neither its owner nor root. A group that has its owner's number is the owner's
/// own, as distributions make one for each user.
fn others_write(meta: &Metadata) -> bool {
    let group = meta.gid() != 0 && meta.gid() != meta.uid();
    meta.mode() & 0o002 != 0 || meta.mode() & 0o020 != 0 && group
}

/// That only root and this user can have put a program at this path, which has no symbolic link in it.
///
/// From the root down: who cannot write a directory cannot put another below it, so what was found stays so until the
/// program runs. In a sticky directory (`/tmp`) others can make new files, but not take away those of the owners here.
///
/// # Errors
/// What is wrong with which directory or file: the end of a sentence.
pub fn may_run(path: &Path) -> Result<(), String> {
    let owners = owners();
    let all: Vec<_> = path.ancestors().collect();
    for part in all.into_iter().rev() {
        let shown = part.display();
        let meta = part
            .symlink_metadata()
            .map_err(|e| format!("{shown}: {}", io_reason(&e)))?;
        if !owners.contains(&meta.uid()) {
            return Err(format!(
                "{shown} is owned by user {}, who is neither root nor you: chown it, or install it elsewhere",
                meta.uid()
            ));
        }
        let sticky = meta.is_dir() && meta.mode() & libc::S_ISVTX != 0;
        if others_write(&meta) && !sticky {
            return Err(format!(
                "{shown} is writable by others: chmod go-w it, or install it elsewhere"
            ));
        }
    }
    Ok(())
}

/// Root, this user, and who has become root by sudo, which says so.
fn owners() -> Vec<u32> {
    let mut owners = vec![0, Uid::effective().as_raw()];
    if Uid::current().is_root() && !elevated() {
        owners.extend(privileges::sudo_id("SUDO_UID"));
    }
    owners
}

/// Opens a regular file of at most `most` bytes, without blocking.
///
/// # Errors
/// A message for the user.
pub fn regular(path: &Path, most: u64) -> Result<File, String> {
    let named = path.display();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = fcntl::open(path, flags, Mode::empty()).map(File::from);
    let file = file.map_err(|error| format!("{named}: {}", error.desc()))?;
    let meta = file
        .metadata()
        .map_err(|error| format!("{named}: {error}"))?;
    if !meta.is_file() {
        return Err(format!("{named} is {}, not a regular file", kind_of(&meta)));
    }
    bounded(path, &file, most)?;
    Ok(file)
}

/// An error if an open file has more bytes than `most`.
///
/// # Errors
/// A sentence that names it.
pub fn bounded(path: &Path, file: &File, most: u64) -> Result<(), String> {
    let (named, mib) = (path.display(), most >> 20);
    match file.metadata() {
        Ok(meta) if meta.size() > most => Err(format!("{named} is larger than {mib} MiB")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{named}: {error}")),
    }
}

fn kind_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_safe_environment_is_kept() {
        let harmless = |name: &str, value: &str| is_harmless(name.as_ref(), value.as_ref());
        for (name, value) in [("TZ", "Asia/Kathmandu"), ("TZ", "UTC0"), ("TERM", "xterm")] {
            assert!(harmless(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("TZ", "/etc/shadow"),
            ("TZ", ":/etc/shadow"),
            ("TZ", "../../../etc/shadow"),
            ("TCPTOOLS_WITHOUT", "btf"),
            ("LIBBPF_BPF_TOKEN_PATH", "/tmp"),
            ("RES_OPTIONS", "debug"),
            ("TZDIR", "/tmp"),
        ] {
            assert!(!harmless(name, value), "{name}={value}");
        }
    }

    #[test]
    fn proc_files_are_not_trusted() {
        let file = File::open("/proc/self/cmdline").unwrap();
        assert!(roots_alone(&file, &file.metadata().unwrap()).is_err());
    }

    #[test]
    fn only_bounded_regular_files_are_read() {
        let dir = std::env::temp_dir().join(format!("tcptools-regular-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        File::create(dir.join("huge"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::write(dir.join("small"), "x").unwrap();
        for (name, what) in [
            ("fifo", "a FIFO"),
            ("huge", "larger than 1 MiB"),
            ("/dev/zero", "a device"),
            ("none", "No such file"),
        ] {
            let error = regular(&dir.join(name), 1 << 20).err();
            assert!(
                error.as_ref().is_some_and(|e| e.contains(what)),
                "{name}: {error:?}"
            );
        }
        assert!(regular(&dir.join("small"), 1 << 20).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }
}
