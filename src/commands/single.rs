// SPDX-License-Identifier: MIT OR Apache-2.0
//! The single-file form (`--features single`): one file that is each command under that command's name.

use std::ffi::{CString, OsStr};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl;

use super::*;

type Main = fn() -> ExitCode;

/// Every command but `tcptools`, which runs them all.
const MAINS: &[(&str, Main)] = &[
    ("sockbuf", sockbuf::main),
    ("tcpaccept", tcpaccept::main),
    ("tcpcong", tcpcong::main),
    ("tcpconnect", tcpconnect::main),
    ("tcpdrop", tcpdrop::main),
    ("tcpinfo", tcpinfo::main),
    ("tcplat", tcplat::main),
    ("tcplife", tcplife::main),
    ("tcpprobe", tcpprobe::main),
    ("tcprcvspace", tcprcvspace::main),
    ("tcpreset", tcpreset::main),
    ("tcpretrans", tcpretrans::main),
    ("tcpstates", tcpstates::main),
    ("tcptop", tcptop::main),
    ("tplist", tplist::main),
];

/// The command that a file's name, as it was called, stands for; a prefix that ends in `-` does not count
/// (`TOOL_PREFIX` of `scripts/install.sh`). Any other name is that of `tcptools`.
fn named(called: &OsStr) -> (&'static str, Main) {
    let name = Path::new(called).file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let own = name.rsplit('-').next().unwrap_or_default();
    let found = MAINS.iter().find(|(name, _)| *name == own);
    found.copied().unwrap_or(("tcptools", tcptools::main))
}

/// Runs the command as which the file was called.
pub fn main() -> ExitCode {
    let (name, main) = named(&std::env::args_os().next().unwrap_or_default());
    // For ps(1) and pgrep(1): the kernel takes the name of the file, which may be /proc/self/exe.
    if let Ok(name) = CString::new(name) {
        let _ = prctl::set_name(&name);
    }
    main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    #[test]
    fn every_command_is_in_it() {
        for tool in suite::TOOLS {
            assert!(MAINS.iter().any(|(name, _)| *name == tool.name));
        }
        assert!(MAINS.iter().all(|(name, _)| suite::has(name)));
    }

    #[test]
    fn name_says_which_command() {
        let is = |called: &str, main: Main| named(OsStr::new(called)).1 as usize == main as usize;
        assert!(is("tcplife", tcplife::main));
        assert!(is("/usr/libexec/tcptools/tcplife", tcplife::main));
        assert!(is("x-tcplife", tcplife::main));
        for name in ["tcptools", "", "/tmp/tcptools-0.1.0", "tcplife.old", "-"] {
            assert!(is(name, tcptools::main), "{name}");
        }
    }
}
