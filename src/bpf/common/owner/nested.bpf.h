/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Handles state changes that occur while the handling program runs on the same CPU: from an interrupt or, where
 * tracepoints are preemptible (7.x), from another task. The kernel does not start a program recursively
 * (kernel/trace/bpf_trace.c: __bpf_trace_run, since 6.2), but it does start another one: a backup program. Every
 * program handles each change, and the first one claims it (state.bpf.h: claim_change), so the order does not matter. A
 * change that all programs were skipped for is lost; the kernel counts the skips of each (src/session/skipped.rs).
 *
 * Nearly always the first program has just handled the change, and has left word of it: a backup leaves after one load.
 *
 * An interrupt needs one backup. A task preempted inside a program keeps it busy on that CPU until it runs again, and
 * several tasks may be preempted, each in a different program; so two more backups are loaded where tracepoints are
 * preemptible (src/kernel/tracepoints/arguments.rs: can_be_preempted). Disabling preemption in the program would not
 * help: a pending switch happens when preemption is enabled again, still inside the program. With four tasks preempted
 * in the four programs, the next change on that CPU is lost, and counted.
 */
#ifndef TCPTOOLS_NESTED_BPF_H
#define TCPTOOLS_NESTED_BPF_H

#include "tcp.bpf.h"

/* CPUs with a place of their own: with more, some share one, and a backup may have to look into the state. */
enum { HANDLED_PLACES = 256 };

/* The change that the first program handled last on a CPU. A cache line each. */
struct handled {
	volatile __u64 sk; /* 0: it handles one, or has handled none */
	volatile __u64 change;
	__u64 pad[6];
};
struct handled handled[HANDLED_PLACES] SEC(".data.sockets") __attribute__((aligned(64))) = {};

static __always_inline struct handled *handled_here(void)
{
	return &handled[bpf_get_smp_processor_id() & (HANDLED_PLACES - 1)];
}

static __always_inline bool is_handled(struct sock *sk, int old, int new)
{
	struct handled *last = handled_here();

	return last->sk == (__u64)sk && last->change == change_of(old, new);
}

/*
 * A backup program for `handle(sk, old, new)`. Kernels without socket storage skip nothing and need none.
 *
 * It must not call the first program (bpf_tail_call()), though that would be loaded once: the kernel lets a tail call into
 * a program that is at work on this CPU, and gives both runs the same private stack (x86 since 6.13,
 * kernel/bpf/verifier.c: bpf_enable_priv_stack). The interrupted one then goes on with the pointers of the other.
 */
#define SET_STATE_BACKUP(section, name, handle)                                                                        \
	SEC(section)                                                                                                   \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                                          \
	{                                                                                                              \
		if (!config.missing.sk_storage && !is_handled(sk, old, new))                                           \
			handle(sk, old, new);                                                                          \
		return 0;                                                                                              \
	}

/* Defines `name` and its backups, which call `handle(sk, old, new)` at sock:inet_sock_set_state. */
#define SET_STATE_PROGRAMS(name, handle)                                                                               \
	SEC("tp_btf/inet_sock_set_state")                                                                              \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                                          \
	{                                                                                                              \
		struct handled *last = handled_here();                                                                 \
		last->sk = 0;                                                                                          \
		handle(sk, old, new);                                                                                  \
		last->change = change_of(old, new);                                                                    \
		last->sk = (__u64)sk;                                                                                  \
		return 0;                                                                                              \
	}                                                                                                              \
	SET_STATE_BACKUP("tp_btf/inet_sock_set_state", name##_backup1, handle)                                         \
	SET_STATE_BACKUP("?tp_btf/inet_sock_set_state", name##_backup2, handle)                                        \
	SET_STATE_BACKUP("?tp_btf/inet_sock_set_state", name##_backup3, handle)

#endif
