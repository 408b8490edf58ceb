/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose a socket is: the process that acted on it last, under its lock, as long as that process runs and has it open;
 * else one that a look at the files of all processes found with it open (owner.bpf.h: seed_sockets). Never the task
 * that happens to be on the CPU.
 *
 * What a process did is written to `owner` under the socket's lock, and what was found to `seed` by the iterator alone:
 * neither can overwrite or mix with the other.
 */
#ifndef TCPTOOLS_WHOSE_BPF_H
#define TCPTOOLS_WHOSE_BPF_H

#include "process.bpf.h"
#include "state.bpf.h"

/*
 * The last look at all files, by a number that grows: the id of the iteration. `held` and `seed.number` of struct
 * sock_state say which look they are of.
 */
struct scan {
	__u32 number;
	__u32 pad;
};
struct scan scan SEC(".data.scan") = {};

/* Who has an MPTCP socket open, by its address: only believed of the last look at all files. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16 * 1024);
	__type(key, __u64);
	__type(value, struct seed);
} mptcp_holders SEC(".maps");

/* ---------------------------------------------------------------- who acts */

/*
 * A kernel thread is an owner only of the kernel's own sockets. MPTCP closes its subflows from a worker, and a
 * file that a kernel thread drops is closed by one: neither says whose socket it was.
 */
static __always_inline bool may_own(struct task_struct *task, struct sock *sk)
{
	if (!(task_flags(task) & PF_KTHREAD))
		return true;
	if (!BPF_CORE_READ_BITFIELD(sk, sk_kern_sock))
		return false;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	return !tp || !is_mptcp_subflow(tp);
}

/* Some read owners without the lock: to them there is none between the two writes of `source`. See owner_copy(). */
static __always_inline void owner_set(struct sock_state *s, struct task_struct *task, __u32 pid)
{
	struct owner *owner = &s->owner;

	owner->source = PID_UNKNOWN;
	owner->version++;
	barrier();
	owner->pid = pid;
	task_comm((__u64 *)owner->comm, task);
	comm_tidy((__u64 *)owner->comm);
	process_of(&s->process, task);
	s->held = scan.number;
	barrier();
	owner->source = PID_SOCKET;
}

/*
 * The current process acts on the socket, if it holds the lock: with sk_lock.owned set it does (connect, read, shutdown,
 * close, its own backlog); without, the event runs in softirq, and whoever is on the CPU is a stranger. Our own reader
 * holds it while it visits sockets (net/ipv4/tcp_ipv4.c: bpf_iter_tcp_seq_show).
 */
static __always_inline void owner_act(struct sock_state *s, struct sock *sk)
{
	if (!sk->sk_lock.owned)
		return;
	struct task_struct *task = current_task();
	__u32 pid = process_id(task);
	if (pid != config.reader && may_own(task, sk))
		owner_set(s, task, pid);
}

/* Whether the current process is the one that acted last: nothing has to be written then. */
static __always_inline bool owner_is_current(const struct sock_state *s)
{
	return s->owner.source == PID_SOCKET && s->process.tgid == bpf_get_current_pid_tgid() >> 32;
}

/* A read of the socket: only who has it reads. */
static __always_inline void owner_reads(struct sock_state *s, struct sock *sk)
{
	if (!owner_is_current(s))
		owner_act(s, sk);
}

/*
 * An event that may come from the backlog. Others than the owner hold the lock for a moment, too, and work the backlog
 * off when they let go of it (`ss -i`, iterators): so this names an owner where none is known that still runs, and no
 * more. Not for a listener in lockless paths: accept() may hold its lock.
 */
static __always_inline void owner_note(struct sock_state *s, struct sock *sk)
{
	if (!sk->sk_lock.owned || owner_is_current(s))
		return;
	if (s->owner.source != PID_SOCKET || !process_lives(&s->process))
		owner_act(s, sk);
}

/*
 * The changes that only a system call on the socket makes: connect(), listen(), shutdown(), close() and exit. To CLOSE
 * an error leads first, unless the process closes; LAST_ACK and CLOSING end with the peer's segment, which may come
 * from anybody's backlog. `ss -K` ends a listener without an error, but does not shut it down.
 */
