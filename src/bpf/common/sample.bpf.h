/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sampling of events that come per packet or per read: --every, --interval, --changes. Decides in the kernel, after
 * the filters. The tool keeps a struct sample in its state per socket.
 */
#ifndef TCPTOOLS_SAMPLE_BPF_H
#define TCPTOOLS_SAMPLE_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

/* Per socket; zero at first. */
struct sample {
	__u64 last_ns; /* the event that was shown last; 0: none was */
	__u64 value;   /* what --changes compared then */
	__u32 passed;  /* events since then that --every let pass */
	__u32 pad;
};

const volatile __u64 sample_interval_ns = 0; /* 0: no limit */
const volatile __u32 sample_every = 1;
const volatile bool sample_changes = false;

/* Whether this event is shown; if so, remembers it. `value` is what --changes looks at. */
static __always_inline bool sample_due(struct sample *sample, __u64 now_ns, __u64 value)
{
	bool first = !sample->last_ns;

	if (!first) {
		if (sample_changes && value == sample->value)
			return false;
		if (sample_interval_ns && now_ns - sample->last_ns < sample_interval_ns)
			return false;
		if (sample_every > 1 && ++sample->passed < sample_every)
			return false;
	}
	sample->last_ns = now_ns;
	sample->value = value;
	sample->passed = 0;
	return true;
}

#endif
