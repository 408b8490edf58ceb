// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which host a record is from, and which boot of it: `--host`.

use std::fs;
use std::str::FromStr;
use std::sync::LazyLock;

use nix::sys::utsname::uname;

/// The longest name that Linux allows (`__NEW_UTS_LEN` of include/uapi/linux/utsname.h), of domains of DNS too.
const LONGEST: usize = 255;

/// A host, and one of its boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name: that of `uname -n`, or the user's own.
    pub name: String,
    /// The kernel's random ID of this boot; empty if it is not known.
    pub boot_id: &'static str,
}

impl Host {
    /// This one, under the name that it has itself.
    pub fn own() -> Self {
        let name = uname().map(|name| name.nodename().to_string_lossy().into_owned());
        Self::named(name.unwrap_or_default())
    }

    fn named(name: String) -> Self {
        Self {
            name,
            boot_id: boot_id(),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    /// An empty name is the host's own.
    fn from_str(name: &str) -> Result<Self, String> {
        if name.len() > LONGEST {
            return Err(format!("a name has at most {LONGEST} bytes"));
        }
        if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("a name has neither blanks nor control characters".into());
        }
        Ok(match name {
            "" => Self::own(),
            name => Self::named(name.to_owned()),
        })
    }
}

/// The ID of this boot (`drivers/char/random.c: proc_do_uuid`).
pub fn boot_id() -> &'static str {
    static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.unwrap_or_default().trim().to_owned()
    });
    &BOOT_ID
}
