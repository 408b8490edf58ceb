/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events that interrupt the program that handles such events. The kernel does not start a program
 * that is running on the same CPU already (kernel/trace/bpf_trace.c: __bpf_trace_run, since 6.2), but it starts another
 * one: a twin, which returns at once unless the first one was interrupted. A third level does not exist: TCP runs in
 * process context and in softirq. What falls into the few instructions around the flag is missed all the same; the
 * kernel counts that, and userspace takes off what the twin has handled (src/skipped.rs).
 */
#ifndef TCPTOOLS_NESTED_BPF_H
#define TCPTOOLS_NESTED_BPF_H

#include "tcp.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} running SEC(".maps");

static __always_inline __u64 *running_here(void)
{
	return bpf_map_lookup_elem(&running, (const void *)&config.zero);
}

/* Makes `name` and its twin of `handle(sk, old, new)`, at sock:inet_sock_set_state. */
#define SET_STATE_PROGRAMS(name, handle)                                                                               \
	SEC("tp_btf/inet_sock_set_state")                                                                              \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                                          \
	{                                                                                                              \
		__u64 *here = running_here();                                                                          \
		if (!here)                                                                                             \
			return 0;                                                                                      \
		*(volatile __u64 *)here = 1;                                                                           \
		handle(sk, old, new);                                                                                  \
		*(volatile __u64 *)here = 0;                                                                           \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("tp_btf/inet_sock_set_state")                                                                              \
	int BPF_PROG(name##_nested, struct sock *sk, int old, int new)                                                 \
	{                                                                                                              \
		__u64 *here = running_here();                                                                          \
		if (here && *(volatile __u64 *)here) {                                                                 \
			__sync_fetch_and_add(&counters.nested, 1);                                                     \
			handle(sk, old, new);                                                                          \
		}                                                                                                      \
		return 0;                                                                                              \
	}

#endif
