// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the time of a turn went, and whose turn it was: the numbers of `src/bpf/tcplat/turn.bpf.h`.

use crate::by_number;

use super::bpf::types;

/// How many parts there are.
const PARTS: usize = 4;

const NAMES: [&str; PARTS] = by_number! { types::part:
    PART_APP => "app",
    PART_READ => "read",
    PART_NETWORK => "network",
    PART_PEER => "peer",
};

/// By `enum role`: the name in JSON, and the letter of a narrow table.
const ROLES: [Option<(&str, &str)>; 3] = by_number! { types::role:
    ROLE_UNKNOWN => None,
    ROLE_SERVER => Some(("server", "S")),
    ROLE_CLIENT => Some(("client", "C")),
};

/// The name of a part.
pub(super) fn part(part: u8) -> Option<&'static str> {
    NAMES.get(usize::from(part)).copied()
}

/// `server` or `client`.
pub(super) fn role(role: u8) -> Option<&'static str> {
    ROLES.get(usize::from(role)).copied()?.map(|(name, _)| name)
}

/// Its letter.
pub(super) fn role_letter(role: u8) -> Option<&'static str> {
    let found = ROLES.get(usize::from(role)).copied()?;
    found.map(|(_, letter)| letter)
}

/// The largest of the parts of many turns, the first of equal ones; `None` if they took no time at all.
pub(super) fn largest(us: &[u64; PARTS]) -> Option<&'static str> {
    let most = us.iter().copied().max().filter(|most| *most != 0)?;
    let at = us.iter().position(|us| *us == most)?;
    NAMES.get(at).copied()
}

crate::enumerators! { types::part as u8:
    pub(super) APP = PART_APP,
    pub(super) READ = PART_READ,
    pub(super) NETWORK = PART_NETWORK,
    pub(super) PEER = PART_PEER,
}

crate::enumerators! { types::role as u8:
    pub(super) SERVER = ROLE_SERVER,
    pub(super) CLIENT = ROLE_CLIENT,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_part_is_named() {
        assert_eq!(largest(&[0; PARTS]), None);
        assert_eq!(largest(&[1, 0, 7, 6]), Some("network"));
        assert_eq!(largest(&[7, 7, 0, 0]), Some("app"));
    }

    #[test]
    fn unknown_numbers_have_no_name() {
        assert_eq!((role(0), role(9), part(9)), (None, None, None));
        assert_eq!((role(CLIENT), role_letter(1)), (Some("client"), Some("S")));
    }
}
