// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of congestion states.

use std::str::FromStr;

use super::lists::split;
use crate::abi::names::CA_STATES;

/// Not a state: the connection has ended. Its bit follows those of the states.
pub const CLOSED: &str = "closed";

/// Congestion states by the names of `include/uapi/linux/tcp.h`, in either case, with or without `TCP_CA_`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CaStates(u32);

impl CaStates {
    /// A bit for each state, by its number in `include/uapi/linux/tcp.h`.
    pub fn mask(self) -> u32 {
        self.0
    }
}

impl FromStr for CaStates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mask(text, &CA_STATES).map(Self)
    }
}

/// As [`CaStates`], of what follows a state: the end of the connection, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NextCaStates(u32);

impl NextCaStates {
    /// See [`CaStates::mask`].
    pub fn mask(self) -> u32 {
        self.0
    }
}

impl FromStr for NextCaStates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = CA_STATES.into_iter().chain([CLOSED]).collect();
        mask(text, &names).map(Self)
    }
}

fn mask(text: &str, names: &[&str]) -> Result<u32, String> {
    let (negate, items) = split(text)?;
    let mut mask = 0;
    for item in items {
        let lower = item.to_ascii_lowercase();
        let name = lower.strip_prefix("tcp_ca_").unwrap_or(&lower);
        let known = names.iter().position(|known| *known == name);
        mask |= 1
            << known.ok_or_else(|| {
                format!("'{item}' is not a congestion state ({})", names.join(", "))
            })?;
    }
    Ok(if negate { !mask } else { mask })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_by_the_kernels_names_or_short_ones() {
        let of = |text: &str| text.parse::<CaStates>().map(CaStates::mask);
        assert_eq!(of("loss,Recovery"), Ok(1 << 4 | 1 << 3));
        assert_eq!(of("TCP_CA_CWR"), Ok(1 << 2));
        assert_eq!(of("!open"), Ok(!1));
        assert!(of("established").unwrap_err().contains("open, disorder"));
        assert!(of("closed").is_err() && of("loss,").is_err());
        assert_eq!(
            "closed".parse::<NextCaStates>().map(NextCaStates::mask),
            Ok(1 << 5)
        );
    }
}
