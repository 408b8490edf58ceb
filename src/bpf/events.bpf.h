/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way to userspace, and when it is woken. */
#ifndef TCPTOOLS_EVENTS_BPF_H
#define TCPTOOLS_EVENTS_BPF_H

#include "filter.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024); /* userspace sets the real size; 64 KiB is a page multiple everywhere */
} events SEC(".maps");

enum { WAKE_WINDOW = 4096 }; /* a few records: some are reserved at the same moment on other CPUs */

/*
 * The flags of a record that is submitted. A wake-up costs more than the event: only a filling buffer forces one,
 * otherwise the reader looks by itself.
 */
static __always_inline __u64 event_wakes(void)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	/* Once when the mark is passed, not for each event above it: a slow reader is awake already. */
	bool passed = waiting - config.wake_bytes < WAKE_WINDOW;

	return passed ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

#endif
