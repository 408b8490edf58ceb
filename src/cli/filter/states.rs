// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of TCP states.

use std::str::FromStr;

use super::lists::split;
use crate::abi::names::TCP_STATES;

/// States that a full socket is never in: the kernel keeps them in smaller ones, of which no change is reported.
const NEVER_REPORTED: [&str; 3] = ["TIME_WAIT", "NEW_SYN_RECV", "BOUND_INACTIVE"];

/// TCP states by the names of `include/net/tcp_states.h`, in either case, or by those of `ss`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct States(u32);

impl States {
    /// A bit for each state, by its number in `include/net/tcp_states.h`.
    pub fn mask(self) -> u32 {
        self.0
    }
}

impl FromStr for States {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mask(
            text,
            &NEVER_REPORTED,
            "the kernel reports no change from or to",
        )
        .map(Self)
    }
}

/// States that a socket is never shown in: a request is in SYN_RECV, and one that is only bound in none.
const NEVER_SHOWN: [&str; 2] = ["NEW_SYN_RECV", "BOUND_INACTIVE"];

/// As [`States`], of sockets that are looked at: those in TIME_WAIT are there, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatesNow(u32);

impl StatesNow {
    /// See [`States::mask`].
    pub fn mask(self) -> u32 {
        self.0
    }
}

impl FromStr for StatesNow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mask(text, &NEVER_SHOWN, "no socket is shown in").map(Self)
    }
}

/// A bit for each state of a list; `never` are not possible, and `why` begins the sentence that says so.
fn mask(text: &str, never: &[&str], why: &str) -> Result<u32, String> {
    let (negate, items) = split(text)?;
    let mut mask = 0;
    for name in items {
        mask |= 1 << state(name, never, why)?;
    }
    Ok(if negate { !mask } else { mask })
}

fn state(text: &str, never: &[&str], why: &str) -> Result<usize, String> {
    let upper = text.to_ascii_uppercase().replace('-', "_");
    let name = match upper.strip_prefix("TCP_").unwrap_or(&upper) {
        "ESTAB" => "ESTABLISHED",
        "FIN_WAIT_1" => "FIN_WAIT1",
        "FIN_WAIT_2" => "FIN_WAIT2",
        name => name,
    };
    if never.contains(&name) {
        return Err(format!("{why} {name}; see CAVEATS in the man page"));
    }
    let known = TCP_STATES.iter().skip(1).position(|s| *s == name);
    known.map(|at| at + 1).ok_or_else(|| {
        let names: Vec<_> = TCP_STATES[1..]
            .iter()
            .filter(|s| !never.contains(s))
            .copied()
            .collect();
        format!("'{text}' is not a TCP state ({})", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(text: &str) -> u32 {
        text.parse::<States>().unwrap().mask()
    }

    #[test]
    fn time_wait_is_a_state_to_be_in() {
        let now = |text: &str| text.parse::<StatesNow>().map(StatesNow::mask);
        assert_eq!(now("time-wait,estab"), Ok(1 << 6 | 1 << 1));
        assert_eq!(now("!listen"), Ok(!(1 << 10)));
        assert!(
            now("NEW_SYN_RECV")
                .unwrap_err()
                .starts_with("no socket is shown in NEW_SYN_RECV")
        );
        assert!(now("open").unwrap_err().contains("TIME_WAIT"));
    }

    #[test]
    fn states_accept_either_case_and_ss_names() {
        assert_eq!(mask("established,CLOSE_WAIT"), 1 << 1 | 1 << 8);
        assert_eq!(mask("fin-wait-2"), mask("FIN_WAIT2"));
        assert_eq!(mask("TCP_CLOSING, estab"), 1 << 11 | 1 << 1);
        assert_eq!(mask("!listen"), !(1 << 10));
    }

    #[test]
    fn repeated_state_counts_once() {
        assert_eq!(mask("CLOSE,close"), 1 << 7);
    }

    #[test]
    fn impossible_filter_is_rejected() {
        for name in ["TIME_WAIT", "time-wait", "NEW_SYN_RECV"] {
            assert!(name.parse::<States>().is_err(), "{name}");
        }
        let error = "OPEN".parse::<States>().unwrap_err();
        assert!(error.starts_with("'OPEN' is not a TCP state (ESTABLISHED, SYN_SENT"));
        assert!("UNKNOWN".parse::<States>().is_err());
        assert!("LISTEN,".parse::<States>().is_err());
    }
}
