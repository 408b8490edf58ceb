/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that find the owners of sockets.
 *
 * Define before including this file: OWN_SET_STATE, if the tool handles inet_sock_set_state itself and calls
 * owner_on_state_change() there; OWN_READER, if it handles tcp_rcv_space_adjust and calls owner_reads() there;
 * SOCK_SCAN(sk, tp, s), to set the state of existing sockets (tp: NULL unless TCP; `address`: the socket's, of which sk
 * may be a copy; may run again for the same socket; words that another program may write concurrently are set with
 * SET_ONCE(word, value)); SOCK_OWNED(sk), to follow other sockets than TCP's.
 */
#ifndef TCPTOOLS_OWNER_BPF_H
#define TCPTOOLS_OWNER_BPF_H

#include "tcp.bpf.h"

#ifndef SOCK_SCAN
#define SOCK_SCAN(sk, tp, s)
#endif

/* The sockets whose owners the tool follows. */
#ifndef SOCK_OWNED
#define SOCK_OWNED(sk) (protocol_matches(sk) && is_inet(sk))
#endif

#ifndef OWN_SET_STATE
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(follow_owner, struct sock *sk, int old, int new)
{
	if (old == new || !protocol_matches(sk) || never_matches(sk, new))
		return 0;
	struct sock_state *s = state_of_follower(sk, old, new);
	if (!s)
		return 0;
	owner_on_state_change(s, sk, old, new);
	if (new == TCP_CLOSE)
		state_end(s, sk);
	return 0;
}
#endif

#ifndef OWN_READER
/* Whoever reads has the socket: covers sockets passed on, or accepted by another process than the listener's. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(note_reader, struct sock *sk)
{
	struct sock_state *s = state_find(sk);

	if (s)
		owner_reads(s, sk);
	return 0;
}
#endif

/* Removes the entry from the table. Attached after all other programs on this event (session/run.rs). */
SEC("?tp_btf/tcp_destroy_sock")
int BPF_PROG(forget_socket, struct sock *sk)
{
	__u64 address = (__u64)sk;

	bpf_map_delete_elem(&sockets_by_address, &address);
	return 0;
}

/*
 * Finds the processes that have sockets open, by iterating over every file of every process (kernel/bpf/task_iter.c),
 * in all network namespaces. Runs at the start for existing sockets, and again before a command shows sockets without
 * an event. Of several processes, the owner is the last that acted, or else the one that was started first; of those
 * that were started at the same time the one with the lowest PID, which is visited first.
 */
#define SET_ONCE(word, value) __sync_val_compare_and_swap(word, 0, value)

/*
 * The file of an MPTCP connection refers to the socket above its subflows, which are what is followed: see
 * scan_subflows().
 */
static __always_inline void mptcp_note(__u64 address, struct task_struct *task)
{
	const struct holder *known = bpf_map_lookup_elem(&mptcp_holders, &address);
	struct holder holder = {.number = scan.number};

	process_of(&holder.process, task);
	if (known && known->number == holder.number && !process_is_older(&holder.process, &known->process))
		return;
	bpf_map_update_elem(&mptcp_holders, &address, &holder, BPF_ANY);
}

/* The state of a socket that nobody has acted on. One scan runs at a time. */
struct sock_state found SEC(".data.found") = {};

SEC("?iter/task_file")
int scan_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	scan.number = ctx->meta->session_id;
	if (!task || !file)
		return 0;
	struct socket *socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	struct sock *sk = socket->sk;
	if (!sk)
		return 0;
	if (protocol_of(sk) == IPPROTO_MPTCP)
		mptcp_note((__u64)sk, task);
	if (!SOCK_OWNED(sk))
		return 0;
	struct tcp_sock *tp __attribute__((unused)) = bpf_skc_to_tcp_sock(sk);
	__u64 address __attribute__((unused)) = (__u64)sk;
	struct process process;

	process_of(&process, task);
	found.holder.process = process;
	found.holder.number = scan.number;
	/* Created complete: a child may begin with a copy of it at once. */
	struct sock_state *s = state_make_as(sk, &found);
	if (!s)
		return 0;
	holder_note(s, &process);
	SOCK_SCAN(sk, tp, s);
	return 0;
}

/*
 * Likewise for the table, from a copy of the socket: every file of sockfs is a socket (net/socket.c: sock_alloc_file).
 */
#undef SET_ONCE
#define SET_ONCE(word, value)              \
	do {                               \
		if (!*(word))              \
			*(word) = (value); \
	} while (0)

SEC("?iter/task_file")
int scan_sockets_by_address(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct process process;

	scan.number = ctx->meta->session_id;
	if (!task || !file || BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return 0;
	__u64 address = (__u64)BPF_CORE_READ((struct socket *)file->private_data, sk);
	struct sock *sk = address ? sock_copied(address) : NULL;
	if (!sk)
		return 0;
	if (protocol_of(sk) == IPPROTO_MPTCP)
		mptcp_note(address, task);
	if (!SOCK_OWNED(sk))
		return 0;
	/* Only TCP reports when a socket is destroyed; entries for other sockets are removed again below. */
	bool lasting = protocol_matches(sk);
	struct tcp_sock *tp __attribute__((unused)) = tcp_copied(sk);
	struct sock_state *s = address_find(address);
	if (!s && lasting && !bpf_map_update_elem(&sockets_by_address, &address, &ZERO_STATE, BPF_NOEXIST))
		s = address_find(address);
	if (!s) {
		if (lasting)
			loss_count(&counters.untracked, 1);
		return 0;
	}
	process_of(&process, task);
	holder_note(s, &process);
	SOCK_SCAN(sk, tp, s);
	if (!lasting)
		bpf_map_delete_elem(&sockets_by_address, &address);
	return 0;
}

/*
 * The subflows of the MPTCP sockets that the scan found, in the current network namespace; for an MPTCP listener, its
 * listening TCP socket. The iterator holds the socket's lock, so SET_ONCE does not race.
 */
SEC("?iter/tcp")
int scan_subflows(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (!tp)
		return 0;
	struct sock *sk = (struct sock *)tp;
	__u64 address = mptcp_of_subflow(tp);
	const struct holder *holder = address ? bpf_map_lookup_elem(&mptcp_holders, &address) : NULL;
	if (!holder || holder->number != scan.number || !SOCK_OWNED(sk))
		return 0;
	struct process process = holder->process;
	struct sock_state *s = state_make(sk);
	if (!s)
		return 0;
	holder_note(s, &process);
	address = (__u64)sk;
	SOCK_SCAN(sk, tp, s);
	return 0;
}

#endif
