// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a run's records come from: a ring buffer, or, on kernels before 5.8, a perf buffer for each CPU.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{
    ErrorKind, MapCore, MapHandle, MapType, Object, RingBuffer, RingBufferBuilder, libbpf_sys,
};

use crate::clock::monotonic_ns;

/// What ends a call of libbpf's early.
const CANCELLED: i32 = (nix::errno::Errno::ECANCELED as i32).wrapping_neg();

/// Records that are taken at a time: some milliseconds' work.
pub const BATCH: usize = 4096;

/// The records that the kernel half has written to its map `events`.
pub enum Source<'r> {
    /// In one order for all CPUs.
    Ring(RingBuffer<'r>),
    /// In an order of its own for each CPU.
    Perf(Box<Perf<'r>>),
}

impl<'r> Source<'r> {
    /// `stop` gets each record, and says whether to leave the rest for later. `bytes`: of all buffers together.
    ///
    /// # Errors
    /// When the object has no such map, or memory is short.
    pub fn of(
        object: &Object,
        bytes: u32,
        mut stop: impl FnMut(&[u8]) -> bool + 'r,
    ) -> Result<Self> {
        let events = object.maps().find(|m| m.name() == "events");
        let events = events.context("no buffer")?;
        if events.map_type() == MapType::PerfEventArray {
            return Ok(Self::Perf(Perf::new(&events, bytes, Box::new(stop))?));
        }
        let mut builder = RingBufferBuilder::new();
        builder.add(
            &events,
            move |record| if stop(record) { CANCELLED } else { 0 },
        )?;
        Ok(Self::Ring(builder.build()?))
    }

    /// Readable when enough waits to be worth a look before the clock says so.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            // SAFETY: the ring buffer owns the descriptor and outlives the borrow.
            Self::Ring(ring) => unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) },
            Self::Perf(perf) => perf.fd(),
        }
    }

    /// Takes what is there, but not for ever: records may come as fast as they are taken, while a deadline passes and
    /// rows wait to be written. Whether more may be there. A record that asks to stop ends the call early; what is left
    /// is taken by the next one.
    pub fn consume(&self) -> bool {
        match self {
            Self::Ring(ring) => {
                let taken = ring.consume_raw_n(BATCH);
                taken >= BATCH as i32 || taken == CANCELLED
            }
            Self::Perf(perf) => perf.consume(),
        }
    }

    /// As [`Self::consume`], when nothing is written any more: takes all, unless a record asks to stop.
    pub fn drain(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.consume_raw() == CANCELLED,
            Self::Perf(perf) => perf.drain(),
        }
    }
}

/// A record, as words: what the perf buffer has is not aligned.
type Words = Box<[u64]>;

type Stop<'r> = Box<dyn FnMut(&[u8]) -> bool + 'r>;

/// Each record begins with it.
fn time_of(record: &Words) -> u64 {
    record.first().copied().unwrap_or(0)
}

/// Perf buffers, whose records are put into one order by the monotonic time that each begins with.
pub struct Perf<'r> {
    buffer: NonNull<libbpf_sys::perf_buffer>,
    /// Shared with libbpf, which keeps its address: a box of our own could not be moved meanwhile.
    came: Rc<RefCell<Vec<Words>>>,
    /// When the reader looked before the last time: every record of an earlier time has come since.
    looked_ns: Cell<u64>,
    /// Of what is left, that of a time until then is in order.
    complete_ns: Cell<u64>,
    stop: RefCell<Stop<'r>>,
}

impl<'r> Perf<'r> {
    fn new(map: &impl MapCore, bytes: u32, stop: Stop<'r>) -> Result<Box<Self>> {
        let cpus = libbpf_rs::num_possible_cpus()? as u32;
        let page = 4096.max(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(0));
        let each = bytes
            .checked_div(cpus)
            .unwrap_or(bytes)
            .next_power_of_two()
            .max(64 * 1024);
        let pages = (each as usize).div_ceil(page as usize);
        let came = Rc::<RefCell<Vec<Words>>>::default();
        let opts = libbpf_sys::perf_buffer_opts {
            sz: size_of::<libbpf_sys::perf_buffer_opts>() as libbpf_sys::size_t,
            // A wake-up per so many records: a quarter of the buffer at the least. Otherwise the clock wakes.
            sample_period: each / 4 / SAMPLE_BYTES,
            ..Default::default()
        };
        let context = Rc::as_ptr(&came).cast_mut().cast::<c_void>();
        // SAFETY: the map is a perf event array (see `Source::of`), `opts` is as large as it says, and `came`, which
        // `take` gets as its context, lives as long as the buffer: both belong to the same struct.
        let buffer = unsafe {
            libbpf_sys::perf_buffer__new(
                map.as_fd().as_raw_fd(),
                pages as libbpf_sys::size_t,
                Some(take),
                None,
                context,
                &raw const opts,
            )
        };
        let error = std::io::Error::last_os_error();
        let buffer = NonNull::new(buffer).ok_or(error);
        Ok(Box::new(Self {
            buffer: buffer.context("no perf buffer")?,
            came,
            looked_ns: Cell::new(0),
            complete_ns: Cell::new(0),
            stop: RefCell::new(stop),
        }))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the buffer is valid as long as `self`, and owns the descriptor.
        unsafe { BorrowedFd::borrow_raw(libbpf_sys::perf_buffer__epoll_fd(self.buffer.as_ptr())) }
    }

