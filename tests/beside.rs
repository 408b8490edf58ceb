// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `tcptools` runs beside itself: only what root or its user can have put there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

mod tools;

/// An installation with a script for a command, which goes away with the test.
struct Installed(PathBuf);

impl Installed {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tcptools-beside-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("libexec/tcptools")).unwrap();
        fs::copy(tools::binary("tcptools"), root.join("bin/tcptools")).unwrap();
        let command = root.join("libexec/tcptools/tcplife");
        fs::write(&command, "#!/bin/sh\necho it ran\n").unwrap();
        let installed = Self(root);
        for part in ["", "bin", "libexec", "libexec/tcptools", COMMAND] {
            installed.mode(part, 0o755);
        }
        installed
    }

    fn mode(&self, part: &str, mode: u32) {
        fs::set_permissions(self.0.join(part), Permissions::from_mode(mode)).unwrap();
    }

    /// Another test's child may still hold a new file open for writing, between its fork and its exec.
    fn run(&self, args: &[&str]) -> Output {
        loop {
            let output = Command::new(self.0.join("bin/tcptools"))
                .args(args)
                .output();
            let busy = "Text file busy";
            match output {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                Ok(output) if text(&output.stderr).contains(busy) => {}
                output => return output.unwrap(),
            }
        }
    }

    fn refuses(&self, what: &Path, said: &str) {
        let output = self.run(&["tcplife"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}: {error}");
        assert!(output.stdout.is_empty(), "{said}: it ran");
        assert_eq!(error.lines().count(), 1, "{error}");
        let begins = "tcptools: refusing to run tcplife: ";
        assert!(error.starts_with(begins) && error.contains(said), "{error}");
        let what = what.display().to_string();
        assert!(error.contains(what.trim_end_matches('/')), "{error}");
        // What is not run is not checked either.
        let check = text(&self.run(&["check", "--json"]).stdout);
        let line = check.lines().find(|line| line.contains("\"tcplife\""));
        let line = line.unwrap_or_default();
        assert!(
            line.contains("\"runs\":false") && line.contains("refusing to run"),
            "{line}"
        );
    }

    fn runs(&self) {
        let output = self.run(&["tcplife"]);
        let shown = text(&output.stderr);
        assert_eq!(text(&output.stdout), "it ran\n", "{shown}");
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const COMMAND: &str = "libexec/tcptools/tcplife";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn writable_by_others_is_not_run() {
    let installed = Installed::new();
    installed.runs();
    for part in ["", "libexec", "libexec/tcptools", COMMAND] {
        installed.mode(part, 0o777);
        installed.refuses(&installed.0.join(part), "is writable by others");
        installed.mode(part, 0o755);
    }
    // As in /tmp, nobody can replace what is another's.
    installed.mode("libexec", 0o1777);
    installed.runs();
}

#[test]
fn owned_by_others_is_not_run() {
    if !Uid::current().is_root() {
        return;
    }
    let installed = Installed::new();
    for part in ["", "libexec", "libexec/tcptools", COMMAND] {
        let path = installed.0.join(part);
        chown(&path, Some(65534), None).unwrap();
        installed.refuses(&path, "is owned by user 65534");
        chown(&path, Some(0), None).unwrap();
    }
    installed.runs();
}
