// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion scripts: for `tcptools <command> <flags>`, from what the commands say about themselves.
//!
//! Only this command has the generator in it; the others describe their flags, which costs them next to nothing.

use crate::cli::{DESCRIBE, Flag};
use crate::error::Usage;
use crate::output::print;
use crate::suite::{self, OTHERS, TOOLS};
use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use super::{find, names};

/// Writes the script for a shell: of `tcptools` with all commands, or of one command, as `tcplife=x-tcplife`.
pub fn print(shell: Shell, of: Option<&str>) -> Result<()> {
    let mut out = vec![];
    match of {
        None => clap_complete::generate(shell, &mut all()?, "tcptools", &mut out),
        Some(of) => {
            let (name, called) = of.split_once('=').unwrap_or((of, of));
            if !suite::has(name) {
                bail!(Usage(names::unknown(name)));
            }
            let called = leak(called.to_owned());
            clap_complete::generate(
                shell,
                &mut command(called, "", flags(name)?),
                called,
                &mut out,
            );
        }
    }
    print::write_all(&out)
}

fn all() -> Result<Command> {
    // Without the flags that ask for this script.
    let own = super::Args::command();
    let mut front = Command::new("tcptools")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(own.get_subcommands().cloned());
    let tools = TOOLS.iter().map(|tool| (tool.name, tool.row));
    for (name, what) in tools.chain(OTHERS.iter().copied().take(1)) {
        if find::tool(name).is_ok() {
            front = front.subcommand(command(name, what, flags(name)?));
        }
    }
    Ok(front)
}

fn flags(name: &str) -> Result<Vec<Flag>> {
    let output = find::child(name)?
        .arg(DESCRIBE)
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    ensure!(
        output.status.success(),
        "{name} does not describe its flags"
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("{name} is of another version"))
}

/// clap wants names that live as long as the process, and this one is about to end.
fn leak(text: String) -> &'static str {
    text.leak()
}

fn command(name: &'static str, what: &'static str, flags: Vec<Flag>) -> Command {
    let flags = flags.into_iter().enumerate();
    Command::new(name)
        .about(what)
        .args(flags.map(|(at, flag)| argument(leak(at.to_string()), flag)))
}

fn argument(id: &'static str, flag: Flag) -> Arg {
    let mut arg = Arg::new(id).help(leak(flag.help));
    if let Some(long) = flag.long {
        arg = arg.long(leak(long));
    }
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    let Some(value) = flag.value else {
        return arg.action(ArgAction::SetTrue);
    };
    let hint = match flag.file {
        true => ValueHint::FilePath,
        false => ValueHint::Other,
    };
    arg = arg.value_name(leak(value)).value_hint(hint);
    match flag.values.is_empty() {
        true => arg,
        false => arg.value_parser(PossibleValuesParser::new(flag.values.into_iter().map(leak))),
    }
}
