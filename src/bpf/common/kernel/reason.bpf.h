/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reasons for which the kernel throws a packet away (include/net/dropreason-core.h), and which of them are passed over. */
#ifndef TCPTOOLS_REASON_BPF_H
#define TCPTOOLS_REASON_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

enum { MAX_REASONS = 256 };

const volatile bool has_reason = false; /* kfree_skb has its third argument (5.17) */
const volatile bool has_rx_sk = false;  /* and its fourth (6.11) */
/* Reasons that are passed over, a bit each; whether those that have no bit are. */
const volatile __u64 hidden[MAX_REASONS / 64] = {};
const volatile bool hides_others = false;

static __always_inline bool is_hidden(__u32 reason)
{
	if (reason >= MAX_REASONS)
		return hides_others;
	__u32 word = reason >> 6;
	barrier_var(word); /* or the compiler leaves out the mask, which the verifier needs */
	return hidden[word & (MAX_REASONS / 64 - 1)] >> (reason & 63) & 1;
}

#endif
