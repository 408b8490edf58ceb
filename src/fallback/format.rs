// SPDX-License-Identifier: MIT OR Apache-2.0
//! Type information (BTF) of tracepoints' records, made of the running kernel's own description in tracefs.
//!
//! It is exact for this kernel, whatever was backported: `format` is printed from the struct that the kernel fills.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::libbpf_sys;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::kernel::diagnose;
use crate::kernel::problem::KERNEL_BTF;
use crate::kernel::tracepoints::{self, Field};
use crate::kernel::{btf, tracefs, trust};

/// The size of `struct btf_header` (include/uapi/linux/btf.h).
const HEADER: u32 = 24;

/// BTF under construction.
pub struct Types(NonNull<libbpf_sys::btf>);

impl Types {
    /// Without a type.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new() -> Result<Self> {
        // SAFETY: takes nothing; what it returns is ours.
        let btf = unsafe { libbpf_sys::btf__new_empty() };
        NonNull::new(btf).map(Self).context("no memory for BTF")
    }

    /// The types of a kernel, which records are to be added to.
    ///
    /// # Errors
    /// When there are none in the file.
    pub fn read(path: &Path) -> Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the path outlives the call; what it returns is ours.
        let btf = unsafe { libbpf_sys::btf__parse(path.as_ptr(), std::ptr::null_mut()) };
        let types = NonNull::new(btf).map(Self).context("no BTF")?;
        // libbpf (1.7) takes a shorter header, and writes behind it when something is added.
        let header = types.bytes().get(4..8).and_then(|len| len.try_into().ok());
        let whole = header.map(u32::from_ne_bytes) >= Some(HEADER);
        ensure!(whole, "no BTF");
        Ok(types)
    }

    /// Adds `struct record_<event>` with these fields.
    ///
    /// # Errors
    /// When a name cannot be C's, or memory is short.
    pub fn add_record(&mut self, event: &str, fields: &[Field]) -> Result<()> {
        let kinds = fields.iter().map(|field| self.add_type(field));
        let kinds = kinds.collect::<Result<Vec<_>>>()?;
        let size = fields.iter().map(end_of).max().unwrap_or(0);
        let name = CString::new(format!("record_{event}"))?;
        self.add(|btf| {
            // SAFETY: `btf` is valid, and the name outlives the call, which copies it.
            unsafe { libbpf_sys::btf__add_struct(btf, name.as_ptr(), size) }
        })?;
        for (field, kind) in fields.iter().zip(kinds) {
            let name = CString::new(field.name.as_str())?;
            let bits = field.offset.checked_mul(8).context("a field too far out")?;
            self.add(|btf| {
                // SAFETY: as above; the last type added is the struct.
                unsafe { libbpf_sys::btf__add_field(btf, name.as_ptr(), kind, bits, 0) }
            })?;
        }
        Ok(())
    }

    fn add_type(&mut self, field: &Field) -> Result<i32> {
        if field.kind.ends_with('*') && field.size as usize == size_of::<usize>() {
            // SAFETY: `btf` is valid; 0 is void.
            return self.add(|btf| unsafe { libbpf_sys::btf__add_ptr(btf, 0) });
        }
        let (each, count) = elements(field);
        let number = self.add_int(each, field.signed)?;
        if count == 1 && !field.kind.ends_with(']') {
            return Ok(number);
        }
        // SAFETY: `btf` is valid, and has the type that `number` is of.
        self.add(|btf| unsafe { libbpf_sys::btf__add_array(btf, number, number, count) })
    }

    /// Duplicate type names do no harm: only struct names are looked up.
    fn add_int(&mut self, size: u32, signed: bool) -> Result<i32> {
        const NAME: *const c_char = c"int".as_ptr();
        let encoding = if signed {
            libbpf_sys::BTF_INT_SIGNED
        } else {
            0
        } as i32;
        // SAFETY: `btf` is valid; the name is static.
        self.add(|btf| unsafe { libbpf_sys::btf__add_int(btf, NAME, size.into(), encoding) })
    }

    fn add(&mut self, add: impl FnOnce(*mut libbpf_sys::btf) -> i32) -> Result<i32> {
        let id = add(self.0.as_ptr());
        if id < 0 {
            let error = std::io::Error::from_raw_os_error(id.wrapping_neg());
            bail!("cannot describe a record's type: {error}");
        }
        Ok(id)
    }

    /// As a file would have it.
    pub fn bytes(&self) -> &[u8] {
        let mut size = 0;
        // SAFETY: `btf` is valid; what it returns lives until it changes, for which `self` must be borrowed mutably.
        unsafe {
            let data = libbpf_sys::btf__raw_data(self.0.as_ptr(), &raw mut size);
            match data.is_null() {
                true => &[],
                false => std::slice::from_raw_parts(data.cast(), size as usize),
            }
        }
    }
}

impl Drop for Types {
    fn drop(&mut self) {
        // SAFETY: ours, and freed only here.
        unsafe { libbpf_sys::btf__free(self.0.as_ptr()) };
    }
}

fn end_of(field: &Field) -> u32 {
    field.offset.saturating_add(field.size)
}

