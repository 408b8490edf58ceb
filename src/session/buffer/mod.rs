// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records from the kernel: in a ring buffer or, before Linux 5.8, in a perf buffer per CPU.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod batch;
pub mod shared;

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys::{self, size_t};
use libbpf_rs::{MapCore, MapType, Object};

use nix::libc;

use self::batch::Batch;
use self::shared::Shared;
use crate::kernel::clock::{boot_ns, monotonic_ns};

/// Records copied at a time: few enough to stay in the CPU cache until they are taken.
const CHUNK: usize = 64;

/// Approximate size of a record in a perf buffer.
const SAMPLE_BYTES: u32 = 256;

/// The records of the map `events`, copied in batches.
pub struct Buffer {
    kernel: Kernel,
    /// libbpf has its address, for [`push`], and uses it while this side waits for it in [`Self::fetch`].
    batch: Rc<UnsafeCell<Batch>>,
    /// See [`Self::hand_over_late`].
    late: Option<Late>,
}

/// How long records are kept, and who sees them when they come.
struct Late {
    time: Duration,
    seen: fn(&[u8]),
}

impl Late {
    /// Events up to then are old enough, in boot time.
    fn until(&self) -> Duration {
        Duration::from_nanos(boot_ns()).saturating_sub(self.time)
    }
}

enum Kernel {
    /// Ordered over all CPUs.
    Ring {
        buffer: NonNull<libbpf_sys::ring_buffer>,
        /// `sleeper` of `bpf/common/events.bpf.h`: whether the next record is to wake the reader.
        asleep: Option<Shared<u32>>,
    },
    /// Ordered per CPU: merged by the monotonic time at the start of each record.
    Perf {
        buffer: NonNull<libbpf_sys::perf_buffer>,
        /// The time of the last read: by the next read, every earlier record has arrived.
        looked_ns: u64,
    },
}

impl Buffer {
    /// `bytes`: of the perf buffers of all CPUs together.
    ///
    /// # Errors
    /// When the object has no such map, or memory is short.
    pub fn new(object: &Object, bytes: u32) -> Result<Self> {
        let events = object.maps().find(|m| m.name() == "events");
        let events = events.context("no buffer")?;
        let batch = Rc::<UnsafeCell<Batch>>::default();
        let context = batch.get().cast();
        let kernel = match events.map_type() {
            MapType::PerfEventArray => Kernel::perf(events.as_fd(), bytes, context),
            _ => {
                let asleep = Shared::from_object(object, ".data.sleeper");
                Kernel::ring(events.as_fd(), asleep, context)
            }
        };
        Ok(Self {
            kernel: kernel?,
            batch,
            late: None,
        })
    }

    /// Keeps records of a ring buffer until this time after their event. `seen` is called with each when it comes.
    pub fn hand_over_late(&mut self, time: Duration, seen: fn(&[u8])) {
        self.late = Some(Late { time, seen });
    }

    /// When a record that is kept may be taken.
    pub fn due(&self) -> Option<Instant> {
        let late = self.late.as_ref()?;
        // SAFETY: libbpf uses the batch only while `fetch` waits for it.
        let first = unsafe { &*self.batch.get() }.kept()?;
        Instant::now().checked_add(Duration::from_nanos(first).saturating_sub(late.until()))
    }

    /// Whether [`Self::fd`] tells of the first record after [`Self::say_asleep`]. A perf buffer's descriptor tells of
    /// every so many records or, at a wake-up each, of every one: the count is set when it is made.
    pub fn can_wake(&self) -> bool {
        self.asleep().is_some()
    }

    /// Tells the kernel half whether the next record is to wake the reader. Before it sleeps, it must look for records
    /// once more.
    pub fn say_asleep(&self, asleep: bool) {
        if let Some(word) = self.asleep() {
            word.store(asleep.into(), Ordering::SeqCst);
            // The store is to be seen before the buffer is looked at.
            fence(Ordering::SeqCst);
        }
    }

    /// Whether there is nothing to wait for: all records have been taken, and none is being written.
    pub fn is_empty(&self) -> bool {
        let Kernel::Ring { buffer, .. } = &self.kernel else {
            return true;
        };
        // SAFETY: the ring buffer is valid as long as `self`, and has one ring.
        unsafe {
            let ring = libbpf_sys::ring_buffer__ring(buffer.as_ptr(), 0);
            libbpf_sys::ring__avail_data_size(ring) == 0
        }
    }

    /// Whether the kernel half will still wake the reader.
    pub fn says_asleep(&self) -> bool {
        self.asleep()
            .is_some_and(|word| word.load(Ordering::SeqCst) != 0)
    }

    fn asleep(&self) -> Option<&AtomicU32> {
        let Kernel::Ring {
            asleep: Some(word), ..
        } = &self.kernel
        else {
            return None;
        };
        // SAFETY: mapped as long as the object, which outlives this; on both sides only whole words are read and written.
        Some(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }

    /// Readable when the kernel half has woken the reader, until [`Self::woken`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the buffer is valid as long as `self`, and owns the descriptor.
        unsafe {
            BorrowedFd::borrow_raw(match &self.kernel {
                Kernel::Ring { buffer, .. } => libbpf_sys::ring_buffer__epoll_fd(buffer.as_ptr()),
                Kernel::Perf { buffer, .. } => libbpf_sys::perf_buffer__epoll_fd(buffer.as_ptr()),
            })
        }
    }

