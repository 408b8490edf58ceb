// SPDX-License-Identifier: MIT OR Apache-2.0
//! What scripts/install.sh installs works where it is, and its man pages render without a warning.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod tools;

/// A directory that goes away with the test.
struct Root(PathBuf);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Programs that the host may lack: named, and demanded where all tests are.
fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    let found = found.is_ok_and(|o| o.status.success());
    if !found {
        let required = std::env::var_os("TCPTOOLS_REQUIRE_LIVE").is_some_and(|v| v == "1");
        assert!(!required, "{program} is missing");
        eprintln!("NOT RUN: {program} is missing");
    }
    found
}

fn install(name: &str, prefix: Option<&str>) -> Root {
    let root = std::env::temp_dir().join(format!("tcptools-{name}-{}", std::process::id()));
    let mut script = Command::new("scripts/install.sh");
    script
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DESTDIR", &root)
        .env("PREFIX", "/usr")
        .env("BIN", tools::binary("tcplife").parent().unwrap());
    if let Some(prefix) = prefix {
        script.env("TOOL_PREFIX", prefix);
    }
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    Root(root)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

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
    let root = install("plain", None);
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
    pages_render(&usr.join("share/man"));
    completions_complete(&usr);
}

fn pages_render(man: &Path) {
    for section in ["man7", "man8"] {
        for name in names(man.join(section)) {
            let page = man.join(section).join(&name);
            let source = fs::read_to_string(&page).unwrap();
            assert!(source.contains(".SH \"NAME\"\n"), "{name}");
            assert!(
                !source.contains(".md"),
                "{name} links a file that is not installed"
            );
            if has("groff") {
                let groff = Command::new("groff")
                    .args(["-ww", "-t", "-man", "-Tutf8"])
                    .arg(&page)
                    .output();
                let groff = groff.unwrap();
                assert!(groff.status.success(), "{name}");
                assert_eq!(text(&groff.stderr), "", "{name}");
            }
            if has("man") {
                let man = Command::new("man")
                    .args(["-P", "cat", "--warnings=w", "-l"])
                    .arg(&page)
                    .output();
                let man = man.unwrap();
                assert!(
                    man.status.success() && man.stderr.is_empty(),
                    "{name}: {}",
                    text(&man.stderr)
                );
                assert!(text(&man.stdout).contains("DESCRIPTION"), "{name}");
            }
        }
    }
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
    let root = install("prefix", Some("x-"));
    let usr = root.0.join("usr");
    assert!(names(usr.join("bin")).contains(&"x-tcplife".to_owned()));
    let version = run(usr.join("bin/x-tcplife"), &["--version"]);
    assert!(text(&version.stdout).starts_with("tcplife "), "{version:?}");
    assert!(usr.join("share/man/man8/x-tcplife.8").exists());
}