/// Size and number of a field's elements. A dimension may be an expression (`sizeof(...)`): then they are bytes.
fn elements(field: &Field) -> (u32, u32) {
    let dimension = field.kind.strip_suffix(']').and_then(|k| k.split_once('['));
    let Some((_, count)) = dimension else {
        return match field.size {
            1 | 2 | 4 | 8 => (field.size, 1),
            bytes => (1, bytes),
        };
    };
    match count.parse::<u32>().ok().filter(|&n| n > 0) {
        Some(count) if field.size.is_multiple_of(count) => {
            match field.size.checked_div(count).unwrap_or(0) {
                each @ ..=8 => (each, count),
                _ => (1, field.size),
            }
        }
        _ => (1, field.size),
    }
}

/// A file in memory, gone with this process, that libbpf reads by its path.
pub struct CustomBtf {
    file: File,
    absent: Vec<(String, &'static str)>,
}

impl CustomBtf {
    /// Describes the records of these tracepoints (`tcp:tcp_probe`), besides the types of a file given by the user.
    ///
    /// # Errors
    /// A sentence, when there is no tracefs or no such tracepoint, or the file is not of this kernel.
    pub fn new(tracepoints: &[&str], file: Option<&Path>) -> Result<Self> {
        let events = tracefs::tracefs()?;
        let mut types = match file {
            // The kernel's own types need no check.
            Some(path) if path == Path::new(KERNEL_BTF) => Types::read(path)?,
            Some(path) => {
                let file = btf::file::checked(path, Some(&events))?;
                Types::read(&trust::path_of(&file))?
            }
            None => Types::new()?,
        };
        let mut absent = Vec::new();
        for name in tracepoints {
            let (category, event) = name.split_once(':').context("no category")?;
            let fields = tracepoints::tracefs_fields(&events, category, event);
            let fields = fields.with_context(|| diagnose::tracepoint(name).to_string())?;
            types.add_record(event, &fields)?;
            let lacking = |wanted: &&&str| fields.iter().all(|f| f.name != **wanted);
            let missing = OPTIONAL.iter().filter(lacking);
            absent.extend(missing.map(|field| (event.to_owned(), *field)));
        }
        let mut file = File::from(memfd_create(c"tcptools-records", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(types.bytes())?;
        Ok(Self { file, absent })
    }

    /// Good as long as `self`.
    pub fn path(&self) -> PathBuf {
        trust::path_of(&self.file)
    }

    /// Whether an event's record has a field, one of those that some kernels lack.
    pub fn has(&self, event: &str, field: &str) -> bool {
        !self.absent.iter().any(|(e, f)| e == event && *f == field)
    }
}

/// Fields that commands can do without.
const OPTIONAL: [&str; 5] = ["err", "reason", "skaddr", "sock_cookie", "state"];

#[cfg(test)]
mod tests {
    use libbpf_rs::btf::Btf;
    use libbpf_rs::btf::types::{Array, Int, IntEncoding, MemberAttr, Ptr, Struct};

    use super::*;

    fn field(kind: &str, name: &str, offset: u32, size: u32, signed: bool) -> Field {
        let (name, kind) = (name.into(), kind.into());
        Field {
            name,
            kind,
            offset,
            size,
            signed,
        }
    }

    /// Read back by libbpf from its file, as when programs are loaded.
    #[test]
    fn btf_matches_tracefs_formats() {
        let fields = [
            field("const void *", "skaddr", 8, 8, false),
            field("int", "oldstate", 16, 4, true),
            field("__u8", "protocol", 30, 1, false),
            field("__u8[4]", "saddr", 31, 4, false),
            field("__u8[sizeof(struct sockaddr_in6)]", "blob", 35, 28, false),
            field("long[3]", "sysctl_mem", 64, 24, true),
        ];
        let mut types = Types::new().unwrap();
        types.add_record("first", &fields[..1]).unwrap();
        types.add_record("second", &fields).unwrap();
        let path = std::env::temp_dir().join(format!("tcptools-btf-{}", std::process::id()));
        std::fs::write(&path, types.bytes()).unwrap();
        let btf = Btf::from_path(&path);
        std::fs::remove_file(&path).unwrap();
        let btf = btf.unwrap();
        let record: Struct<'_> = btf.type_by_name("record_second").unwrap();
        let members: Vec<_> = record.iter().collect();
        for (member, field) in members.iter().zip(&fields) {
            assert_eq!(member.name.unwrap(), field.name.as_str());
            let MemberAttr::Normal { offset } = member.attr else {
                panic!("{field:?}")
            };
            assert_eq!(offset, field.offset * 8);
        }
        assert!(btf.type_by_id::<Ptr<'_>>(members[0].ty).is_some());
        let state: Int<'_> = btf.type_by_id(members[1].ty).unwrap();
        assert!(state.bits == 32 && matches!(state.encoding, IntEncoding::Signed));
        for (member, count, bits) in [(3, 4, 8), (4, 28, 8), (5, 3, 64)] {
            let array: Array<'_> = btf.type_by_id(members[member].ty).unwrap();
            let element = Int::try_from(array.contained_type()).unwrap();
            assert_eq!((array.capacity(), element.bits), (count, bits));
        }
        assert!(btf.type_by_name::<Struct<'_>>("record_first").is_some());
    }

    #[test]
    fn array_of_unknown_length_is_bytes() {
        assert_eq!(elements(&field("__u8[MAX]", "a", 0, 28, false)), (1, 28));
        assert_eq!(elements(&field("long[3]", "a", 0, 24, true)), (8, 3));
        assert_eq!(elements(&field("struct x", "a", 0, 12, false)), (1, 12));
        assert_eq!(elements(&field("__u16", "a", 0, 2, false)), (2, 1));
    }
}
