// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flags that all commands share, and how a command ends.

mod colour;
mod descriptor;
pub mod destination;
mod examples;
pub mod explain;
pub mod filter;
pub mod quantity;
pub mod sampling;
mod usage;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgMatches, Args, CommandFactory, Parser};

pub use crate::cli::colour::Colour;
use crate::cli::filter::Filter;
pub use crate::cli::quantity::{duration, milliseconds, whole};
use crate::error::{Interrupted, Usage};
use crate::kernel::{limits, trust};
use crate::output::logs::{Host, socket};
use crate::output::print;
use crate::output::schema::{self, Kind};
use crate::output::whose::peer;
use crate::output::{Choice, Format, Style};

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

impl Common {
    /// The three groups.
    pub fn parts(&self) -> (&Filter, &Output, &Run) {
        (&self.filter, &self.output, &self.run)
    }
}

/// bcc's filters by pinned BPF map: accepted only to suggest the alternative.
#[derive(Args, Clone, Debug)]
pub struct PinnedMaps {
    #[arg(long, hide = true)]
    cgroupmap: Option<String>,
    #[arg(long, hide = true)]
    mntnsmap: Option<String>,
}

impl PinnedMaps {
    /// # Errors
    /// A message, if one of them is given.
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
    /// Set the output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Same as --output json
    #[arg(long, conflicts_with_all = ["output", "csv"])]
    pub json: bool,
    /// Same as --output csv
    #[arg(short = 's', long, conflicts_with = "output")]
    pub csv: bool,
    /// Print more columns, with room for IPv6 addresses
    #[arg(short, long)]
    pub wide: bool,
    /// Prefix each row with the time of day
    #[arg(short = 'T', long)]
    pub time: bool,
    /// Prefix each row with the seconds since the first one
    #[arg(short, long)]
    pub timestamp: bool,
    /// Do not print the header line
    #[arg(long)]
    pub no_header: bool,
    /// Show these columns, by JSON key or heading; +NAME adds to the default ones, -NAME takes away
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub columns: Option<Choice>,
    /// Show the process at the other end of each connection, where that is on this host
    #[arg(long)]
    pub peer: bool,
    /// When there are colours.
    #[command(flatten)]
    pub colour: Colour,
    /// Name the host, as NAME or as itself, and its boot ID in each record of JSON, CSV and logs
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub host: Option<Host>,
    /// Set the socket of the journal
    #[arg(long, hide = true, value_name = "PATH", default_value = socket::SOCKET)]
    pub journal_socket: PathBuf,
}

impl Output {
    /// The format, by whichever flag it was chosen.
    pub fn format(&self) -> Format {
        match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => self.output,
        }
    }

    /// The flags as the library takes them.
    pub fn style(&self) -> Style {
        Style {
            format: self.format(),
            host: self.host.clone(),
            wide: self.wide,
            time: self.time,
            timestamp: self.timestamp,
            header: !self.no_header,
            colour: self.colour.is_wanted(),
            screen: true,
            columns: self.columns.clone(),
            sort: None,
        }
    }
}

/// Range of `--buffer`. The minimum is one page, and the largest pages are 64 KiB.
pub(crate) const BUFFER_KIB: RangeInclusive<u32> = 64..=1 << 20;

/// `--buffer`, unless the user says otherwise.
const DEFAULT_BUFFER_KIB: u32 = 2048;

/// Range of `--sockets`.
pub(crate) const SOCKETS: RangeInclusive<u32> = 1..=1 << 24;

/// How long and how a command runs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Running")]
pub struct Run {
    /// Stop after TIME: seconds, or a number with a unit (500ms, 10s, 5m, 1h)
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Stop after N rows
    #[arg(short = 'n', long, value_name = "N", value_parser = whole(1..=u64::MAX))]
    pub count_events: Option<u64>,
    /// Set the size of the ring buffer, in KiB
    #[arg(long, value_name = "KIB", default_value_t = DEFAULT_BUFFER_KIB, value_parser = whole(BUFFER_KIB))]
    pub buffer: u32,
    /// Set for how many TCP sockets the state is kept in a table, which is faster than in the sockets (default: from what is open, at least 16384)
    #[arg(long, value_name = "N", value_parser = whole(SOCKETS))]
    pub sockets: Option<u32>,
    /// Skip the initial scan of open sockets (starts faster; their owners stay unknown until they act)
    #[arg(long, visible_alias = "no-seed")]
    pub no_scan: bool,
    /// Read kernel BTF from FILE, or from FILE/RELEASE.btf if FILE is a directory; only needed if the kernel has no /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Create FILE once every probe is attached, and remove it on exit
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Write a newline to file descriptor N once every probe is attached, and close it
    #[arg(long, value_name = "N", value_parser = descriptor::descriptor)]
    pub ready_fd: Option<i32>,
    /// End, as on SIGTERM, when the other end of pipe N is closed. Who runs several commands ends them so: without
    /// CAP_KILL root may send no signal to a process that has become another user.
    #[arg(long, hide = true, value_name = "N")]
    pub stop_fd: Option<i32>,
    /// Print CPU cost statistics on exit
    #[arg(long)]
    pub stats: bool,
    /// Print libbpf debug messages to standard error
    #[arg(short, long)]
    pub verbose: bool,
}

