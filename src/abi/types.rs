// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types that kernel and user space share, generated from `src/bpf/support/shared.bpf.c`: nothing is written twice.

use plain::Plain;

pub use super::skeleton::types::{
    byte_counts, cgroup_path, cgroup_pattern, cidr, cidr_list, close_event, comm_list, config,
    counters, end, filter, filter_set, flow, group_bits, group_key, head, hist, id_list,
    limit_event, missing_features, name_list, numbers, owner, place, placed, port_set, range,
    range_list, read_event, reset_event, segment_event, trace_event, type_ids,
};

pub use super::enums::{PID_SOURCES, known, pid_source, trace_kind};

/// How many elements a list in the kernel half's configuration holds.
macro_rules! capacity {
    ($list:ty, $field:ident, $element:ty) => {
        (size_of::<$list>() - std::mem::offset_of!($list, $field)) / size_of::<$element>()
    };
}

/// Sockets that a table has room for, where their state does not lie in the sockets themselves.
pub const MAX_SOCKETS: u32 = 128 * 1024;
/// Ranges of process or user ids.
pub const MAX_RANGES: usize = capacity!(range_list, range, range);
/// Networks.
pub const MAX_CIDRS: usize = capacity!(cidr_list, cidr, cidr);
/// Namespaces or cgroups.
pub const MAX_IDS: usize = capacity!(id_list, id, u64);
/// Names of cgroups, of units and of containers.
pub const MAX_NAMES: usize = capacity!(name_list, name, cgroup_pattern);
/// Process names.
pub const MAX_COMMS: usize = capacity!(comm_list, comm, [u64; 2]);

// SAFETY: `repr(C)` structs of integers only, with explicit padding: every bit pattern is a value.
unsafe impl Plain for head {}
// SAFETY: as above.
unsafe impl Plain for config {}
// SAFETY: as above.
unsafe impl Plain for trace_event {}
// SAFETY: as above.
unsafe impl Plain for cgroup_path {}
// SAFETY: as above.
unsafe impl Plain for close_event {}
// SAFETY: as above.
unsafe impl Plain for limit_event {}
// SAFETY: as above.
unsafe impl Plain for read_event {}
// SAFETY: as above.
unsafe impl Plain for reset_event {}
// SAFETY: as above.
unsafe impl Plain for segment_event {}
// SAFETY: as above.
unsafe impl Plain for counters {}
// SAFETY: as above.
unsafe impl Plain for group_key {}
// SAFETY: as above.
unsafe impl Plain for hist {}
// SAFETY: as above.
unsafe impl Plain for end {}
// SAFETY: as above.
unsafe impl Plain for numbers {}
// SAFETY: as above.
unsafe impl Plain for place {}
// SAFETY: as above.
unsafe impl Plain for placed {}

/// A record of a tool, as it lies in the ring buffer.
///
/// # Safety
/// `repr(C)`, integers only, with explicit padding, and its first field is `struct head`: [`record!`](crate::record!) checks that.
pub unsafe trait Record: Plain + Copy {
    /// The part that every record begins with.
    fn head(&self) -> &head {
        // SAFETY: the implementor begins with a `head`, and lives as long as the reference.
        unsafe { &*std::ptr::from_ref(self).cast::<head>() }
    }

    /// Replaces the part that every record begins with.
    fn with_head(mut self, head: &head) -> Self {
        // SAFETY: as above; it is borrowed mutably.
        unsafe { *std::ptr::from_mut(&mut self).cast::<head>() = *head };
        self
    }
}

/// Makes a generated struct a [`Record`]: `record!(bpf::types::session, bpf::types::head)`.
#[macro_export]
macro_rules! record {
    ($record:ty, $head:ty) => {
        const _: () = assert!(
            std::mem::offset_of!($record, head) == 0
                && size_of::<$head>() == size_of::<$crate::abi::types::head>()
                && align_of::<$record>() == align_of::<$crate::abi::types::head>()
        );
        // SAFETY: generated from C, a `repr(C)` struct of integers only: every bit pattern is a value.
        unsafe impl plain::Plain for $record {}
        // SAFETY: as above, and its head comes first, as was just checked.
        unsafe impl $crate::abi::types::Record for $record {}
    };
}

/// The longest prefix of a kernel record that is a `T`, without a copy.
///
/// `None` when the record is shorter than `T` or not aligned for it: a record of another version of the program.
pub fn decode<T: Plain>(record: &[u8]) -> Option<&T> {
    plain::from_bytes(record).ok()
}

/// The records that an iterator wrote, one after the other.
pub fn decode_all<T: Plain + Default>(bytes: &[u8]) -> impl Iterator<Item = T> {
    bytes.chunks_exact(size_of::<T>()).filter_map(|chunk| {
        let mut record = T::default();
        plain::copy_from_bytes(&mut record, chunk).ok()?;
        Some(record)
    })
}

/// A name that the kernel has filled up with zeros.
pub fn trim_nul(name: &[u8]) -> &[u8] {
    name.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// What a record's `head.event` is called: the first name stands for what a newer program may send.
pub fn event_name(names: &[&'static str], event: u16) -> &'static str {
    let name = names.get(event as usize).or(names.first());
    name.copied().unwrap_or_default()
}

/// The bytes of a record that was made here, as the kernel half would have sent them.
pub fn bytes_of<T: Record>(record: &T) -> &[u8] {
    // SAFETY: a `Record` is integers only, with explicit padding, so all its bytes have values.
    unsafe { plain::as_bytes(record) }
}

/// A record that may end at `least` bytes, before its stack (`bpf/common/stack.bpf.h`): what is missing is zero.
///
/// `None` when it is shorter, or longer than a `T`.
pub fn decode_stack<T: Record + Default>(record: &[u8], least: usize) -> Option<T> {
    let mut whole = T::default();
    // SAFETY: a `Record` is integers only, so its bytes may be written one by one.
    let bytes = unsafe { plain::as_mut_bytes(&mut whole) };
    (record.len() >= least).then_some(())?;
    bytes.get_mut(..record.len())?.copy_from_slice(record);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_record_is_rejected() {
        let record = vec![0u64; size_of::<head>() / 8];
        // SAFETY: the bytes of a live vector of integers, seen for its length.
        let bytes =
            unsafe { std::slice::from_raw_parts(record.as_ptr().cast::<u8>(), record.len() * 8) };
        assert!(decode::<head>(bytes).is_some());
        assert!(decode::<head>(&bytes[..bytes.len() - 1]).is_none());
        assert!(decode::<head>(&bytes[1..]).is_none());
    }
}
