/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For tests only (tests/live/memory/): fills the ring buffer of a running command with one byte, in records that its
 * reader passes over. What is found of it in a record later was not written by the program that sent it.
 */
#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024); /* the command's is used instead */
} events SEC(".maps");

/* With its header a record has 1 KiB. */
enum { WORDS = 127 };

__u64 poison = 0;

SEC("raw_tp")
int fill(void *ctx)
{
	__u64 *to = bpf_ringbuf_reserve(&events, WORDS * sizeof(*to), 0);

	if (!to)
		return 0;
	for (int i = 0; i < WORDS; i++)
		to[i] = poison;
	bpf_ringbuf_discard(to, BPF_RB_FORCE_WAKEUP);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
