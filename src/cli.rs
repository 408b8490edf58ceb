// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every command's command line shares, and how a command ends.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{Args, Parser};

use crate::filter::Filter;
use crate::lacks::Anew;
use crate::output::{Format, Style};
pub use crate::quantity::{duration, milliseconds, whole};

/// The flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// What is shown.
    #[command(flatten)]
    pub filter: Filter,
    /// How it is shown.
    #[command(flatten)]
    pub output: Output,
    /// How long, and how the command runs.
    #[command(flatten)]
    pub run: Run,
}

/// bcc's filters by pinned BPF map: known, so that the refusal says what does the same.
#[derive(Args, Clone, Debug)]
pub struct PinnedMaps {
    #[arg(long, hide = true)]
    cgroupmap: Option<String>,
    #[arg(long, hide = true)]
    mntnsmap: Option<String>,
}

impl PinnedMaps {
    /// # Errors
    /// A sentence, if one of them is given.
    pub fn refuse(&self) -> Result<()> {
        let instead = match (&self.cgroupmap, &self.mntnsmap) {
            (Some(_), _) => "--cgroupmap: use --cgroup PATH, which needs no BPF map",
            (_, Some(_)) => "--mntnsmap: use --netns or --cgroup, which need no BPF map",
            _ => return Ok(()),
        };
        Err(Usage(instead.into()).into())
    }
}

/// How rows are shown.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Format of the rows
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Same as --output json
    #[arg(long, conflicts_with_all = ["output", "csv"])]
    pub json: bool,
    /// Same as --output csv
    #[arg(short = 's', long, conflicts_with = "output")]
    pub csv: bool,
    /// Wide columns: room for IPv6, and more of them
    #[arg(short, long)]
    pub wide: bool,
    /// Begin each row with the time of day
    #[arg(short = 'T', long)]
    pub time: bool,
    /// Begin each row with the seconds since the first one
    #[arg(short, long)]
    pub timestamp: bool,
    /// No header line
    #[arg(long)]
    pub no_header: bool,
}

impl Output {
    /// The flags as the library takes them.
    pub fn style(&self) -> Style {
        Style {
            format: match (self.json, self.csv) {
                (true, _) => Format::Json,
                (_, true) => Format::Csv,
                _ => self.output,
            },
            wide: self.wide,
            time: self.time,
            timestamp: self.timestamp,
            header: !self.no_header,
        }
    }
}

/// What `--buffer` takes. A page is the least that a buffer can have, and the largest pages of all are of 64 KiB.
pub(crate) const BUFFER_KIB: RangeInclusive<u32> = 64..=1 << 20;

/// How long and how a command runs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Running")]
pub struct Run {
    /// Stop after this time: seconds, or with a unit (500ms, 10s, 5m, 1h)
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Stop after so many rows
    #[arg(short = 'n', long, value_name = "N", value_parser = whole(1..=u64::MAX))]
    pub count_events: Option<u64>,
    /// Size of the buffer between kernel and reader, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 2048, value_parser = whole(BUFFER_KIB))]
    pub buffer: u32,
    /// Do not look at sockets that exist already: starts faster, knows fewer owners
    #[arg(long)]
    pub no_seed: bool,
    /// Type information (BTF) of exactly this kernel, for one that has none of its own: a file, or a directory with RELEASE.btf
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Create this file when every probe is attached
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Tell at the end what the run has cost, in the kernel and here
    #[arg(long)]
    pub stats: bool,
    /// Tell what the BPF library does, on standard error
    #[arg(short, long)]
    pub verbose: bool,
}

