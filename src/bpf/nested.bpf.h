/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Changes of state that come while the program that handles them is at work on the same CPU: from an interrupt or, where
 * tracepoints can be preempted (7.x), from another task. The kernel does not start a program that is running there
 * already (kernel/trace/bpf_trace.c: __bpf_trace_run, since 6.2), but it starts another one: a twin. Both handle each
 * change, and the one that comes second finds it taken (state.bpf.h: change_taken), so that it does not matter who ran
 * when. What both were skipped for is lost; the kernel counts the skips of each (src/skipped.rs).
 */
#ifndef TCPTOOLS_NESTED_BPF_H
#define TCPTOOLS_NESTED_BPF_H

#include "tcp.bpf.h"

/*
 * Makes `name` and its twin of `handle(sk, old, new)`, at sock:inet_sock_set_state. Kernels without socket storage skip
 * nothing.
 */
#define SET_STATE_PROGRAMS(name, handle)                                                                               \
	SEC("tp_btf/inet_sock_set_state")                                                                              \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                                          \
	{                                                                                                              \
		handle(sk, old, new);                                                                                  \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("tp_btf/inet_sock_set_state")                                                                              \
	int BPF_PROG(name##_nested, struct sock *sk, int old, int new)                                                 \
	{                                                                                                              \
		if (!config.lacks.sk_storage)                                                                          \
			handle(sk, old, new);                                                                          \
		return 0;                                                                                              \
	}

#endif
