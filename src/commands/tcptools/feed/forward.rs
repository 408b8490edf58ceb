// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filters of the command line, as they are handed to the commands of a feed.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::cli::filter::Filter;

/// The flags of [`Filter`]: checked here, and given to each command as the user wrote them.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    words: Vec<OsString>,
    filter: Filter,
}

impl Forwarded {
    /// Flags, as `--lport=443`.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// What they mean.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

impl Args for Forwarded {
    fn augment_args(command: Command) -> Command {
        Filter::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Filter::augment_args_for_update(command)
    }
}

impl FromArgMatches for Forwarded {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let filter = Filter::from_arg_matches(matches)?;
        let mut words = Vec::new();
        for arg in Filter::augment_args(Command::new("")).get_arguments() {
            let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else {
                continue;
            };
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            if matches!(arg.get_action(), ArgAction::SetTrue) {
                words.push(format!("--{long}").into());
                continue;
            }
            for value in matches.get_raw(id).into_iter().flatten() {
                let mut word = OsString::from(format!("--{long}="));
                word.push(value);
                words.push(word);
            }
        }
        Ok(Self { words, filter })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_handed_on_as_written() {
        let command = Forwarded::augment_args(Command::new("x"));
        let line = ["x", "-L", "80,443", "-4", "--comm=!a b"];
        let matches = command.try_get_matches_from(line).unwrap();
        let words = Forwarded::from_arg_matches(&matches).unwrap().words;
        let mut words: Vec<_> = words.iter().map(|w| w.to_str().unwrap()).collect();
        words.sort();
        assert_eq!(words, ["--comm=!a b", "--ipv4", "--lport=80,443"]);
    }

    #[test]
    fn a_wrong_filter_is_refused_here() {
        let command = Forwarded::augment_args(Command::new("x"));
        assert!(command.try_get_matches_from(["x", "-L", "http"]).is_err());
    }
}
