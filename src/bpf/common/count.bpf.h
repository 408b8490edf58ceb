/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts in the kernel: one map entry per flow, process, cgroup or whatever is counted by, instead of a record per event.
 * Read by src/aggregate/counts.rs.
 *
 * The table is bounded; the excess is counted in counters.uncounted, which the reader reports.
 */
#ifndef TCPTOOLS_COUNT_BPF_H
#define TCPTOOLS_COUNT_BPF_H

#include "group.bpf.h"

/* One entry until user space sets the size: an unused table takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, __u64);
} counts SEC(".maps");

/* `n`: occurrences. */
static __always_inline void count_add(const struct group_key *key, __u64 n)
{
	__u64 *count = bpf_map_lookup_elem(&counts, key);
	if (!count) {
		if (!bpf_map_update_elem(&counts, key, &n, BPF_NOEXIST))
			return;
		count = bpf_map_lookup_elem(&counts, key); /* another CPU was first, or the table is full */
	}
	if (count)
		__sync_fetch_and_add(count, n);
	else
		loss_count(&counters.uncounted, n);
}

#endif
