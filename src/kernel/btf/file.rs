// SPDX-License-Identifier: MIT OR Apache-2.0
//! The user's type information (`--btf`), for kernels without their own, and the check that it matches the kernel.
//!
//! BTF from another kernel loads without an error, and relocations against it read wrong data. A file is therefore
//! rejected if it names another release, or disagrees with what this kernel shows: the layout of tracepoint records,
//! and the size of sockets (docs/principles.md 1).

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libbpf_rs::btf::Btf;

use crate::error::Usage;
use crate::kernel::tracepoints::{self, Field, KernelTypes};
use crate::kernel::{tracefs, trust};

/// Categories of tracepoints whose records are compared: the network's, and others for a fingerprint. A record of a
/// module's is not in the kernel's types, and is passed over.
const CATEGORIES: [&str; 20] = [
    "tcp",
    "sock",
    "skb",
    "net",
    "udp",
    "fib",
    "napi",
    "qdisc",
    "sched",
    "timer",
    "irq",
    "signal",
    "task",
    "workqueue",
    "writeback",
    "kmem",
    "block",
    "oom",
    "vmscan",
    "filemap",
];

/// At least this many records must match. Any kernel with these commands' tracepoints has more.
const MIN_RECORDS: usize = 20;

/// Sockets' structs, and the allocator's cache of each, which tells its size. These are never merged with others (their
/// flag SLAB_TYPESAFE_BY_RCU forbids it), which would make them seem larger.
const CACHES: [(&str, &str); 2] = [("tcp_sock", "TCP"), ("tcp6_sock", "TCPv6")];

/// A kernel with full debugging information has about 1 GiB; a larger file is no kernel.
const MAX_BYTES: u64 = 4 << 30;
/// BTF alone has about 10 MiB, and is read into memory.
const MAX_BTF_BYTES: u64 = 256 << 20;

/// The file, or the one for this kernel in a directory, once it is known to be of this kernel. `events`: tracefs's, to
/// compare with; without it only what the file says of itself is looked at. It is opened once, so that what was checked
/// is what is used.
///
/// # Errors
/// If it is not BTF, does not match this kernel, or is not trusted (see [`trust::open`]).
pub fn checked(path: &Path, events: Option<&Path>) -> Result<File> {
    let refused = |why: String| Usage(format!("--btf: {why}"));
    let release = release()?;
    let path = found(path, &release);
    let named = path.display();
    let file = trust::open(&path, MAX_BYTES).map_err(refused)?;
    said(&path, &file, &release).map_err(refused)?;
    let btf = Btf::from_path(trust::path_of(&file)).map_err(|_| {
        let packed = path.extension().is_some_and(|e| e == "xz" || e == "gz");
        let hint = if packed { ": unpack it" } else { "" };
        refused(format!("{named} has no type information (BTF){hint}"))
    })?;
    let types = KernelTypes::new(btf);
    if let Some(events) = events {
        compare(&types, events)
            .and_then(|()| sizes(&types))
            .map_err(|why| refused(format!("{named} does not match this kernel: {why}")))?;
    }
    Ok(file)
}

pub(crate) fn release() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read this kernel's release: mount -t proc proc /proc")?;
    Ok(text.trim().to_owned())
}

fn found(path: &Path, release: &str) -> PathBuf {
    match path.is_dir() {
        true => path.join(format!("{release}.btf")),
        false => path.to_owned(),
    }
}

/// An error if the file's name, or its kernel banner, names another release.
pub(crate) fn said(path: &Path, file: &File, release: &str) -> Result<(), String> {
    let named = path.display();
    let other = |says: &str| format!("{named} is for Linux {says}, but this is {release}");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if let Some(says) = release_in(&name).filter(|says| *says != release) {
        return Err(other(says));
    }
    let mut magic = [0; 4];
    let elf = file.read_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF";
    if !elf {
        return trust::bounded(path, file, MAX_BTF_BYTES);
    }
    match banner(file).map_err(|error| format!("{named}: {error}"))? {
        Some(says) if says != release => Err(other(&says)),
        _ => Ok(()),
    }
}

/// `5.4.0-72-generic.btf`, `vmlinux-5.4.0-72-generic`: the release in a name of this kind.
fn release_in(name: &str) -> Option<&str> {
    let bare = name.strip_prefix("vmlinux-");
    let says = bare.unwrap_or(name);
    let says = match says.strip_suffix(".btf") {
        Some(says) => says,
        None => bare?,
    };
    let number = says.split('.').next()?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (is_number && says.contains('.')).then_some(says)
}

/// The release in a kernel's banner (init/version.c: linux_banner), if the ELF file has one.
fn banner(file: &File) -> std::io::Result<Option<String>> {
    const BANNER: &[u8] = b"Linux version ";
    let mut file = BufReader::with_capacity(1 << 20, file);
    // Keep what may be the beginning of a banner for the next search.
    let mut text = Vec::new();
    loop {
        let more = file.by_ref().take(1 << 20).read_to_end(&mut text)?;
        if let Some(says) = banner_in(&text, BANNER) {
            return Ok(Some(says));
        }
        if more == 0 {
            return Ok(None);
        }
        text.drain(..text.len().saturating_sub(256));
    }
}

