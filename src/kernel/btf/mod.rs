// SPDX-License-Identifier: MIT OR Apache-2.0
//! Type information (BTF): the running kernel's, mapped and looked through once per start.
//!
//! libbpf searches all of the kernel's types (150,000) for each type that a program reads, and again for each question.
//! Here one pass answers our own questions and finds what libbpf needs ([`subset`]).

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub(crate) mod file;
pub(crate) mod subset;
pub(crate) mod types;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;

use self::types::{Kind, Types};
use crate::kernel::problem::KERNEL_BTF;

static KERNEL: Mutex<Option<Arc<Types>>> = Mutex::new(None);

/// The kernel's types, `None` if it has none or they are damaged. They stay in memory until [`forget`].
pub(crate) fn kernel() -> Option<Arc<Types>> {
    let mut kept = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.is_none() {
        *kept = Types::new(Bytes::of_kernel().ok()?).map(Arc::new);
    }
    kept.clone()
}

/// Frees them: half a megabyte of positions, and where the kernel cannot map its types (before 6.16) a copy of these.
pub(crate) fn forget() {
    *KERNEL.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Whether the kernel has this type.
pub(crate) fn has(kind: Kind, name: &str) -> bool {
    kernel().is_some_and(|types| types.find(kind, name).is_some())
}

/// Whether the kernel's types have a struct with this member.
pub(crate) fn has_field(of: &str, member: &str) -> bool {
    kernel().is_some_and(|types| {
        let found = types.find(Kind::Struct, of);
        found.is_some_and(|(_, found)| {
            let mut members = found.tail::<3>();
            members.any(|[name, ..]| types.name(name) == member.as_bytes())
        })
    })
}

/// A file's contents.
pub(crate) enum Bytes {
    Mapped(NonNull<libc::c_void>, usize),
    Copied(Vec<u8>),
}

// SAFETY: the mapping is read-only and private, and belongs to nobody else.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// Of the kernel's types: mapped, which is possible since 6.16 (kernel/bpf/sysfs_btf.c: btf_sysfs_vmlinux_mmap), or
    /// else read, 4 KiB at a time.
    fn of_kernel() -> io::Result<Self> {
        let mut file = File::open(KERNEL_BTF)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        // SAFETY: a new mapping of a file that the kernel does not change.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(Self::Mapped(at, size)),
            _ => {
                let mut bytes = Vec::with_capacity(size.saturating_add(1));
                file.read_to_end(&mut bytes)?;
                Ok(Self::Copied(bytes))
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: so many bytes are mapped as long as `self` lives.
            Self::Mapped(at, size) => unsafe {
                std::slice::from_raw_parts(at.as_ptr().cast(), *size)
            },
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Self::Mapped(at, size) = self {
            // SAFETY: mapped by `of_kernel`, and nothing refers to it any more.
            unsafe { libc::munmap(at.as_ptr(), *size) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::has_types;

    #[test]
    fn kernel_has_its_types() {
        if has_types() {
            assert!(has(Kind::Struct, "tcp_sock"));
            assert!(has(Kind::Typedef, "btf_trace_sched_switch"));
            assert!(!has(Kind::Union, "tcp_sock"));
            assert!(!has(Kind::Struct, "tcp_soc"));
            assert!(!has(Kind::Struct, "tcp_sock_"));
        }
    }

    #[test]
    fn mapped_and_read_are_the_same() {
        if has_types() {
            let mapped = Bytes::of_kernel().unwrap();
            assert_eq!(*mapped, std::fs::read(KERNEL_BTF).unwrap());
        }
    }
}
