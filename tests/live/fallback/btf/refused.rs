// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are no BTF, or are not of this kernel.

use std::{ffi::CStr, fs, path::Path};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys;

use super::{Files, KERNEL_BTF, release};
use crate::{missing, tool};

/// A file that is none, or of another kernel: one sentence, and the exit code of a wrong argument.
pub fn refused() -> Result<()> {
    let files = Files::right()?;
    let own = format!("{}.btf", release()?);
    let bytes = fs::read(KERNEL_BTF)?;
    let elsewhere = Files::new()?;
    let cases = [
        (elsewhere.text(), "No such file"),
        (
            elsewhere.add("short.btf", &bytes[..bytes.len() / 2])?,
            "has no type information",
        ),
        (
            elsewhere.add("text.btf", b"struct sock { int a; };\n")?,
            "has no type information",
        ),
        (elsewhere.add("empty.btf", b"")?, "has no type information"),
        (
            elsewhere.add("5.4.0-72-generic.btf", &bytes)?,
            "is for Linux 5.4.0-72-generic",
        ),
        (
            elsewhere.add("vmlinux-5.4.0-72-generic", &bytes)?,
            "is for Linux 5.4.0-72-generic",
        ),
        (
            elsewhere.add("banner", b"\x7fELF Linux version 5.4.0-72-generic (x)")?,
            "is for Linux 5.4",
        ),
        (
            elsewhere.add("moved.btf", &moved(&files.directory.join(&own))?)?,
            "does not match this kernel: its layout of the record of tcp:tcp_",
        ),
        (elsewhere.add("few.btf", &few()?)?, "too few"),
    ];
    for (file, why) in &cases {
        for without in ["btf", "btf,ringbuf,mmap", ""] {
            let run = tool::run_without(without, "tcplife", &["--btf", file, "-d", "1ms"])?;
            let sentence = run.stderr.trim_end();
            let one = sentence.lines().count() == 1 && sentence.starts_with("tcplife: --btf: ");
            let right = run.status.code() == Some(2) && sentence.contains(why);
            ensure!(one && right, "{file}, without {without:?}: {run:?}");
        }
    }
    // With types of its own, the kernel does not need those of the file, which are right.
    for file in [
        files.text(),
        files.directory.join(own).to_string_lossy().into_owned(),
    ] {
        let run = tool::run("tcplife", &["--btf", &file, "-d", "1ms"])?;
        let quiet = run.said_nothing() == missing::programs();
        ensure!(run.status.success() && quiet, "{run:?}");
    }
    Ok(())
}

/// The same types, but for a record whose fields lie elsewhere.
fn moved(own: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(own)?;
    let types = Types::parse(own)?;
    let at = types.struct_at(c"trace_event_raw_tcp_event_sk", &bytes)?;
    // `struct btf_type`, then its members (name, type, offset in bits): the second one's offset.
    let offset = at + 12 + 12 + 8;
    let bits = u32::from_ne_bytes(bytes[offset..offset + 4].try_into()?);
    bytes[offset..offset + 4].copy_from_slice(&(bits + 64).to_ne_bytes());
    Ok(bytes)
}

/// Types of no kernel.
fn few() -> Result<Vec<u8>> {
    let types = Types::new()?;
    // SAFETY: the types are valid, and the name is static.
    unsafe { libbpf_sys::btf__add_int(types.0, c"int".as_ptr(), 4, 0) };
    Ok(types.bytes().to_vec())
}

struct Types(*mut libbpf_sys::btf);

impl Types {
    fn new() -> Result<Self> {
        // SAFETY: takes nothing; what it returns is ours.
        let types = unsafe { libbpf_sys::btf__new_empty() };
        ensure!(!types.is_null(), "no memory");
        Ok(Self(types))
    }

    fn parse(path: &Path) -> Result<Self> {
        let path = std::ffi::CString::new(path.to_string_lossy().as_bytes())?;
        // SAFETY: the path outlives the call; what it returns is ours.
        let types = unsafe { libbpf_sys::btf__parse(path.as_ptr(), std::ptr::null_mut()) };
        ensure!(!types.is_null(), "no BTF");
        Ok(Self(types))
    }

    fn bytes(&self) -> &[u8] {
        let mut size = 0;
        // SAFETY: the types are valid, and what is returned lives as long as they do, unchanged.
        unsafe {
            let data = libbpf_sys::btf__raw_data(self.0, &raw mut size);
            std::slice::from_raw_parts(data.cast(), size as usize)
        }
    }

    /// Where a struct is described in these types, as a file has them.
    fn struct_at(&self, name: &CStr, bytes: &[u8]) -> Result<usize> {
        const BTF_KIND_STRUCT: u32 = 4;
        // SAFETY: the types are valid, and the name outlives the call.
        let id =
            unsafe { libbpf_sys::btf__find_by_name_kind(self.0, name.as_ptr(), BTF_KIND_STRUCT) };
        let id = u32::try_from(id).context("no such record")?;
        // SAFETY: the id was found in them; its description lives as long as they do.
        let described = unsafe { *libbpf_sys::btf__type_by_id(self.0, id) };
        // SAFETY: integers only.
        let described: [u8; 12] = unsafe { std::mem::transmute(described) };
        let mut found = bytes
            .windows(12)
            .enumerate()
            .filter(|(_, w)| **w == described);
        let (at, _) = found.next().context("no description")?;
        Ok(at)
    }
}

impl Drop for Types {
    fn drop(&mut self) {
        // SAFETY: ours, and freed only here.
        unsafe { libbpf_sys::btf__free(self.0) };
    }
}
