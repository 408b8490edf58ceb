// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error messages for a wrong command line: clap's paragraphs as one sentence, and what a letter means here.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command};

use crate::cli::Common;

/// Letters of bcc's and libbpf-tools' commands (tcpcong, tcprtt) without a counterpart: our command, the letter, what to
/// use (docs/principles.md 11).
const PEERS: [(&str, char, &str); 9] = [
    ("tcpcong", 'R', "-D (--rport)"),
    ("tcpcong", 'j', "--json"),
    ("tcpprobe", 'a', "--laddr"),
    ("tcpprobe", 'A', "--raddr"),
    ("tcpprobe", 'b', "--hist=laddr"),
    ("tcpprobe", 'B', "--hist=raddr"),
    ("tcpprobe", 'e', "--hist, which has averages"),
    (
        "tcpprobe",
        'm',
        "--hist --json, whose buckets name their unit",
    ),
    ("tcpprobe", 'P', "-D (--rport)"),
];

const HELP: &str = "; see --help";

/// The message for a command line (without the command itself) that clap rejected.
pub(crate) fn sentence(error: &clap::Error, command: &Command, line: &[OsString]) -> String {
    // An argument may contain line breaks.
    let said = said(error).replace('\n', " ");
    match letter(error, command, line).or_else(|| equals(error, command, line)) {
        Some(hint) => format!("{}: {hint}", said.trim_end_matches(HELP)),
        None => said,
    }
}

fn said(error: &clap::Error) -> String {
    let of = |kind| error.get(kind).map(text).filter(|t| !t.is_empty());
    let argument = of(ContextKind::InvalidArg).unwrap_or_default();
    let value = of(ContextKind::InvalidValue);
    let meant = |kind| of(kind).map(|other| format!("; did you mean {other}?"));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let meant = meant(ContextKind::SuggestedArg);
            let rest = meant.unwrap_or_else(|| HELP.into());
            format!("unexpected argument '{argument}'{rest}")
        }
        ErrorKind::InvalidValue => match (value, of(ContextKind::ValidValue)) {
            (None, _) => format!("{argument} needs a value"),
            (Some(value), known) => {
                let known = known.map(|known| format!(" (possible values: {known})"));
                format!(
                    "invalid value '{value}' for {argument}{}",
                    known.unwrap_or_default()
                )
            }
        },
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(|why| format!(": {why}"));
            let value = value.unwrap_or_default();
            format!(
                "invalid value '{value}' for {argument}{}",
                why.unwrap_or_default()
            )
        }
        ErrorKind::ArgumentConflict => match of(ContextKind::PriorArg) {
            Some(prior) if prior == argument => format!("{argument} is given more than once"),
            Some(prior) => format!("{argument} cannot be used with {prior}"),
            None => format!("{argument} cannot be used with the other arguments"),
        },
        ErrorKind::NoEquals => format!("{argument} takes its value after '=', without a space"),
        ErrorKind::TooManyValues => {
            format!(
                "{argument} does not take the value '{}'",
                value.unwrap_or_default()
            )
        }
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{argument} takes a different number of values; see --help")
        }
        ErrorKind::MissingRequiredArgument => format!("{argument} is missing; see --help"),
        ErrorKind::InvalidSubcommand => {
            let name = of(ContextKind::InvalidSubcommand).unwrap_or_default();
            let meant = meant(ContextKind::SuggestedSubcommand).unwrap_or_default();
            format!("unknown command '{name}'{meant}")
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "an argument is missing; see --help".into()
        }
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".into(),
        _ => first_line(error),
    }
}

