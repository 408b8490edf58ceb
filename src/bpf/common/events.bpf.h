/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The ring buffer to user space, and waking its reader. */
#ifndef TCPTOOLS_EVENTS_BPF_H
#define TCPTOOLS_EVENTS_BPF_H

#include "filter.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024); /* user space sets the size; 64 KiB is a multiple of every page size */
} events SEC(".maps");

static __always_inline void *event_reserve(__u64 size)
{
	void *event = bpf_ringbuf_reserve(&events, size, 0);

	if (!event)
		__sync_fetch_and_add(&counters.lost, 1);
	return event;
}

/* Set by the reader before it sleeps without a limit, cleared by the program that wakes it (src/session/buffer/). */
struct sleeper {
	__u32 asleep;
	__u32 pad[15]; /* a cache line of its own: every event reads it */
};
struct sleeper sleeper SEC(".data.sleeper") __attribute__((aligned(64))) = {};

/*
 * Wakes the reader if it has asked for it, once, by a record that it does not see. A buffer without room for that has
 * woken it: see wakes_reader().
 */
static __always_inline void reader_wake(volatile __u32 *asked)
{
	if (!*asked)
		return;
	void *bell = bpf_ringbuf_reserve(&events, 8, 0);
	if (!bell)
		return;
	*asked = 0;
	bpf_ringbuf_discard(bell, BPF_RB_FORCE_WAKEUP);
}

/*
 * Counts what is lost although the buffer has room, and has a reader that sleeps say so. The first loss wakes it; those
 * that follow do not, until it asks again.
 */
__attribute__((unused)) static __noinline void loss_count(__u64 *counter, __u64 n)
{
	__sync_fetch_and_add(counter, n);
	reader_wake(&counters.asks);
}

/*
 * A wake-up costs more than the event. So a reader that is awake looks by itself after a moment, or when the buffer
 * fills.
 *
 * A record that crosses a multiple of wake_bytes wakes the reader, so at most that much waits without a wake-up. The
 * address shows this without a helper: records are contiguous, and wake_bytes, a power of two, divides the buffer,
 * whose second mapping follows the first (kernel/bpf/ringbuf.c: bpf_ringbuf_area_alloc).
 */
static __always_inline bool wakes_reader(void *event, __u32 size)
{
	__u32 taken = BPF_RINGBUF_HDR_SZ + ((size + 7) & ~7U);
	__u64 place;

	/* A 32-bit move turns the pointer into a number, which needs the right to read kernel memory. */
	asm volatile("r1 = %[event]\n\tw1 = w1\n\t%[place] = r1" : [place] "=r"(place) : [event] "r"(event) : "r1");
	return (place & (config.wake_bytes - 1)) + taken >= config.wake_bytes;
}

/*
 * `size`: what was reserved.
 *
 * The first record wakes a reader that sleeps; those that follow do not. No record stays unseen: a program commits it
 * with a full barrier (bpf_ringbuf_commit: xchg) and then reads `asleep`; the reader sets `asleep`, has a full barrier,
 * and then looks into the buffer before it sleeps. One of the two sees the other. A program that finds `asleep` set
 * clears it before it wakes the reader, and the reader sets it again only before another such look; a clearing that
 * comes late is followed by a wake-up, too.
 */
static __always_inline void event_submit(void *event, __u32 size)
{
	bpf_ringbuf_submit(event, wakes_reader(event, size) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	reader_wake(&sleeper.asleep);
}

#endif
