/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Histograms in the kernel, in eighths of powers of two; one for all, or one per group. Read by src/aggregate/histograms.rs.
 *
 * The table is bounded; the excess is counted in counters.uncounted, which the reader reports.
 */
#ifndef TCPTOOLS_HIST_BPF_H
#define TCPTOOLS_HIST_BPF_H

#include "buckets.bpf.h"
#include "group.bpf.h"

/* The middle of a bucket is within 1/16 of any value in it. Up to 2^34: nearly five hours in microseconds. */
enum { HIST_SUB_BITS = 3, HIST_MAX_EXPONENT = 34 };
enum { HIST_BUCKETS = BUCKET_COUNT(HIST_SUB_BITS, HIST_MAX_EXPONENT) };

struct hist {
	__u64 bucket[HIST_BUCKETS];
	__u64 sum;
	__u64 max; /* two CPUs at once may leave the lower one */
};
EXPORT_TYPE(hist);

/* One entry until user space sets the size: an unused table takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* rarely many of them are used */
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, struct hist);
} hists SEC(".maps");

static const struct hist hist_empty = {};

static __always_inline void hist_count(struct hist *hist, __u64 value)
{
	__u64 bucket = bucket_of(value, HIST_SUB_BITS, HIST_MAX_EXPONENT);

	barrier_var(bucket); /* the verifier of 5.10 loses the bound of a value that is copied between check and use */
	if (bucket < HIST_BUCKETS)
		__sync_fetch_and_add(&hist->bucket[bucket], 1);
	__sync_fetch_and_add(&hist->sum, value);
	if (value > hist->max)
		hist->max = value;
}

static __always_inline void hist_add(const struct group_key *key, __u64 value)
{
	struct hist *hist = bpf_map_lookup_elem(&hists, key);
	if (!hist) {
		bpf_map_update_elem(&hists, key, &hist_empty, BPF_NOEXIST);
		hist = bpf_map_lookup_elem(&hists, key);
	}
	if (hist)
		hist_count(hist, value);
	else
		loss_count(&counters.uncounted, 1);
}

#endif
