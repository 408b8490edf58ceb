// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools: the front command: says what is wrong, tells stories of connections, keeps rows, and lists, checks and runs
//! the commands.

mod checks;

mod check;
mod completion;
mod export;
pub(in crate::commands) mod feed;
mod find;
mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod metrics;
mod names;
mod record;
mod schema;
mod selftest;
mod triage;
mod written;

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use crate::cli;
use crate::error::Usage;
use crate::output::print;
use crate::suite::{self, OTHERS, TOOLS};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;

/// Say what is wrong with TCP on this host, and list, check and run the tcptools commands
#[derive(Parser)]
#[command(name = "tcptools", disable_help_subcommand = true, after_help = commands())]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Print a completion script for all commands
    #[arg(long, hide = true, value_enum, value_name = "SHELL")]
    generate_completion: Option<Shell>,
    /// For one command alone, under a name that it also has
    #[arg(
        long,
        hide = true,
        value_name = "COMMAND=NAME",
        requires = "generate_completion"
    )]
    completion_of: Option<String>,
}

#[derive(Subcommand)]
enum What {
    Triage(Box<triage::Args>),
    Follow(Box<follow::Args>),
    Record(Box<record::Args>),
    Metrics(Box<metrics::Args>),
    Export(Box<export::Args>),
    /// Check which commands work on this host, why others do not, and what would help
    Check {
        /// Print one JSON object per check and per command
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        colour: cli::Colour,
    },
    Selftest(selftest::Args),
    /// List the commands, what each row shows, and the tracepoints it comes from
    List {
        /// Print one JSON object per command
        #[arg(long)]
        json: bool,
    },
    Schema(schema::Args),
    /// Print the help of a command
    Help {
        /// Command to explain; without one, print the help of tcptools
        command: Option<String>,
    },
    #[command(external_subcommand)]
    Run(Vec<OsString>),
}

/// For --help.
fn commands() -> String {
    let mut text =
        String::from("Commands, run as tcptools <COMMAND> [FLAG...], and what each row shows:\n");
    let tools = TOOLS.iter().map(|tool| (tool.name, tool.row));
    for (name, what) in tools.chain(OTHERS.iter().copied().take(1)) {
        let _ = writeln!(text, "  {name:<12} {what}");
    }
    text.push_str("\ntcptools help <COMMAND> explains a command's flags.");
    text
}

/// Lines of at most 80 columns, all but the first of them indented as the first one is by the caller.
pub(crate) fn fit(text: &str, indent: &str) -> String {
    const WIDTH: usize = 80;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or("", |line| line);
        let width = indent.len() + line.chars().count() + 1 + word.chars().count();
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if width <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{indent}"))
}

/// A line of `list --json`.
#[derive(Serialize)]
struct Line {
    tool: &'static str,
    event: &'static str,
    command: &'static str,
    row: Option<&'static str>,
    rows_from: &'static [&'static str],
    also_reads: Vec<&'static str>,
    installed: bool,
}

fn list(json: bool) -> Result<()> {
    find::directory()?;
    let mut out = vec![];
    for tool in TOOLS.iter().filter(|_| json) {
        let also = tool.also.iter().filter(|name| !tool.rows.contains(name));
        let line = Line {
            tool: "tcptools",
            event: "command",
            command: tool.name,
            row: Some(tool.row),
            rows_from: tool.rows,
            also_reads: also.copied().collect(),
            installed: find::tool(tool.name).is_ok(),
        };
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    if !json {
        out = table().into_bytes();
    }
    print::write_all(&out)
}

fn table() -> String {
    let mut text = format!("{:<12} {}\n", "COMMAND", "ONE ROW IS, AND COMES FROM");
    for tool in TOOLS {
        let missing = match find::tool(tool.name) {
            Ok(_) => "",
            Err(error) if error.to_string().contains("not installed") => " (not installed)",
            Err(_) => " (not run: see tcptools check)",
        };
        let _ = writeln!(text, "{:<12} {}{missing}", tool.name, tool.row);
        let indent = " ".repeat(13);
        let from = fit(&tool.rows.join(" "), &indent);
        let _ = writeln!(text, "{indent}{from}");
    }
    for (name, what) in OTHERS {
        let _ = writeln!(text, "{name:<12} {what}");
    }
    text
}

/// Becomes the command, which sees its own name as its name.
fn become_tool(words: &[OsString]) -> Result<()> {
    let (name, arguments) = words.split_first().context("no command")?;
    let name = name.to_string_lossy();
    if !suite::has(&name) {
        bail!(Usage(names::unknown(&name)));
    }
    let error = find::command(&name)?.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {name}"))
}

/// Of this command, one of its own subcommands, or a command of the suite.
fn help(command: Option<&str>) -> Result<()> {
    let own = cli::command::<Args>("tcptools");
    let line = match command {
        None | Some("tcptools" | "help") => vec!["tcptools", "--help"],
        Some(name) if own.find_subcommand(name).is_some() => vec!["tcptools", name, "--help"],
        Some(name) => return become_tool(&[name.into(), "--help".into()]),
    };
    // clap hands its help over as an error.
    let page = own.try_get_matches_from(line).err();
    let page = page.map(|page| page.render().to_string());
    print::write_all(page.unwrap_or_default().as_bytes())
}

/// The exit status of a triage that found something.
const FOUND: u8 = 10;

/// The whole life of the command.
pub fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let ended = cli::main("tcptools", Vec::new, |args: Args| {
        if let Some(shell) = args.generate_completion {
            return completion::print(shell, args.completion_of.as_deref());
        }
        match args.what {
            Some(What::List { json }) => list(json),
            Some(What::Check { json, colour }) => check::run(json, colour).map(|fine| {
                if !fine {
                    code = ExitCode::FAILURE;
                }
            }),
            Some(What::Triage(args)) => triage::run(&args).map(|found| {
                if found {
                    code = ExitCode::from(FOUND);
                }
            }),
            Some(What::Follow(args)) => follow::run(&args),
            Some(What::Record(args)) => record::run(&args),
            Some(What::Metrics(args)) => metrics::run(&args),
            Some(What::Export(args)) => export::run(&args),
            Some(What::Selftest(args)) => selftest::run(&args).map(|agree| {
                if !agree {
                    code = ExitCode::FAILURE;
                }
            }),
            Some(What::Schema(args)) => schema::run(&args),
            Some(What::Run(words)) => become_tool(&words),
            Some(What::Help { command }) => help(command.as_deref()),
            None => help(None),
        }
    });
    if ended == ExitCode::SUCCESS {
        code
    } else {
        ended
    }
}
