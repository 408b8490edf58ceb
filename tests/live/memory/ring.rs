// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring buffer of a running command, seen from outside: filled with a byte, and its records as they lie in memory.

use std::{
    fs,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, ProgramInput};
use nix::libc;

use crate::{
    tool::Tool,
    wait::{self, PATIENCE},
};

tcptools::skeleton!("poison");

/// include/uapi/linux/bpf.h: BPF_MAP_TYPE_RINGBUF, BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ.
const RINGBUF: &str = "27";
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: usize = 8;
/// What a record of `poison.bpf.c` takes.
const FILLED: u32 = 1024;

/// The map, and a view of it: the producer's position, and the data behind it (kernel/bpf/ringbuf.c).
pub struct Ring {
    map: MapHandle,
    view: NonNull<u8>,
    page: usize,
    size: usize,
}

impl Ring {
    /// The only one that the process has open.
    pub fn of(tool: &Tool) -> Result<Self> {
        let map = MapHandle::from_map_id(id(tool.child.id())?)?;
        let (page, size) = (page_size(), map.max_entries() as usize);
        // SAFETY: a new read-only mapping of the map, which is as large.
        let view = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page + 2 * size,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                page as i64,
            )
        };
        ensure!(view != libc::MAP_FAILED, "the ring buffer cannot be mapped");
        let view = NonNull::new(view.cast()).context("no view")?;
        Ok(Self {
            map,
            view,
            page,
            size,
        })
    }

    /// Overwrites all of it, while the command reads; whoever sends records meanwhile must be quiet.
    pub fn fill(&self, byte: u8) -> Result<()> {
        let mut storage = MaybeUninit::uninit();
        let mut open = bpf::PoisonSkelBuilder::default().open(&mut storage)?;
        let map = open.open_object_mut().maps_mut();
        for mut map in map.filter(|map| map.name() == "events") {
            map.reuse_fd(self.map.as_fd())?;
        }
        let mut skel = open.load()?;
        let data = skel.maps.bss_data.as_deref_mut().context("no .bss")?;
        data.poison = u64::from_ne_bytes([byte; 8]);
        // Its own records are shorter than what they leave: once around is not enough if others are between them.
        for _ in 0..2 * self.map.max_entries() / FILLED {
            wait::until("room in the ring buffer", PATIENCE, || {
                let run = skel.progs.fill.test_run(ProgramInput::default())?;
                Ok((run.return_value == 1).then_some(()))
            })?;
        }
        Ok(())
    }

    /// How much has been written in all.
    pub fn end(&self) -> u64 {
        // SAFETY: the first page of the view begins with that number, aligned, which others change atomically.
        unsafe { self.view.cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }

    /// The records since then, as they were sent.
    pub fn since(&self, begin: u64) -> Result<Vec<Vec<u8>>> {
        let (mut at, end) = (begin, self.end());
        ensure!(
            end - begin <= self.size as u64,
            "the ring buffer has been overwritten"
        );
        let mut records = Vec::new();
        while at < end {
            let place = at as usize & (self.size - 1);
            // SAFETY: the data is mapped twice in a row behind the first page, so that a record is in one piece.
            let data = unsafe {
                std::slice::from_raw_parts(self.view.as_ptr().add(self.page + place), self.size)
            };
            let word = data.first_chunk().map(|&word| u32::from_ne_bytes(word));
            let word = word.context("no header")?;
            ensure!(word & BUSY == 0, "a record is still being written");
            let len = (word & !DISCARD) as usize;
            if word & DISCARD == 0 {
                records.push(data.get(HEADER..HEADER + len).context("too long")?.to_vec());
            }
            at += (HEADER + len).next_multiple_of(8) as u64;
        }
        Ok(records)
    }
}

impl Ring {
    /// What the next records will be written over.
    pub fn behind(&self, len: usize) -> &[u8] {
        let place = self.end() as usize & (self.size - 1);
        // SAFETY: as above; the test's traffic is over.
        unsafe { std::slice::from_raw_parts(self.view.as_ptr().add(self.page + place), len) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped here, and no reference to it is left.
        unsafe { libc::munmap(self.view.as_ptr().cast(), self.page + 2 * self.size) };
    }
}

fn page_size() -> usize {
    // SAFETY: asks for a number.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// The id of a process's ring buffer, as its descriptors show it.
fn id(pid: u32) -> Result<u32> {
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let value = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
        };
        if value("map_type") == Some(RINGBUF) {
            return Ok(value("map_id").context("no id")?.parse()?);
        }
    }
    anyhow::bail!("no ring buffer")
}