impl Run {
    /// Whether the user asks for more memory than usual, which a cgroup may not have.
    pub(crate) fn asks_for_memory(&self) -> bool {
        self.buffer > DEFAULT_BUFFER_KIB || self.sockets.is_some()
    }
}

/// Runs a command: parses its arguments, runs it, and turns an error into one message and an exit status.
///
/// 0: finished, interrupted, or its reader left. 1: cannot run. 2: wrong argument.
///
/// `kinds`: every kind of row, with its columns.
pub fn main<A: Parser>(
    tool: &'static str,
    kinds: fn() -> Vec<Kind>,
    run: impl FnOnce(A) -> Result<()>,
) -> ExitCode {
    limits::name(tool);
    trust::clean_environment();
    if let Some(answered) = schema::answer(kinds) {
        return answered;
    }
    if std::env::args_os().nth(1).is_some_and(|a| a == DESCRIBE) {
        return describe(&A::command());
    }
    let (args, matches) = match parse::<A>(tool) {
        Ok(parsed) => parsed,
        Err(error) if !error.use_stderr() => {
            // --help and --version.
            let text = error.render().to_string();
            return match print::write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    crate::message!("{tool}: {error}");
                    ExitCode::FAILURE
                }
            };
        }
        Err(error) => {
            let line: Vec<_> = std::env::args_os().skip(1).collect();
            let sentence = usage::sentence(&error, &A::command(), &line);
            crate::message!("{tool}: {sentence}");
            return ExitCode::from(2);
        }
    };
    match destination::choose(&matches).and_then(|()| run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => ExitCode::SUCCESS,
        Err(error) if error.is::<Usage>() => {
            crate::message!("{tool}: {error:#}");
            ExitCode::from(2)
        }
        Err(error) => {
            crate::message!("{tool}: {}", limits::said(&error));
            ExitCode::FAILURE
        }
    }
}

/// Hidden flag: `tcptools` reads the flags of the other commands with it, for shell completions.
pub const DESCRIBE: &str = "--describe-flags";

/// A flag, as shell completions need it.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Flag {
    /// Its long name, without the dashes.
    pub long: Option<String>,
    /// Its letter.
    pub short: Option<char>,
    /// Its help, one line.
    pub help: String,
    /// The name of its value, if it takes one.
    pub value: Option<String>,
    /// Its possible values, if they are listed.
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
    match print::write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A command's arguments and help.
pub(crate) fn command<A: CommandFactory>(tool: &str) -> clap::Command {
    let own = A::command().version(env!("CARGO_PKG_VERSION"));
    let before = own.get_after_help().map(|text| format!("{text}\n\n"));
    own.after_long_help(examples::text(tool, &before.unwrap_or_default()))
}

fn parse<A: Parser>(tool: &str) -> Result<(A, ArgMatches), clap::Error> {
    let matches = command::<A>(tool).try_get_matches()?;
    if matches!(matches.try_get_one::<bool>("peer"), Ok(Some(true))) {
        peer::ask();
    }
    destination::check(&command::<A>(tool), &matches)?;
    A::from_arg_matches(&matches).map(|args| (args, matches))
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
        let error = Tool::try_parse_from(args).unwrap_err();
        usage::sentence(&error, &Tool::command(), &[])
    }

    #[test]
    fn wrong_argument_is_named_in_one_sentence() {
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
    fn letters_match_bcc() {
        let tool = Tool::try_parse_from(["tool", "-TtwsL80", "-D", "443", "-p1"]).unwrap();
        let Common { filter, output, .. } = tool.common;
        assert!(output.time && output.timestamp && output.wide && output.csv);
        assert!(filter.lport.is_some() && filter.rport.is_some() && filter.pid.is_some());
    }
}