    /// Whatever is older than the look before this one is complete, on all CPUs. What is left of that is handed on
    /// before there is another look, so that no more is kept here than the buffers hold.
    fn consume(&self) -> bool {
        if self.hand_on(self.complete_ns.get()) {
            return true;
        }
        let now = monotonic_ns();
        self.fetch();
        self.complete_ns.set(self.looked_ns.replace(now));
        self.hand_on(self.complete_ns.get())
    }

    fn drain(&self) -> bool {
        if self.complete_ns.replace(u64::MAX) != u64::MAX {
            self.fetch();
        }
        self.hand_on(u64::MAX)
    }

    fn fetch(&self) {
        // SAFETY: the buffer is valid as long as `self`; `take` alone runs meanwhile.
        unsafe { libbpf_sys::perf_buffer__consume(self.buffer.as_ptr()) };
        // A stable sort: records of one CPU keep their order.
        self.came.borrow_mut().sort_by_key(time_of);
    }

    /// Whether more of that time is left.
    fn hand_on(&self, until_ns: u64) -> bool {
        let mut came = self.came.borrow_mut();
        let mut stop = self.stop.borrow_mut();
        let complete = came.partition_point(|record| time_of(record) <= until_ns);
        let mut taken = 0usize;
        for record in came.iter().take(complete) {
            taken = taken.saturating_add(1);
            // SAFETY: the bytes of a live slice of integers, seen for its length.
            let bytes = unsafe {
                std::slice::from_raw_parts(record.as_ptr().cast::<u8>(), size_of_val(&**record))
            };
            if stop(bytes) {
                break;
            }
        }
        came.drain(..taken);
        taken < complete
    }
}

impl Drop for Perf<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `perf_buffer__new`, and freed only here.
        unsafe { libbpf_sys::perf_buffer__free(self.buffer.as_ptr()) };
    }
}

/// About what a record takes in a perf buffer.
const SAMPLE_BYTES: u32 = 256;

/// libbpf calls it for each record, from within `perf_buffer__consume`.
unsafe extern "C" fn take(context: *mut c_void, _cpu: i32, data: *mut c_void, size: u32) {
    // SAFETY: the context is `Perf::came`, which outlives the buffer.
    let came = unsafe { &*context.cast::<RefCell<Vec<Words>>>() };
    // The kernel pads records, which are whole words, by half a word (perf_event_output: raw samples).
    // SAFETY: libbpf hands over `size` readable bytes.
    let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size as usize) };
    let word = |chunk: &[u8]| u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
    let words: Words = bytes.chunks_exact(8).map(word).collect();
    if !words.is_empty() {
        came.borrow_mut().push(words);
    }
}

/// Whether this kernel has no ring buffers (before 5.8), or they are to be done without. One that may not be made for
/// want of privileges is none that is lacking.
pub fn lacks_ring_buffer() -> bool {
    if crate::record::done_without("ringbuf") {
        return true;
    }
    let opts = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let made = MapHandle::create(MapType::RingBuf, None::<&str>, 0, 0, 64 * 1024, &opts);
    made.is_err_and(|e| e.kind() == ErrorKind::InvalidInput)
}

/// Makes the map `events` a perf event array, one entry per CPU.
///
/// # Errors
/// When the object has no such map, or is loaded already.
pub fn use_perf(object: &mut libbpf_rs::OpenObject) -> Result<()> {
    let mut found = false;
    for mut map in object.maps_mut().filter(|m| m.name() == "events") {
        found = true;
        map.set_type(MapType::PerfEventArray)?;
        map.set_key_size(4)?;
        map.set_value_size(4)?;
        // libbpf puts the number of CPUs here.
        map.set_max_entries(0)?;
    }
    ensure!(found, "no buffer");
    Ok(())
}
