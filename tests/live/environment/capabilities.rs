// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command that has file capabilities, run by a user who has none: neither the environment nor a file of the user's
//! decides what is read of the kernel.

use std::{
    ffi::CString,
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::{errno::Errno, libc};

use crate::{missing::Missing, scratch::Scratch, tool, trial};

pub const NOBODY: u32 = 65534;
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// include/uapi/linux/capability.h
pub const SYS_ADMIN: u64 = 1 << 21;
pub const PERFMON: u64 = 1 << 38;
pub const BPF: u64 = 1 << 39;

pub fn tests() -> Vec<Trial> {
    vec![
        trial("capabilities::environment_is_ignored", environment),
        trial("capabilities::btf_must_be_owned_by_root", types),
    ]
}

/// Whatever is in it goes, too.
pub struct Directory(Scratch);

impl Directory {
    /// The copy.
    pub fn tcplife(&self) -> PathBuf {
        self.0.join("tcplife")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&*self.0);
    }
}

/// As `setcap cap_bpf,cap_perfmon+ep` makes it.
fn privileged() -> Result<Directory> {
    tcplife_with(PERFMON | BPF)
}

/// A directory with a copy of tcplife that has these capabilities.
pub fn tcplife_with(permitted: u64) -> Result<Directory> {
    /// include/uapi/linux/capability.h: VFS_CAP_REVISION_2, VFS_CAP_FLAGS_EFFECTIVE.
    const REVISION: u32 = 0x0200_0000 | 1;
    let directory = Directory(Scratch::path("capabilities"));
    fs::create_dir(&*directory.0)?;
    fs::set_permissions(&*directory.0, Permissions::from_mode(0o755))?;
    let file = directory.tcplife();
    fs::copy(tool::path("tcplife"), &file)?;
    let (low, high) = (permitted as u32, (permitted >> 32) as u32);
    let words = [REVISION, low, 0, high, 0].map(u32::to_le_bytes);
    let value = words.concat();
    let path = CString::new(file.as_os_str().as_bytes())?;
    let name = c"security.capability";
    // SAFETY: both strings and the value live through the call, which reads them.
    let result = unsafe {
        let value = value.as_ptr().cast();
        libc::setxattr(path.as_ptr(), name.as_ptr(), value, 20, 0)
    };
    if result != 0 && Errno::last() == Errno::EOPNOTSUPP {
        let feature = "extended attributes of files in the temporary directory";
        return Err(Missing::Feature(feature).into());
    }
    ensure!(result == 0, "{}", Errno::last());
    Ok(directory)
}

/// Runs the copy as nobody; a file that was just written may still be open in another test's child.
fn run(directory: &Directory, args: &[&str], without: &str) -> Result<(Output, String)> {
    let output = loop {
        let mut command = Command::new(directory.tcplife());
        command
            .args(["--duration", "1ms"])
            .args(args)
            .env("TCPTOOLS_WITHOUT", without)
            .uid(NOBODY)
            .gid(NOBODY);
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            output => break output?,
        }
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output, said))
}

fn environment() -> Result<()> {
    let directory = privileged()?;
    let (_, said) = run(&directory, &[], "btf")?;
    ensure!(!said.contains("type information"), "{said}");
    ensure!(
        !said.contains("permission denied"),
        "it has no capability: {said}"
    );
    let (_, said) = run(&directory, &["--verbose"], "btf")?;
    let line = said
        .lines()
        .find(|line| line.contains("rights that you do not have"));
    ensure!(line.is_some(), "{said}");
    Ok(())
}

fn types() -> Result<()> {
    let directory = privileged()?;
    let put = |name: &str, owner: u32, mode: u32| -> Result<String> {
        let path = directory.0.join(name);
        fs::copy(KERNEL, &path)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        chown(&path, Some(owner), Some(owner))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let link = |name: &str, to: &str| -> Result<String> {
        let path = directory.0.join(name);
        symlink(Path::new(to), &path)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let own = put("own", NOBODY, 0o444)?;
    // Below /tmp, which anyone can write.
    let sticky = put("sticky", 0, 0o444)?;
    let writable = put("writable", 0, 0o666)?;
    let linked = link("linked", &own)?;
    for file in [&own, &sticky, &writable, &linked, "/proc/self/cmdline"] {
        let (output, said) = run(&directory, &["--btf", file], "")?;
        ensure!(output.status.code() == Some(2), "{file}: {said}");
        ensure!(said.lines().count() == 1, "{file}: {said}");
        ensure!(said.contains("only files of root"), "{file}: {said}");
    }
    let to_kernel = link("kernel", KERNEL)?;
    for file in [KERNEL, &to_kernel] {
        let (_, said) = run(&directory, &["--btf", file], "")?;
        ensure!(!said.contains("--btf"), "{file}: {said}");
    }
    // Whoever has all rights may use what he likes.
    let args = ["--duration", "1ms", "--btf", &own];
    let root = tool::run("tcplife", &args)?;
    ensure!(root.status.success(), "{}", root.stderr);
    Ok(())
}
