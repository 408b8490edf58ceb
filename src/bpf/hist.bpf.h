/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Histograms in the kernel, in powers of two; one for all, or one per remote address. Read by src/hist.rs.
 *
 * The table is bounded; what it has no room for is counted in counters.uncounted, which the reader tells.
 */
#ifndef TCPTOOLS_HIST_BPF_H
#define TCPTOOLS_HIST_BPF_H

#include "tcp.bpf.h"

enum { HIST_SLOTS = 40 };

struct hist_key {
	__u8 raddr[16]; /* as in struct flow; zero when there is one histogram for all */
	__u32 family;   /* 4 or 6; 0 when there is one for all */
	__u32 kind;     /* the tool's own enum */
};
EXPORT_TYPE(hist_key);

struct hist {
	__u64 slot[HIST_SLOTS]; /* slot n counts the values of n + 1 bits; the first one 0 and 1 */
	__u64 sum;
};
EXPORT_TYPE(hist);

/* One entry until userspace asks for more: a table that is not used takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct hist_key);
	__type(value, struct hist);
} hists SEC(".maps");

static const struct hist hist_empty = {};

static __always_inline __u32 log2_of(__u64 value)
{
	__u32 bits = 0;

	for (__u32 step = 32; step; step >>= 1) {
		if (value >> step) {
			value >>= step;
			bits += step;
		}
	}
	return bits;
}

/* `flow` NULL: one histogram for all. */
static __always_inline void hist_add(const struct flow *flow, __u32 kind, __u64 value)
{
	struct hist_key key = {.kind = kind};
	__u32 slot = log2_of(value);

	if (flow) {
		key.family = flow->family;
		__builtin_memcpy(key.raddr, flow->raddr, sizeof(key.raddr));
	}
	struct hist *hist = bpf_map_lookup_elem(&hists, &key);
	if (!hist) {
		bpf_map_update_elem(&hists, &key, &hist_empty, BPF_NOEXIST);
		hist = bpf_map_lookup_elem(&hists, &key);
	}
	if (!hist) {
		__sync_fetch_and_add(&counters.uncounted, 1);
		return;
	}
	if (slot >= HIST_SLOTS)
		slot = HIST_SLOTS - 1;
	__sync_fetch_and_add(&hist->slot[slot], 1);
	__sync_fetch_and_add(&hist->sum, value);
}

#endif
