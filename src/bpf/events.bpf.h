/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way to userspace, and when it is woken. */
#ifndef TCPTOOLS_EVENTS_BPF_H
#define TCPTOOLS_EVENTS_BPF_H

#include "filter.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024); /* userspace sets the real size; 64 KiB is a page multiple everywhere */
} events SEC(".maps");

static __always_inline void *event_reserve(__u64 size)
{
	void *event = bpf_ringbuf_reserve(&events, size, 0);

	if (!event)
		__sync_fetch_and_add(&counters.lost, 1);
	return event;
}

/*
 * A wake-up costs more than the event: only a filling buffer forces one, otherwise the reader looks by itself.
 *
 * The record that crosses a multiple of wake_bytes wakes the reader, so never more than that waits unannounced. Where
 * it lies tells this, and no helper need be asked: records follow each other without a gap, and wake_bytes, a power of
 * two, divides the buffer, of which a second mapping follows the first (kernel/bpf/ringbuf.c: bpf_ringbuf_area_alloc).
 */
static __always_inline bool wakes_reader(void *event, __u32 size)
{
	__u32 taken = BPF_RINGBUF_HDR_SZ + ((size + 7) & ~7U);
	__u64 place;

	/* A 32-bit move makes a number of a pointer; the verifier allows it to whoever may read the kernel's memory. */
	asm volatile("r1 = %[event]\n\tw1 = w1\n\t%[place] = r1" : [place] "=r"(place) : [event] "r"(event) : "r1");
	return (place & (config.wake_bytes - 1)) + taken >= config.wake_bytes;
}

/* `size`: what was reserved. */
static __always_inline void event_submit(void *event, __u32 size)
{
	bpf_ringbuf_submit(event, wakes_reader(event, size) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

#endif