    /// Takes note of a wake-up. Without this the descriptor would stay readable as long as there are records, also such
    /// as a program is still writing.
    pub fn woken(&self) {
        if let Kernel::Ring { .. } = self.kernel {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for the one event that is asked for.
            unsafe { libc::epoll_wait(self.fd().as_raw_fd(), &raw mut event, 1, 0) };
        }
    }

    /// The next record of those that were copied.
    pub fn take(&mut self) -> Option<&[u8]> {
        self.batch().take()
    }

    /// Copies a batch; returns whether more may follow. Call it when no record is left to take, to bound what is held
    /// here.
    pub fn fetch(&mut self) -> bool {
        self.batch().forget_taken();
        let known = self.batch().len();
        match &mut self.kernel {
            Kernel::Ring { buffer, .. } => {
                // SAFETY: the ring buffer is valid as long as `self`, and nothing else uses the batch meanwhile.
                let copied =
                    unsafe { libbpf_sys::ring_buffer__consume_n(buffer.as_ptr(), CHUNK as size_t) };
                match self.late.as_ref().map(|late| (late.until(), late.seen)) {
                    None => self.batch().release(),
                    Some((until, seen)) => {
                        self.batch().since(known).for_each(seen);
                        self.batch().release_until(until.as_nanos() as u64);
                    }
                }
                copied >= CHUNK as c_int
            }
            Kernel::Perf { buffer, looked_ns } => {
                let complete_ns = std::mem::replace(looked_ns, monotonic_ns());
                // SAFETY: as above.
                unsafe { libbpf_sys::perf_buffer__consume(buffer.as_ptr()) };
                self.batch().release_until(complete_ns);
                false
            }
        }
    }

    /// No more records are written: the next [`Self::fetch`] finds the rest.
    pub fn close(&mut self) {
        self.late = None;
        if let Kernel::Perf { looked_ns, .. } = &mut self.kernel {
            *looked_ns = u64::MAX;
        }
    }

    fn batch(&mut self) -> &mut Batch {
        // SAFETY: `self` is borrowed mutably, and libbpf is not at work.
        unsafe { &mut *self.batch.get() }
    }
}

impl Kernel {
    fn ring(map: BorrowedFd<'_>, asleep: Option<Shared<u32>>, batch: *mut c_void) -> Result<Self> {
        let map = map.as_raw_fd();
        // SAFETY: the map is a ring buffer, and the batch belongs to the struct that will have this.
        let ring = unsafe {
            libbpf_sys::ring_buffer__new(map, Some(push_sample), batch, std::ptr::null())
        };
        let error = std::io::Error::last_os_error();
        let buffer = NonNull::new(ring).ok_or(error).context("no ring buffer")?;
        let ring = Self::Ring { buffer, asleep };
        // libbpf's descriptor tells of records that are there; this makes it tell of wake-ups.
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        // SAFETY: both descriptors are open, and the event lives.
        let changed = unsafe {
            let epoll = libbpf_sys::ring_buffer__epoll_fd(buffer.as_ptr());
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, map, &raw mut event)
        };
        ensure!(
            changed == 0,
            "cannot wait for records: {}",
            std::io::Error::last_os_error()
        );
        Ok(ring)
    }

    fn perf(map: BorrowedFd<'_>, bytes: u32, batch: *mut c_void) -> Result<Self> {
        let cpus = libbpf_rs::num_possible_cpus()? as u32;
        let page = 4096.max(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(0));
        let each = bytes
            .checked_div(cpus)
            .unwrap_or(bytes)
            .next_power_of_two()
            .max(64 * 1024);
        let pages = (each as usize).div_ceil(page as usize);
        let opts = libbpf_sys::perf_buffer_opts {
            sz: size_of::<libbpf_sys::perf_buffer_opts>() as size_t,
            // Wake up per at least a quarter of the buffer. Every record would cost a wake-up each, and a program cannot
            // choose, so the reader polls.
            sample_period: each / 4 / SAMPLE_BYTES,
            ..Default::default()
        };
        // SAFETY: the map is a perf event array, `opts` is as large as it says, and the batch belongs to the struct that
        // will have this.
        let buffer = unsafe {
            libbpf_sys::perf_buffer__new(
                map.as_raw_fd(),
                pages as size_t,
                Some(push_of_cpu),
                None,
                batch,
                &raw const opts,
            )
        };
        let error = std::io::Error::last_os_error();
        let buffer = NonNull::new(buffer)
            .ok_or(error)
            .context("no perf buffer")?;
        Ok(Self::Perf {
            buffer,
            looked_ns: 0,
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // SAFETY: made by libbpf, and freed only here.
        unsafe {
            match self {
                Self::Ring { buffer, .. } => libbpf_sys::ring_buffer__free(buffer.as_ptr()),
                Self::Perf { buffer, .. } => libbpf_sys::perf_buffer__free(buffer.as_ptr()),
            }
        }
    }
}

/// What libbpf calls for each record of a ring buffer.
unsafe extern "C" fn push_sample(batch: *mut c_void, data: *mut c_void, size: size_t) -> c_int {
    // SAFETY: `batch` is that of the `Buffer`, which waits in `fetch`; libbpf hands over `size` readable bytes.
    unsafe {
        let record = std::slice::from_raw_parts(data.cast(), size as usize);
        (*batch.cast::<Batch>()).push(record);
    }
    0
}

/// The same for a perf buffer.
unsafe extern "C" fn push_of_cpu(batch: *mut c_void, _cpu: c_int, data: *mut c_void, size: u32) {
    // SAFETY: as it is for this function.
    unsafe { push_sample(batch, data, size.into()) };
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
