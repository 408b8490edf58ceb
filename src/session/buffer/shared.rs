// SPDX-License-Identifier: MIT OR Apache-2.0
//! Variables of the kernel half as shared memory: reading and writing them takes no system call and no privilege.

use std::ptr::NonNull;

use libbpf_rs::libbpf_sys::bpf_map__initial_value;
use libbpf_rs::{AsRawLibbpf, MapCore, Object};
use plain::Plain;

use crate::kernel::features;

/// A section of variables that both halves use. The object must outlive it.
pub struct Shared<T>(NonNull<T>);

impl<T: Plain> Shared<T> {
    /// The variable that is alone in this section of a loaded object; `None` if there is none, or the kernel does not
    /// share it (before 5.5).
    pub fn from_object(object: &Object, section: &str) -> Option<Self> {
        let map = object.maps().find(|map| map.name() == section)?;
        let flags = map.info().ok()?.info.map_flags;
        if flags & BPF_F_MMAPABLE == 0 || features::done_without("mmap") {
            return None;
        }
        let mut size = 0;
        // SAFETY: the map belongs to a loaded object; libbpf returns its mapping and the size of it.
        let data = unsafe {
            bpf_map__initial_value(map.as_libbpf_object().as_ptr(), &raw mut size).cast::<T>()
        };
        let whole = size as usize >= size_of::<T>() && data.is_aligned();
        NonNull::new(data).filter(|_| whole).map(Self)
    }

    /// As it is now.
    pub fn read(&self) -> T {
        // SAFETY: mapped, large enough and aligned, as `from_object` saw; any bytes are a value. The kernel writes it.
        unsafe { self.0.read_volatile() }
    }

    /// Where it lies.
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

/// include/uapi/linux/bpf.h
const BPF_F_MMAPABLE: u32 = 1 << 10;
