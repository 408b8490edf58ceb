// SPDX-License-Identifier: MIT OR Apache-2.0
//! An installation by scripts/install.sh of what was built, in a directory of its own.

#![allow(dead_code, reason = "not every test needs all")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools;

/// A directory that goes away with the test.
pub struct Root(pub PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Programs that the host may lack: named, and demanded where all tests are.
pub fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    let found = found.is_ok_and(|o| o.status.success());
    if !found {
        // Where man-db cannot be installed beside it, groff and man are enough.
        let required = program != "mandoc"
            && std::env::var_os("TCPTOOLS_REQUIRE_LIVE").is_some_and(|v| v == "1");
        assert!(!required, "{program} is missing");
        eprintln!("NOT RUN: {program} is missing");
    }
    found
}

/// The script with a umask that hides everything. What it installs are stand-ins, as the debug build's programs are large;
/// completions are made by the real ones.
pub fn script(root: &Root, arguments: &str) -> Command {
    let mut script = Command::new("sh");
    let line = format!("umask 077; scripts/install.sh {arguments}");
    script
        .args(["-c", &line])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("GENERATOR", tools::binary("tcptools"))
        .env("BIN", stand_ins(root));
    script
}

/// A directory with a script for each command, which says that command's name.
pub fn stand_ins(root: &Root) -> PathBuf {
    let dir = root.0.join("built");
    fs::create_dir_all(&dir).unwrap();
    for tool in tools::every() {
        let path = dir.join(tool);
        fs::write(&path, format!("#!/bin/sh\necho '{tool} stands in'\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// Where an installation goes to, in a directory of its own.
pub fn root(name: &str) -> Root {
    let root = std::env::temp_dir().join(format!("tcptools-{name}-{}", std::process::id()));
    Root(root)
}

/// Installs to `usr` below a new root.
pub fn install(name: &str, settings: &[(&str, &str)]) -> Root {
    let root = root(name);
    let mut script = script(&root, "");
    script.env("DESTDIR", &root.0).env("PREFIX", "/usr");
    let output = script.envs(settings.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    root
}

/// Everything below a directory, itself included.
pub fn everything(dir: &Path, found: &mut Vec<PathBuf>) {
    found.push(dir.to_owned());
    if dir.is_dir() && !dir.is_symlink() {
        for name in names(dir) {
            everything(&dir.join(name), found);
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
