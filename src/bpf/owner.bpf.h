/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that find out whose a socket is, for every tool that shows owners.
 *
 * A tool that handles inet_sock_set_state itself calls owner_follow() there and defines OWN_SET_STATE; one that
 * handles tcp_rcv_space_adjust calls owner_reads() there and defines OWN_READER; one that keeps
 * state of sockets that exist already defines SOCK_SEED(sk, tp, s) (tp: NULL unless TCP's; `address` is the socket's, of
 * which sk may be a copy), in which a word that a program may write at the same moment is set with SEED_ONCE(word,
 * value), and which may come again for the same socket; one for other sockets than TCP's, or for some of them only,
 * defines SOCK_OWNED(sk).
 * All before it includes this file.
 */
#ifndef TCPTOOLS_OWNER_BPF_H
#define TCPTOOLS_OWNER_BPF_H

#include "tcp.bpf.h"

#ifndef SOCK_SEED
#define SOCK_SEED(sk, tp, s)
#endif

/* The sockets whose owners a tool wants to know. */
#ifndef SOCK_OWNED
#define SOCK_OWNED(sk) (protocol_wanted(sk) && is_inet(sk))
#endif

#ifndef OWN_SET_STATE
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(follow_owner, struct sock *sk, int old, int new)
{
	if (old == new || !protocol_wanted(sk) || !owner_concerned(sk, old, new))
		return 0;
	struct sock_state *s = state_make(sk);
	if (s)
		owner_follow(s, sk, old, new);
	return 0;
}
#endif

#ifndef OWN_READER
/* Who reads has the socket: where it was handed on, or accepted by another process than the one that listens. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(note_reader, struct sock *sk)
{
	struct sock_state *s = state_find(sk);

	if (s)
		owner_reads(s, sk);
	return 0;
}
#endif

/* The table's own clean-up. The last of its programs on this event: session.rs attaches it after all others. */
SEC("?tp_btf/tcp_destroy_sock")
int BPF_PROG(forget_socket, struct sock *sk)
{
	__u64 address = (__u64)sk;

	bpf_map_delete_elem(&sockets_by_address, &address);
	return 0;
}

/*
 * Who has a socket open: every file of every process is visited once (kernel/bpf/task_iter.c), in every network
 * namespace. At the start this finds owners of the sockets that exist already; a command that shows sockets without an
 * event looks again before. Of several processes the one that acted last is the owner if it is among them; else that
 * with the lowest id, which is visited first.
 */
#define SEED_ONCE(word, value) __sync_val_compare_and_swap(word, 0, value)

/* The file of an MPTCP connection has the socket above its subflows, which are what is followed: see seed_subflows(). */
static __always_inline void mptcp_note(__u64 address, struct task_struct *task)
{
	const struct seed *known = bpf_map_lookup_elem(&mptcp_holders, &address);
	struct seed seed = {.number = scan.number};

	if (known && known->number == seed.number)
		return;
	process_of(&seed.process, task);
	bpf_map_update_elem(&mptcp_holders, &address, &seed, BPF_ANY);
}

SEC("?iter/task_file")
int seed_sockets(struct bpf_iter__task_file *ctx)
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
	struct sock_state initial = {.seed.number = scan.number};

	process_of(&initial.seed.process, task);
	/* Whole from the first moment: a child may be cloned from it. */
	struct sock_state *s = bpf_sk_storage_get(&sockets, sk, &initial, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 0;
	holder_note(s, &initial.seed.process);
	SOCK_SEED(sk, tp, s);
	return 0;
}

/* The same for the table, from a copy of the socket: every file of sockfs is a socket (net/socket.c: sock_alloc_file). */
#undef SEED_ONCE
#define SEED_ONCE(word, value)                                                                \
	do {                                                                                  \
		if (!*(word))                                                                 \
			*(word) = (value);                                                    \
	} while (0)

SEC("?iter/task_file")
int seed_sockets_by_address(struct bpf_iter__task_file *ctx)
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
	/* Only TCP tells when a socket is destroyed, and so when to forget it: of others a question is answered, no more. */
	bool lasting = protocol_wanted(sk);
	struct tcp_sock *tp __attribute__((unused)) = tcp_copied(sk);
	struct sock_state *s = address_find(address);
	if (!s && lasting && !bpf_map_update_elem(&sockets_by_address, &address, &blank_state, BPF_NOEXIST))
		s = address_find(address);
	if (!s) {
		if (lasting)
			__sync_fetch_and_add(&counters.untracked, 1);
		return 0;
	}
	process_of(&process, task);
	holder_note(s, &process);
	SOCK_SEED(sk, tp, s);
	if (!lasting)
		bpf_map_delete_elem(&sockets_by_address, &address);
	return 0;
}

/*
 * The subflows of the MPTCP sockets that the look at all files has found, in the network namespace in which it is run;
 * of a listener, the TCP socket that listens for it. The iterator holds the socket's lock, so SEED_ONCE has no rival.
 */
SEC("?iter/tcp")
int seed_subflows(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (!tp)
		return 0;
	struct sock *sk = (struct sock *)tp;
	__u64 address = mptcp_of_subflow(tp);
	const struct seed *seed = address ? bpf_map_lookup_elem(&mptcp_holders, &address) : NULL;
	if (!seed || seed->number != scan.number || !SOCK_OWNED(sk))
		return 0;
	struct process process = seed->process;
	struct sock_state *s = state_make(sk);
	if (!s)
		return 0;
	holder_note(s, &process);
	address = (__u64)sk;
	SOCK_SEED(sk, tp, s);
	return 0;
}

#endif
