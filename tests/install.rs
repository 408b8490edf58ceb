// SPDX-License-Identifier: MIT OR Apache-2.0
//! What scripts/install.sh installs works where it is, and goes away again.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "tools/installed.rs"]
mod installed;
mod tools;

use installed::{everything, has, install, names, root, script, stand_ins, text};

fn run(path: PathBuf, args: &[&str]) -> Output {
    Command::new(path)
        .args(args)
        .env("PATH", "")
        .output()
        .unwrap()
}

#[test]
fn installation_is_relocatable() {
    if !has("lowdown") {
        return;
    }
    let built = tools::binary("tcplife").parent().unwrap().to_owned();
    let root = install("plain", &[("BIN", built.to_str().unwrap())]);
    let usr = root.0.join("usr");
    assert_eq!(
        names(usr.join("bin")),
        ["tcptools"],
        "no bare names beside other packages'"
    );
    let list = run(usr.join("bin/tcptools"), &["list"]);
    assert!(list.status.success());
    for tool in tools::every().filter(|tool| *tool != "tcptools") {
        assert!(usr.join("libexec/tcptools").join(tool).exists(), "{tool}");
        let line = text(&list.stdout);
        let line = line
            .lines()
            .find(|l| l.starts_with(&format!("{tool} ")))
            .unwrap();
        assert!(!line.contains("not installed"), "{line}");
        let version = run(usr.join("bin/tcptools"), &[tool, "--version"]);
        assert!(
            text(&version.stdout).starts_with(&format!("{tool} ")),
            "{version:?}"
        );
        assert!(
            usr.join(format!("share/man/man8/tcptools-{tool}.8"))
                .exists(),
            "{tool}"
        );
    }
    completions_complete(&usr);
    everybody_can_read(&usr);
}

fn everybody_can_read(dir: &Path) {
    let mut all = vec![];
    everything(dir, &mut all);
    for path in all {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let program = path.is_dir() || path.starts_with(dir.join("libexec"));
        let program = program || path.starts_with(dir.join("bin"));
        let wanted = if program { 0o755 } else { 0o644 };
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
    }
}

/// Nothing is written before everything is there, and one sentence says what is not.
#[test]
fn nothing_is_installed_by_halves() {
    let root = root("half");
    let bin = root.0.join("bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(tools::binary("tcptools"), bin.join("tcptools")).unwrap();
    let into = root.0.join("into");
    let refused = |script: &mut Command, said: &str| {
        let output = script.env("DESTDIR", &into).output().unwrap();
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!into.exists(), "{said}: something was installed");
    };
    refused(
        script(&root, "").env("BIN", &bin),
        "/sockbuf is missing: cargo build",
    );
    refused(
        script(&root, "").env("BIN", "/nonexistent"),
        "/tcptools is missing: cargo build",
    );
    refused(&mut script(&root, "--remove"), "usage: ");
    // Commands that lowdown is not among.
    let few = root.0.join("few");
    fs::create_dir(&few).unwrap();
    for program in ["sh", "dirname", "basename", "mktemp", "rm", "ln", "cat"] {
        let found = Command::new("which").arg(program).output().unwrap();
        symlink(text(&found.stdout).trim(), few.join(program)).unwrap();
    }
    let mut without = Command::new("/bin/sh");
    without
        .arg("scripts/install.sh")
        .env("PATH", &few)
        .env("SINGLE", "0");
    without.current_dir(env!("CARGO_MANIFEST_DIR"));
    without.env("BIN", stand_ins(&root));
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join("man").exists() {
        refused(&mut without, "lowdown, which is missing");
    }
}

#[test]
fn uninstall_leaves_nothing() {
    if !has("lowdown") {
        return;
    }
    let root = root("uninstall");
    let usr = root.0.join("usr");
    fs::create_dir_all(usr.join("bin")).unwrap();
    fs::write(usr.join("bin/other"), "").unwrap();
    let run = |script: &mut Command| {
        let output = script.env("PREFIX", &usr).output().unwrap();
        (output.status.success(), text(&output.stderr))
    };
    assert!(run(script(&root, "").env("TOOL_PREFIX", "x-")).0);
    assert!(usr.join("bin/x-tcplife").exists());
    // The next installation takes away what it no longer has.
    let installed = run(&mut script(&root, ""));
    assert!(installed.0, "{}", installed.1);
    assert!(!usr.join("bin/x-tcplife").is_symlink());
    assert!(usr.join("libexec/tcptools/tcplife").exists());
    assert!(run(&mut script(&root, "--uninstall")).0);
    let mut left = vec![];
    everything(&usr, &mut left);
    assert_eq!(left, [usr.clone(), usr.join("bin"), usr.join("bin/other")]);
    let (again, said) = run(&mut script(&root, "--uninstall"));
    assert!(!again && said.contains("nothing was installed"), "{said}");
}

/// With one file for all, the commands are links to it.
#[test]
fn single_file_is_linked() {
    if !has("lowdown") {
        return;
    }
    let root = install(
        "single",
        &[("SINGLE", "1"), ("TOOL_PREFIX", ""), ("MAN", "no")],
    );
    let usr = root.0.join("usr");
    let file = usr.join("bin/tcptools").canonicalize().unwrap();
    for tool in tools::every() {
        assert_eq!(
            usr.join("bin").join(tool).canonicalize().unwrap(),
            file,
            "{tool}"
        );
    }
    assert!(!usr.join("share/man").exists());
}

/// The scripts know the commands and their flags, and the shell takes them.
fn completions_complete(usr: &Path) {
    let share = usr.join("share");
    let scripts = [
        (
            "bash",
            "bash-completion/completions/tcptools",
            "--ready-file",
        ),
        ("zsh", "zsh/site-functions/_tcptools", "--ready-file"),
        (
            "fish",
            "fish/vendor_completions.d/tcptools.fish",
            "-l ready-file",
        ),
    ];
    for (shell, path, flag) in scripts {
        let script = fs::read_to_string(share.join(path)).unwrap();
        for word in [flag, "tcplife", "tplist", "check"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    if has("bash") {
        let ask = r#". "$1"; COMP_WORDS=(tcptools tcplife --ready-fi); COMP_CWORD=2; _tcptools tcptools --ready-fi tcplife; echo "${COMPREPLY[@]}""#;
        let bash = Command::new("bash")
            .args(["-c", ask, "bash"])
            .arg(share.join(scripts[0].1))
            .output();
        assert_eq!(text(&bash.unwrap().stdout).trim(), "--ready-file");
    }
}

#[test]
fn prefix_renames_commands() {
    if !has("lowdown") {
        return;
    }
    let root = install("prefix", &[("TOOL_PREFIX", "x-")]);
    let usr = root.0.join("usr");
    assert!(names(usr.join("bin")).contains(&"x-tcplife".to_owned()));
    let version = run(usr.join("bin/x-tcplife"), &["--version"]);
    assert!(text(&version.stdout).starts_with("tcplife "), "{version:?}");
    assert!(usr.join("share/man/man8/x-tcplife.8").exists());
    for file in [
        "bash-completion/completions/x-tcplife",
        "zsh/site-functions/_x-tcplife",
        "fish/vendor_completions.d/x-tcplife.fish",
    ] {
        let script = fs::read_to_string(usr.join("share").join(file)).unwrap();
        assert!(
            script.contains("x-tcplife") && script.contains("ready-file"),
            "{file}"
        );
    }
}