/// A list's words are separated by commas.
fn text(value: &ContextValue) -> String {
    match value {
        ContextValue::Strings(all) => all.join(", "),
        other => other.to_string(),
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// What a letter means here, if the error may come from its meaning elsewhere.
fn letter(error: &clap::Error, command: &Command, line: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if let Some(unknown) = wrong.strip_prefix('-').filter(|w| !w.starts_with('-')) {
        let unknown = unknown.chars().next()?;
        let this = command.get_name();
        let peer = PEERS
            .iter()
            .find(|peer| (peer.0, peer.1) == (this, unknown));
        let shared = || long_of(&shared(), unknown).map(|long| format!("--{long}"));
        let instead = peer.map(|peer| peer.2.to_owned()).or_else(shared)?;
        return Some(format!("use {instead}"));
    }
    // A stray word after a letter that takes no value here, or the value of a letter with another meaning.
    let stray = !wrong.starts_with('-');
    let mut letters = line.iter().filter_map(|word| letters_of(word)).flatten();
    letters.find_map(|letter| {
        let common = long_of(&shared(), letter)?;
        let here = long_of(command, letter).filter(|here| *here != common)?;
        let concerned =
            stray || wrong.starts_with(&format!("--{here} ")) || *wrong == format!("--{here}");
        concerned.then(|| {
            format!(
                "-{letter} is --{here} here; use --{common}{}",
                value(line, letter)
            )
        })
    })
}

/// `--active 5`: an optional value must be in the same word.
fn equals(error: &clap::Error, command: &Command, line: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(stray)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let at = line.iter().position(|word| word == stray.as_str())?;
    let before = line.get(at.checked_sub(1)?)?.to_str()?.strip_prefix("--")?;
    let mut all = command.get_arguments();
    let flag = all.find(|arg| arg.get_long() == Some(before))?;
    let wanted = flag.is_require_equals_set();
    wanted.then(|| format!("use --{before}={stray}"))
}

/// ` 3`, where `-d 3` was written.
fn value(line: &[OsString], letter: char) -> String {
    let mut words = line.iter().skip_while(|word| {
        letters_of(word).is_none_or(|mut letters| !letters.any(|l| l == letter))
    });
    let next = words.nth(1).and_then(|word| word.to_str());
    next.filter(|word| !word.starts_with('-'))
        .map(|word| format!(" {word}"))
        .unwrap_or_default()
}

/// The letters of `-Td`.
fn letters_of(word: &OsString) -> Option<impl Iterator<Item = char> + '_> {
    let letters = word.to_str()?.strip_prefix('-')?;
    let fine = !letters.is_empty() && letters.chars().all(|c| c.is_ascii_alphanumeric());
    fine.then(|| letters.chars())
}

/// What every command has.
fn shared() -> Command {
    Common::augment_args(Command::new("shared"))
}

fn long_of(command: &Command, letter: char) -> Option<String> {
    let mut all = command.get_arguments();
    let found = all.find(|arg| {
        arg.get_short_and_visible_aliases()
            .is_some_and(|s| s.contains(&letter))
    })?;
    found.get_long().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    #[command(name = "tcpprobe")]
    struct Tool {
        /// As in tcpconnect.
        #[arg(short, long)]
        dns: bool,
        #[arg(long, require_equals = true, num_args = 0..=1)]
        active: Option<u32>,
        #[command(flatten)]
        filter: crate::cli::filter::Filter,
        #[command(flatten)]
        output: crate::cli::Output,
        #[arg(long, value_parser = crate::cli::duration)]
        duration: Option<std::time::Duration>,
    }

    fn said_of(args: &[&str]) -> String {
        use clap::CommandFactory;
        let line: Vec<OsString> = args.iter().map(OsString::from).collect();
        let error = Tool::try_parse_from([&["tcpprobe"], args].concat()).unwrap_err();
        sentence(&error, &Tool::command(), &line)
    }

    #[test]
    fn each_kind_of_error_is_one_sentence() {
        for (args, said) in [
            (
                &["--no-such"][..],
                "unexpected argument '--no-such'; see --help",
            ),
            (
                &["--netn", "x"],
                "unexpected argument '--netn'; did you mean --netns?",
            ),
            (&["stray"], "unexpected argument 'stray'; see --help"),
            (&["a\nb"], "unexpected argument 'a b'; see --help"),
            (&["-x"], "unexpected argument '-x'; see --help"),
            (
                &["-o", "yaml"],
                "invalid value 'yaml' for --output <FORMAT> (possible values: table, json, csv, journal, otlp)",
            ),
            (&["-o"], "--output <FORMAT> needs a value"),
            (
                &["-p", "http"],
                "invalid value 'http' for --pid <LIST>: 'http' is not a number (0-4294967295)",
            ),
            (&["-4", "-6"], "--ipv4 cannot be used with --ipv6"),
            (&["--json", "--json"], "--json is given more than once"),
            (&["--json=x"], "--json does not take the value 'x'"),
            (
                &["-d", "3"],
                "unexpected argument '3': -d is --dns here; use --duration 3",
            ),
            (
                &["-Td", "3"],
                "unexpected argument '3': -d is --dns here; use --duration 3",
            ),
            (
                &["--active", "5"],
                "unexpected argument '5': use --active=5",
            ),
            (&["-P", "80"], "unexpected argument '-P': use -D (--rport)"),
            (
                &["-n", "80"],
                "unexpected argument '-n': use --count-events",
            ),
        ] {
            assert_eq!(said_of(args), said, "{args:?}");
        }
    }
}
