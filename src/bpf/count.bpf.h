/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counting per flow in the kernel: no record per occurrence, one map entry per flow. Read by src/count.rs.
 *
 * The table is bounded; what it has no room for is counted in counters.uncounted, which the reader tells.
 */
#ifndef TCPTOOLS_COUNT_BPF_H
#define TCPTOOLS_COUNT_BPF_H

#include "tcp.bpf.h"

struct count_key {
	struct flow flow; /* a part that the tool does not count by is zero */
	__u32 netns;
	__u32 kind; /* the tool's own enum */
};
EXPORT_TYPE(count_key);

/* One entry until userspace asks for more: a table that is not used takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct count_key);
	__type(value, __u64);
} counts SEC(".maps");

/* `by_lport`: count by the local port too, which for a client is another one each time. `n`: how many occurred. */
static __always_inline void count_flow(struct sock *sk, const struct flow *flow, bool by_lport, __u32 kind, __u64 n)
{
	struct count_key key = {.flow = *flow, .netns = netns_of(sk), .kind = kind};

	if (!by_lport)
		key.flow.lport = 0;
	__u64 *count = bpf_map_lookup_elem(&counts, &key);
	if (!count) {
		if (!bpf_map_update_elem(&counts, &key, &n, BPF_NOEXIST))
			return;
		count = bpf_map_lookup_elem(&counts, &key); /* another CPU was first, or the table is full */
	}
	__sync_fetch_and_add(count ? count : &counters.uncounted, n);
}

#endif
