/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The owner of a socket: the process that last acted on it, under its lock, while that process runs and has it open;
 * otherwise a process that a scan of all files found with it open (owner.bpf.h: scan_sockets). Never the task that
 * happens to be on the CPU (docs/principles.md 1).
 *
 * What a process did is written to `owner` under the socket's lock, and what was found to `holder` by the iterator alone:
 * neither can overwrite or mix with the other.
 */
#ifndef TCPTOOLS_WHOSE_BPF_H
#define TCPTOOLS_WHOSE_BPF_H

#include "kernel/process.bpf.h"
#include "owner/state.bpf.h"

/* The processes that have MPTCP sockets open, by address; valid for the last scan only. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16 * 1024);
	__type(key, __u64);
	__type(value, struct holder);
} mptcp_holders SEC(".maps");

/* ---------------------------------------------------------------- who acts */

/*
 * Kernel threads own only the kernel's own sockets. MPTCP closes its subflows from a worker, and a kernel thread that
 * drops a file closes it: neither is the owner.
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

/*
 * A thread of a command that looks through the files of all processes (src/kernel/iter.rs: VISITOR). It has each file for
 * a moment; if its process closes it meanwhile, the visitor is the last to let go of it, and closes the socket.
 */
static __always_inline bool is_visitor(struct task_struct *task)
{
	__u64 name; /* its first half */

	if (config.missing.task_btf)
		bpf_probe_read_kernel(&name, sizeof(name), task->comm);
	else
		name = *(const __u64 *)task->comm;
	return name == 0x736c6f6f74706374; /* "tcptools", little endian */
}

/* Lockless readers see no owner between the two writes of `source`. See owner_copy(). */
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
	s->owner_scan = scan.number;
	barrier();
	owner->source = PID_SOCKET;
}

/* A function of its own for the sake of the programs' length, which is what loading them takes. */
OWNER_FUNCTION int current_owns(struct sock_state *s, struct sock *sk)
{
	struct task_struct *task = current_task();
	__u32 pid = process_id(task);

	if (pid == config.reader || (s->owner.source != PID_UNKNOWN && is_visitor(task)))
		return 0;
	if (may_own(task, sk))
		owner_set(s, task, pid);
	return 0;
}

/*
 * Records the current process as owner if it holds the lock. With sk_lock.owned set it does (connect, read, shutdown,
 * close, its own backlog); otherwise the event runs in softirq, and the current task is unrelated. The command itself
 * holds the lock while it iterates over sockets (net/ipv4/tcp_ipv4.c: bpf_iter_tcp_seq_show).
 */
static __always_inline void owner_act(struct sock_state *s, struct sock *sk)
{
	if (sk->sk_lock.owned)
		current_owns(s, sk);
}

/* Whether the current process is the recorded owner already. */
static __always_inline bool owner_is_current(const struct sock_state *s)
{
	return s->owner.source == PID_SOCKET && s->process.tgid == bpf_get_current_pid_tgid() >> 32;
}

/* A read of the socket: only a process that has it open reads. */
static __always_inline void owner_reads(struct sock_state *s, struct sock *sk)
{
	if (!owner_is_current(s))
		owner_act(s, sk);
}

/*
 * For events that may come from the backlog. Processes other than the owner also hold the lock briefly and process the
 * backlog when they release it (`ss -i`, iterators), so this only sets an owner if none is known that still runs. Not
 * for a listener in lockless paths: accept() may hold its lock.
 */
static __always_inline void owner_learn(struct sock_state *s, struct sock *sk)
{
	if (!sk->sk_lock.owned || owner_is_current(s))
		return;
	if (s->owner.source != PID_SOCKET || !process_is_alive(&s->process))
		owner_act(s, sk);
}

/*
 * Changes that only a system call on the socket makes: connect(), listen(), shutdown(), close() and exit. A change to
 * CLOSE without an error is a close by the process; LAST_ACK and CLOSING end with the peer's segment, which any process
 * may receive from the backlog, and so may FIN_WAIT1 and FIN_WAIT2; a process that closes then has emptied the backlog
 * (net/ipv4/tcp.c: __tcp_close; net/core/sock.c: __release_sock). `ss -K` ends a listener without an error, but does not
 * shut it down.
 */
