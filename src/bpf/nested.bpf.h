/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Changes of state that come while the program that handles them is at work on the same CPU: from an interrupt or, where
 * tracepoints can be preempted (7.x), from another task. The kernel does not start a program that is running there
 * already (kernel/trace/bpf_trace.c: __bpf_trace_run, since 6.2), but it starts another one: a twin. All handle each
 * change, and the one that comes second finds it taken (state.bpf.h: change_taken), so that it does not matter who ran
 * when. What all were skipped for is lost; the kernel counts the skips of each (src/skipped.rs).
 *
 * An interrupt takes one twin. A task that is preempted in a program keeps that one busy on its CPU until it runs again,
 * and several can be, each in another one; so there are two more twins, loaded only where tracepoints can be preempted
 * (src/tracepoint.rs: can_be_preempted). Disabling preemption in the program would not help: a switch that is due comes
 * when it is enabled again, which is still in the program. When four tasks wait in the four programs at once, the next
 * change on that CPU is lost, and counted.
 */
#ifndef TCPTOOLS_NESTED_BPF_H
#define TCPTOOLS_NESTED_BPF_H

#include "tcp.bpf.h"

/* One of the programs of `handle(sk, old, new)`. Kernels without socket storage skip nothing, and need no twins. */
#define SET_STATE_TWIN(section, name, handle)                                                                          \
	SEC(section)                                                                                                   \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                                          \
	{                                                                                                              \
		if (!config.lacks.sk_storage)                                                                          \
			handle(sk, old, new);                                                                          \
		return 0;                                                                                              \
	}

/* Makes `name` and its twins of `handle(sk, old, new)`, at sock:inet_sock_set_state. */
#define SET_STATE_PROGRAMS(name, handle)                                                                               \
	SEC("tp_btf/inet_sock_set_state")                                                                              \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                                          \
	{                                                                                                              \
		handle(sk, old, new);                                                                                  \
		return 0;                                                                                              \
	}                                                                                                              \
	SET_STATE_TWIN("tp_btf/inet_sock_set_state", name##_nested, handle)                                            \
	SET_STATE_TWIN("?tp_btf/inet_sock_set_state", name##_nested_deep, handle)                                      \
	SET_STATE_TWIN("?tp_btf/inet_sock_set_state", name##_nested_deeper, handle)

#endif