/// The word after the first banner that goes on with a number.
fn banner_in(text: &[u8], banner: &[u8]) -> Option<String> {
    let first = banner.first()?;
    let starts = text.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts
        .filter_map(|(at, _)| text.get(at..)?.strip_prefix(banner))
        .filter(|rest| rest.first().is_some_and(u8::is_ascii_digit))
        .find_map(|rest| {
            let mut words = rest.split(|&b| b == b' ');
            // A truncated one is searched again with what follows.
            let says = words.next().filter(|says| says.len() < rest.len())?;
            Some(String::from_utf8_lossy(says).into_owned())
        })
}

/// Whether the layout of tracepoint records is that of tracefs.
fn compare(types: &KernelTypes, events: &Path) -> Result<(), String> {
    let mut same = 0usize;
    for category in CATEGORIES {
        let directory = fs::read_dir(events.join(category));
        for event in directory.into_iter().flatten().flatten() {
            let event = event.file_name().to_string_lossy().into_owned();
            let Some(shown) = tracepoints::tracefs_fields(events, category, &event) else {
                continue;
            };
            let class = || types.fields(tracepoints::class_of(&event)?);
            let Some(described) = types.fields(&event).or_else(class) else {
                continue;
            };
            if !alike(&shown, &described) {
                return Err(format!(
                    "its layout of the record of {category}:{event} differs"
                ));
            }
            same = same.saturating_add(1);
        }
    }
    match same {
        MIN_RECORDS.. => Ok(()),
        _ => Err(format!(
            "it describes only {same} tracepoint records, too few to compare (a file reduced by bpftool does not work)"
        )),
    }
}

/// Compares the offset and size of every field. BTF prefixes the names of dynamic strings.
pub(crate) fn alike(shown: &[Field], described: &[Field]) -> bool {
    let bare = |name: &str| {
        let own = name.strip_prefix("__data_loc_");
        let own = own.or_else(|| name.strip_prefix("__rel_loc_"));
        own.unwrap_or(name).to_owned()
    };
    let is = |field: &Field| {
        let same = |t: &&Field| bare(&t.name) == field.name;
        let here = |t: &Field| (t.offset, t.size) == (field.offset, field.size);
        described.iter().find(same).is_some_and(here)
    };
    shown.len() == described.len() && shown.iter().all(is)
}

/// Whether sockets are as large as those that the kernel allocates (not known in all configurations).
fn sizes(types: &KernelTypes) -> Result<(), String> {
    for (name, cache) in CACHES {
        let size = fs::read_to_string(format!("/sys/kernel/slab/{cache}/object_size"));
        let size = size.ok().and_then(|text| text.trim().parse::<usize>().ok());
        let (Some(size), Some(described)) = (size, types.size_of(name)) else {
            continue;
        };
        if size != described {
            return Err(format!(
                "its struct {name} has {described} bytes, the kernel's has {size}"
            ));
        }
    }
    Ok(())
}

/// Checks the user's type information on a kernel that uses its own.
///
/// # Errors
/// If it is not BTF, or does not match this kernel.
pub(crate) fn check_unused(file: &Path) -> Result<()> {
    let events = tracefs::tracefs().ok();
    checked(file, events.as_deref()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_name_may_hold_release() {
        for (name, says) in [
            ("5.4.0-72-generic.btf", Some("5.4.0-72-generic")),
            ("vmlinux-6.1.0-13-amd64", Some("6.1.0-13-amd64")),
            ("vmlinux-6.1.0-13-amd64.btf", Some("6.1.0-13-amd64")),
            ("vmlinux", None),
            ("vmlinux.btf", None),
            ("my.btf", None),
            ("20240101.btf", None),
            ("5.4.0-72-generic.txt", None),
        ] {
            assert_eq!(release_in(name), says, "{name}");
        }
    }

    #[test]
    fn banner_holds_release() {
        let text = b"Linux version %s\0 ... Linux version 5.4.0-72-generic (buildd@x) #80";
        let says = banner_in(text, b"Linux version ");
        assert_eq!(says.as_deref(), Some("5.4.0-72-generic"));
        assert_eq!(banner_in(b"Linux version 5", b"Linux version "), None);
        crate::abi::noise::damage(text, 5000, |text| {
            banner_in(text, b"Linux version ");
            release_in(&String::from_utf8_lossy(text));
        });
    }

    #[test]
    fn records_match_if_all_fields_match() {
        let field = |name: &str, offset, size| Field {
            name: name.into(),
            kind: "int".into(),
            offset,
            size,
            signed: false,
        };
        let shown = [field("skaddr", 8, 8), field("name", 16, 4)];
        let described = [field("skaddr", 8, 8), field("__data_loc_name", 16, 4)];
        assert!(alike(&shown, &described));
        assert!(!alike(&shown, &described[..1]));
        assert!(!alike(
            &shown,
            &[field("skaddr", 8, 8), field("name", 20, 4)]
        ));
        assert!(!alike(
            &shown,
            &[field("skaddr", 8, 4), field("name", 16, 4)]
        ));
    }
}