/// A wrong combination of arguments that only the command itself can see: one sentence, exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The whole life of a command: parses, runs, and turns what went wrong into one sentence and an exit code.
///
/// 0: finished, interrupted, or its reader left. 1: cannot run. 2: wrong argument.
pub fn main<A: Parser>(tool: &'static str, mut run: impl FnMut(A) -> Result<()>) -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|a| a == DESCRIBE) {
        return describe(&A::command());
    }
    let args = match parse::<A>() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            // --help and --version; a reader that has gone does not matter here.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            crate::message!("{tool}: {}", sentence(&error));
            return ExitCode::from(2);
        }
    };
    let result = match run(args) {
        // What was parsed once can be parsed again.
        Err(error) if error.is::<Anew>() => parse::<A>().map_err(Into::into).and_then(&mut run),
        result => result,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::message!("{tool}: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// What the front command asks the others for, to make completions of all; not for people.
pub const DESCRIBE: &str = "--describe-flags";

/// A flag, as far as a shell completes it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Flag {
    /// Its name with two dashes, without them.
    pub long: Option<String>,
    /// Its letter.
    pub short: Option<char>,
    /// What it is for, in a line.
    pub help: String,
    /// What its value is called, if it takes one.
    pub value: Option<String>,
    /// The only values it takes, if there are not many.
    pub values: Vec<String>,
    /// Whether the value is a file.
    pub file: bool,
}

/// The visible flags of a command; an argument without a dash has neither `long` nor `short`.
pub fn flags(command: &clap::Command) -> Vec<Flag> {
    let flag = |arg: &clap::Arg| Flag {
        long: arg.get_long().map(str::to_owned),
        short: arg.get_short(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        value: arg
            .get_action()
            .takes_values()
            .then(|| arg.get_value_names()?.first().map(ToString::to_string))
            .flatten(),
        values: match arg.get_action().takes_values() {
            true => arg
                .get_possible_values()
                .iter()
                .map(|v| v.get_name().to_owned())
                .collect(),
            false => vec![],
        },
        file: arg.get_value_parser().type_id() == clap::builder::ValueParser::path_buf().type_id(),
    };
    let shown = |arg: &&clap::Arg| !arg.is_hide_set();
    command.get_arguments().filter(shown).map(flag).collect()
}

fn describe(command: &clap::Command) -> ExitCode {
    let text = serde_json::to_vec(&flags(command)).unwrap_or_default();
    match crate::sink::write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn parse<A: Parser>() -> Result<A, clap::Error> {
    let matches = A::command()
        .version(env!("CARGO_PKG_VERSION"))
        .try_get_matches()?;
    A::from_arg_matches(&matches)
}

/// clap's paragraphs as one sentence.
fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "an argument is missing; see --help".into();
    }
    let text = error.render().to_string();
    let tip =
        |line: &&str| !line.trim_start().starts_with("Usage:") && !line.contains("try '--help'");
    let lines: Vec<_> = text
        .lines()
        .filter(tip)
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    #[command(name = "tool")]
    struct Tool {
        #[command(flatten)]
        common: Common,
    }

    fn sentence_of(args: &[&str]) -> String {
        let args = [&["tool"], args].concat();
        sentence(&Tool::try_parse_from(args).unwrap_err())
    }

    #[test]
    fn a_wrong_argument_is_one_sentence_that_names_it() {
        for (args, value) in [
            (&["-L", "http"][..], "'http'"),
            (&["-d", "5x"], "'x'"),
            (&["-d", "0"], "'0'"),
            (&["-n", "0"], "0"),
            (&["--netns", "12"], "pid:12"),
            (&["-4", "-6"], "--ipv6"),
            (&["--json", "-s"], "--csv"),
            (&["--no-such-flag"], "--no-such-flag"),
            (&["-o", "yaml"], "yaml"),
            (&["--buffer", "1"], "1"),
            (&["stray"], "stray"),
        ] {
            let sentence = sentence_of(args);
            assert!(sentence.contains(value), "{args:?}: {sentence}");
            assert!(
                !sentence.contains('\n') && !sentence.starts_with("error"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn letters_are_those_of_bcc() {
        let tool = Tool::try_parse_from(["tool", "-TtwsL80", "-D", "443", "-p1"]).unwrap();
        let Common { filter, output, .. } = tool.common;
        assert!(output.time && output.timestamp && output.wide && output.csv);
        assert!(filter.lport.is_some() && filter.rport.is_some() && filter.pid.is_some());
    }
}