static __always_inline bool proves_owner(struct sock *sk, int old, int new)
{
	if (new == TCP_SYN_SENT || new == TCP_LISTEN || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		return true;
	if (new != TCP_CLOSE || old == TCP_LAST_ACK || old == TCP_CLOSING)
		return false;
	return old == TCP_LISTEN ? !!sk->sk_shutdown : !sk->sk_err;
}

/* Whether owner_follow() could have anything to do: asked before the state is looked up. */
static __always_inline bool owner_concerned(struct sock *sk, int old, int new)
{
	return sk->sk_lock.owned || new == TCP_SYN_SENT || new == TCP_LISTEN ||
	       (new == TCP_SYN_RECV && old == TCP_LISTEN);
}

/* Whether the last look at all files is newer than what is known of `owner`: then that process did not have it open. */
static __always_inline bool seed_is_newer(const struct sock_state *s)
{
	return s->seed.process.task && (__s32)(s->seed.number - s->held) > 0;
}

/* A child begins with its listener's state: it has the listener's owner until a process acts on it. */
static __always_inline void owner_inherit(struct sock_state *s)
{
	if (seed_is_newer(s)) {
		s->process = s->seed.process;
		s->owner.pid = process_id_of(&s->process);
		process_comm(s->owner.comm, &s->process);
		s->owner.source = PID_LISTENER;
	} else if (s->owner.source != PID_UNKNOWN) {
		s->owner.source = PID_LISTENER;
	}
	s->held = scan.number;
}

/*
 * Keeps the owner right over a change of state. A child is cloned from its listener, storage and all, before it
 * reports SYN_RECV. `ss -K` locks a socket that it does not own.
 */
static __always_inline void owner_follow(struct sock_state *s, struct sock *sk, int old, int new)
{
	if (new == TCP_SYN_RECV && old == TCP_LISTEN) {
		owner_inherit(s);
		return;
	}
	if (new == TCP_SYN_SENT || new == TCP_LISTEN) /* a new use of the socket */
		s->owner.source = PID_UNKNOWN;
	if (proves_owner(sk, old, new))
		owner_act(s, sk);
	else if (new != TCP_CLOSE || sk->sk_err != ECONNABORTED)
		owner_note(s, sk);
}

/* ---------------------------------------------------------------- who has it */

/* All of one process, or nobody. */
static __always_inline void owner_copy(struct owner *to, struct process *process, const struct sock_state *s)
{
	const volatile __u32 *word = (const volatile __u32 *)&s->owner.source; /* with the version */
	__u32 before = *word;

	barrier();
	*to = s->owner;
	*process = s->process;
	barrier();
	if (*word != before)
		to->source = PID_UNKNOWN;
}

/* Whether a look at all files can find it: it has a file. One that waits for accept(), or is closed, has none. */
static __always_inline bool has_file(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_socket, file);
}

/* Closed by its process; the network may still need it. */
static __always_inline bool is_orphan(struct sock *sk)
{
	return sk->__sk_common.skc_flags & (1UL << SOCK_DEAD);
}

/*
 * `now`: for what is shown without an event; whoever acted must still have it open then, as far as files were looked at.
 * Otherwise the owner of an orphan may have ended: it is whose socket it was.
 */
static __always_inline void owner_choose(struct owner *to, const struct sock_state *s, struct sock *sk, bool now)
{
	struct process process;

	owner_copy(to, &process, s);
	struct seed seed = s->seed;
	__u32 held = s->held;
	if (seed_is_newer(s) && process_lives(&seed.process)) {
		to->source = PID_SEED;
		to->pid = process_id_of(&seed.process);
		process_comm(to->comm, &seed.process);
		return;
	}
	if (to->source == PID_UNKNOWN)
		return;
	if (process_lives(&process))
		process_comm(to->comm, &process);
	else if (now || !is_orphan(sk))
		to->source = PID_UNKNOWN;
	/* From within a pid namespace not all files are seen. */
	if (now && !config.pid_ns && to->source == PID_SOCKET && held != scan.number && has_file(sk))
		to->source = PID_UNKNOWN;
}

/* The owner at an event of the socket. `s`: NULL if nothing is known of it. */
static __always_inline void owner_find(struct owner *to, const struct sock_state *s, struct sock *sk)
{
	if (s)
		owner_choose(to, s, sk, false);
	else
		__builtin_memset(to, 0, sizeof(*to));
}

/* The last look at all files has found this process with the socket open. */
static __always_inline void holder_note(struct sock_state *s, const struct process *process)
{
	__u32 number = scan.number;

	if (process_is(&s->process, process)) {
		s->held = number;
	} else if (s->seed.number != number) {
		s->seed.process.task = 0; /* nobody, to who looks meanwhile */
		barrier();
		s->seed.process.tgid = process->tgid;
		s->seed.process.birth = process->birth;
		s->seed.number = number;
		barrier();
		s->seed.process.task = process->task;
	}
}

/* The owner of a socket that is visited. `tp`: NULL unless it is TCP's. */
static __always_inline void owner_now(struct owner *to, struct sock_state *s, struct sock *sk, struct tcp_sock *tp)
{
	__u64 address = tp ? mptcp_of_subflow(tp) : 0;
	const struct seed *seed = address ? bpf_map_lookup_elem(&mptcp_holders, &address) : NULL;

	if (seed && seed->number == scan.number) {
		struct process process = seed->process;
		holder_note(s, &process);
	}
	owner_choose(to, s, sk, true);
}

#endif
