// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of TCP states.

use std::str::FromStr;

use super::lists::split;
use crate::names::TCP_STATES;

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
        let (negate, items) = split(text)?;
        let bits = items.into_iter().map(|name| state(name).map(|s| 1 << s));
        let mask = bits.collect::<Result<Vec<u32>, _>>()?;
        let mask = mask.into_iter().fold(0, |all, bit| all | bit);
        Ok(Self(if negate { !mask } else { mask }))
    }
}

fn state(text: &str) -> Result<usize, String> {
    let upper = text.to_ascii_uppercase().replace('-', "_");
    let name = match upper.strip_prefix("TCP_").unwrap_or(&upper) {
        "ESTAB" => "ESTABLISHED",
        "FIN_WAIT_1" => "FIN_WAIT1",
        "FIN_WAIT_2" => "FIN_WAIT2",
        name => name,
    };
    if NEVER_REPORTED.contains(&name) {
        return Err(format!(
            "the kernel reports no change from or to {name}: see CAVEATS of the manual"
        ));
    }
    let known = TCP_STATES.iter().skip(1).position(|s| *s == name);
    known.map(|at| at + 1).ok_or_else(|| {
        let names: Vec<_> = TCP_STATES[1..]
            .iter()
            .filter(|s| !NEVER_REPORTED.contains(s))
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
    fn states_have_names_in_either_case_and_those_of_ss() {
        assert_eq!(mask("established,CLOSE_WAIT"), 1 << 1 | 1 << 8);
        assert_eq!(mask("fin-wait-2"), mask("FIN_WAIT2"));
        assert_eq!(mask("TCP_CLOSING, estab"), 1 << 11 | 1 << 1);
        assert_eq!(mask("!listen"), !(1 << 10));
    }

    #[test]
    fn a_state_named_twice_is_one() {
        assert_eq!(mask("CLOSE,close"), 1 << 7);
    }

    #[test]
    fn what_never_matches_is_refused() {
        for name in ["TIME_WAIT", "time-wait", "NEW_SYN_RECV"] {
            assert!(name.parse::<States>().is_err(), "{name}");
        }
        let error = "OPEN".parse::<States>().unwrap_err();
        assert!(error.starts_with("'OPEN' is not a TCP state (ESTABLISHED, SYN_SENT"));
        assert!("UNKNOWN".parse::<States>().is_err());
        assert!("LISTEN,".parse::<States>().is_err());
    }
}
