/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Handles state changes that occur while the handling program runs on the same CPU: from an interrupt or, where
 * tracepoints are preemptible (7.x), from another task. The kernel does not start a program recursively
 * (kernel/trace/bpf_trace.c: __bpf_trace_run, since 6.2), but it does start another one: a backup program. Each
 * program may handle a change, and the first one that does claims it (state.bpf.h: claim_change). A change that all
 * programs were skipped for is lost; the kernel counts the skips of each (src/session/skipped.rs).
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
	volatile __u64 never; /* 0, which the verifier does not know */
	__u64 pad[5];
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
 * Whether the socket has ended, and the first program must have handled it: events in between have overwritten its word,
 * and others may have the slot. The state would be made anew, and the end be told twice.
 */
static __always_inline bool has_ended(struct sock *sk, int new)
{
	if (new != TCP_CLOSE || !handled_here()->sk)
		return false;
	struct sock_state *s = state_find(sk);
	return !s || s->over;
}

enum { NO_STATE = 255 }; /* the kernel has 8 bits for a state */

/* Whether the first program has handled the socket's destruction, which ends the state. */
static __always_inline bool is_destroyed(struct sock *sk)
{
	if (is_handled(sk, NO_STATE, NO_STATE))
		return true;
	struct sock_state *s = state_find(sk);
	return s ? s->over : handled_here()->sk != 0;
}

/*
 * The first program, once it is loaded (src/session/variant.rs), which a backup calls: what it does is verified once. Not
 * listed before, since libbpf would want each program that it lists to be loaded. A map takes programs of one tracepoint.
 */
#define FIRST_MAP(name)                                \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, 1);                \
		__type(key, __u32);                    \
		__type(value, __u32);                  \
	} name##_first SEC(".maps");

static __always_inline void handled_begin(void)
{
	handled_here()->sk = 0;
}

static __always_inline void handled_end(struct sock *sk, int old, int new)
{
	struct handled *last = handled_here();

	last->change = change_of(old, new);
	last->sk = (__u64)sk;
}

#define FIRST_PROGRAM(section, family, name, handle, own_stack) \
	SEC(section)                                            \
	int BPF_PROG(name, struct sock *sk, int old, int new)   \
	{                                                       \
		if (own_stack && (__u32)old > NO_STATE) {       \
			bpf_tail_call(ctx, &family##_first, 0); \
			return 0;                               \
		}                                               \
		handled_begin();                                \
		handle(sk, old, new);                           \
		handled_end(sk, old, new);                      \
		return 0;                                       \
	}

/* A backup program. Kernels without socket storage skip nothing and need none. */
#define BACKUP_PROGRAM(section, family, name)                                                       \
	SEC(section)                                                                                \
	int BPF_PROG(name, struct sock *sk, int old, int new)                                       \
	{                                                                                           \
		if (!config.missing.sk_storage && !is_handled(sk, old, new) && !has_ended(sk, new)) \
			bpf_tail_call(ctx, &family##_first, 0);                                     \
		return 0;                                                                           \
	}

/*
 * Defines `name` and its backups, which call `handle(sk, old, new)` at sock:inet_sock_set_state.
 *
 * A tail call gets into a program that is at work on this CPU. Since 6.13 (x86; arm64: 6.17) a program that needs 64
 * bytes of stack or more has a private stack per CPU, which both runs would share: the interrupted one would go on with
 * the pointers of the other. A program that has a tail call itself stays on the kernel's stack (kernel/bpf/verifier.c:
 * check_max_stack_depth). So such kernels load `name`_kstack, with one that is never made. Others do not: not all of them
 * allow that in a program that calls functions (x86 since 5.10, arm64 since 6.0).
 *
 * All are in one section, so that they are attached, and run, in this order.
 */
#define SET_STATE_PROGRAMS(name, handle)                                                \
	FIRST_MAP(name)                                                                 \
	FIRST_PROGRAM("?tp_btf/inet_sock_set_state", name, name, handle, false)         \
	FIRST_PROGRAM("?tp_btf/inet_sock_set_state", name, name##_kstack, handle, true) \
	BACKUP_PROGRAM("?tp_btf/inet_sock_set_state", name, name##_backup1)             \
	BACKUP_PROGRAM("?tp_btf/inet_sock_set_state", name, name##_backup2)             \
	BACKUP_PROGRAM("?tp_btf/inet_sock_set_state", name, name##_backup3)

/*
 * The same at tcp:tcp_destroy_sock, for `handle(sk)`, which gives up the state. To `handled` it is a change that no socket
 * has. The kernel was seen to skip it only where tracepoints are preemptible (7.x: 5 of 8,400 in a storm).
 */
#define FIRST_DESTROY(family, name, handle, own_stack)          \
	SEC("?tp_btf/tcp_destroy_sock")                         \
	int BPF_PROG(name, struct sock *sk)                     \
	{                                                       \
		if (own_stack && handled_here()->never) {       \
			bpf_tail_call(ctx, &family##_first, 0); \
			return 0;                               \
		}                                               \
		handled_begin();                                \
		handle(sk);                                     \
		handled_end(sk, NO_STATE, NO_STATE);            \
		return 0;                                       \
	}

#define BACKUP_DESTROY(family, name)                                 \
	SEC("?tp_btf/tcp_destroy_sock")                              \
	int BPF_PROG(name, struct sock *sk)                          \
	{                                                            \
		if (!config.missing.sk_storage && !is_destroyed(sk)) \
			bpf_tail_call(ctx, &family##_first, 0);      \
		return 0;                                            \
	}

#define DESTROY_PROGRAMS(name, handle)                   \
	FIRST_MAP(name)                                  \
	FIRST_DESTROY(name, name, handle, false)         \
	FIRST_DESTROY(name, name##_kstack, handle, true) \
	BACKUP_DESTROY(name, name##_backup2)             \
	BACKUP_DESTROY(name, name##_backup3)

#endif