static __always_inline bool proves_owner(struct sock *sk, int old, int new)
{
	if (new == TCP_SYN_SENT || new == TCP_LISTEN || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		return true;
	if (new != TCP_CLOSE || old == TCP_LAST_ACK || old == TCP_CLOSING)
		return false;
	if ((old == TCP_FIN_WAIT1 || old == TCP_FIN_WAIT2) && sk->sk_backlog.len)
		return false;
	return old == TCP_LISTEN ? !!sk->sk_shutdown : !sk->sk_err;
}

/* Whether owner_on_state_change() may do anything; checked before the state is looked up. */
static __always_inline bool owner_may_change(struct sock *sk, int old, int new)
{
	return sk->sk_lock.owned || new == TCP_SYN_SENT || new == TCP_LISTEN ||
	       (old == TCP_LISTEN && new == TCP_SYN_RECV);
}

/* The state of a socket that is followed for its owner's sake only; NULL if the change does not matter. */
static __always_inline struct sock_state *state_of_follower(struct sock *sk, int old, int new)
{
	if (new == TCP_CLOSE)
		return state_find(sk);
	return owner_may_change(sk, old, new) ? state_make(sk) : NULL;
}

/* Whether `holder` is from a newer scan than `owner`, whose process then did not have the socket open. */
static __always_inline bool holder_is_newer(const struct sock_state *s)
{
	return s->holder.process.task && (__s32)(s->holder.number - s->owner_scan) > 0;
}

/* A child starts with its listener's state, and so its owner, until a process acts on it. */
static __always_inline void owner_inherit(struct sock_state *s)
{
	if (holder_is_newer(s)) {
		s->process = s->holder.process;
		s->owner.pid = process_id_of(&s->process);
		process_comm(s->owner.comm, &s->process);
		s->owner.source = PID_LISTENER;
	} else if (s->owner.source != PID_UNKNOWN) {
		s->owner.source = PID_LISTENER;
	}
	s->owner_scan = scan.number;
}

/*
 * Updates the owner at a state change. A child is cloned from its listener, including storage, before it reports
 * SYN_RECV. `ss -K` locks a socket that it does not own.
 */
static __always_inline void owner_on_state_change(struct sock_state *s, struct sock *sk, int old, int new)
{
	if (old == TCP_LISTEN && new == TCP_SYN_RECV) {
		owner_inherit(s);
		return;
	}
	if (new == TCP_SYN_SENT || new == TCP_LISTEN) /* a new use of the socket */
		s->owner.source = PID_UNKNOWN;
	if (proves_owner(sk, old, new))
		owner_act(s, sk);
	else if (new != TCP_CLOSE || sk->sk_err != ECONNABORTED)
		owner_learn(s, sk);
}

/* ---------------------------------------------------------------- who has it */

/* A consistent copy; no owner if it was being written. */
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

/* Whether the socket has a file, so that a scan can find it. Sockets waiting for accept() and closed ones have none. */
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
 * `now`: for rows without an event: the owner must still have the socket open, as far as files were scanned. Otherwise
 * the owner of an orphan may have exited.
 */
static __always_inline void owner_choose(struct owner *to, const struct sock_state *s, struct sock *sk, bool now)
{
	struct process process;

	owner_copy(to, &process, s);
	struct holder holder = s->holder;
	__u32 owner_scan = s->owner_scan;
	if (holder_is_newer(s) && process_is_alive(&holder.process)) {
		to->source = PID_SCAN;
		to->pid = process_id_of(&holder.process);
		process_comm(to->comm, &holder.process);
		return;
	}
	if (to->source == PID_UNKNOWN)
		return;
	if (process_is_alive(&process))
		process_comm(to->comm, &process);
	else if (now || !is_orphan(sk))
		to->source = PID_UNKNOWN;
	/* A scan from within a PID namespace does not see all files. */
	if (now && !config.pid_ns && to->source == PID_SOCKET && owner_scan != scan.number && has_file(sk))
		to->source = PID_UNKNOWN;
}

/* The owner at an event of the socket. `s`: NULL if it has no state. */
static __always_inline void owner_find(struct owner *to, const struct sock_state *s, struct sock *sk)
{
	if (s)
		owner_choose(to, s, sk, false);
	else
		__builtin_memset(to, 0, sizeof(*to));
}

/*
 * Records that the current scan found the socket open in this process. Of several, the one that was started first: it
 * is no child that has got all files of its parent, and has not begun its own program. Its PID may be the higher one,
 * once PIDs have come around.
 */
static __always_inline void holder_note(struct sock_state *s, const struct process *process)
{
	__u32 number = scan.number;

	if (process_is(&s->process, process)) {
		s->owner_scan = number;
	} else if (s->holder.number != number || process_is_older(process, &s->holder.process)) {
		s->holder.process.task = 0; /* no holder, for concurrent readers */
		barrier();
		s->holder.process.tgid = process->tgid;
		s->holder.process.start_time = process->start_time;
		s->holder.number = number;
		barrier();
		s->holder.process.task = process->task;
	}
}

/* The owner of a socket in an iterator. `tp`: NULL unless it is a TCP socket. */
static __always_inline void owner_now(struct owner *to, struct sock_state *s, struct sock *sk, struct tcp_sock *tp)
{
	__u64 address = tp ? mptcp_of_subflow(tp) : 0;
	const struct holder *holder = address ? bpf_map_lookup_elem(&mptcp_holders, &address) : NULL;

	if (holder && holder->number == scan.number) {
		struct process process = holder->process;
		holder_note(s, &process);
	}
	owner_choose(to, s, sk, true);
}

#endif
