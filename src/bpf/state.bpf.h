/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is remembered of each socket: state_find(), state_make(), and EACH_SOCKET() to visit them all.
 *
 * Normally it lies in the socket's own storage: no capacity to run out of, gone with the socket, and a new child
 * inherits its listener's. A kernel that denies this to tracing programs (lacks.sk_storage) gets a table keyed by the
 * socket's address, of bounded size, whose overflow is counted; forget_socket() (owner.bpf.h) cleans it.
 */
#ifndef TCPTOOLS_STATE_BPF_H
#define TCPTOOLS_STATE_BPF_H

#include "process.bpf.h"

/* Who was found with the socket open, in which look at all files; see whose.bpf.h. */
struct seed {
	struct process process;
	__u32 number;
	__u32 pad;
};

struct sock_state {
	struct owner owner;     /* who acted last */
	struct process process; /* the same process */
	struct seed seed;
	__u32 held;   /* in this look at all files, or since, `owner` had it open */
	__u32 change; /* the last change of state that was handled; see change_taken() */
#ifdef TOOL_STATE
	TOOL_STATE tool;
#endif
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sock_state);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* userspace sets the real size where it is needed */
	__type(key, __u64);
	__type(value, struct sock_state);
} sockets_by_address SEC(".maps");

static const struct sock_state blank_state SEC(".rodata.blank") = {};

/*
 * The listener of a child that is just being born, NULL of any other socket. Until 6.14 a child is at that moment an
 * exact copy of its listener, and a list node that is empty points to itself: in the copy, still into the listener
 * (net/ipv4/tcp.c: tcp_init_sock; net/ipv4/inet_connection_sock.c: inet_csk_clone_lock). Kernels that lack the storage
 * are older than that.
 */
static __always_inline struct sock *listener_of(struct sock *sk)
{
	struct tcp_sock *tp = (void *)sk;

	if (sk->__sk_common.skc_state != TCP_LISTEN)
		return NULL;
	__u64 next = (__u64)BPF_CORE_READ(tp, tsq_node.next);
	__u64 listener = next - bpf_core_field_offset(struct tcp_sock, tsq_node);

	return listener == (__u64)sk ? NULL : (struct sock *)listener;
}

static __always_inline struct sock_state *address_find(__u64 address)
{
	return bpf_map_lookup_elem(&sockets_by_address, &address);
}

static __always_inline struct sock_state *address_make(struct sock *sk)
{
	struct sock *listener = listener_of(sk);
	__u64 address = (__u64)sk;
	const struct sock_state *initial = NULL;
	struct sock_state *s = NULL;

	if (listener)
		initial = address_find((__u64)listener);
	else
		s = address_find(address);
	if (s)
		return s;
	/* A child never finds what the address's former user may have left. */
	if (bpf_map_update_elem(&sockets_by_address, &address, initial ?: &blank_state, BPF_ANY))
		return NULL;
	return address_find(address);
}

/* NULL if nothing is remembered of it. */
static __always_inline struct sock_state *state_find(struct sock *sk)
{
	if (config.lacks.sk_storage)
		return address_find((__u64)sk);
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

/* What is remembered of it, blank (or its listener's) if it was not known; NULL, and counted, if that cannot be kept. */
static __always_inline struct sock_state *state_make(struct sock *sk)
{
	struct sock_state *s;

	if (config.lacks.sk_storage)
		s = address_make(sk);
	else
		s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		__sync_fetch_and_add(&counters.untracked, 1);
	return s;
}

static __always_inline __u32 change_of(int old, int new)
{
	return old << 8 | new;
}

/*
 * Whether this change of state was handled already, by a twin (nested.bpf.h); it counts as handled from now on. A
 * socket's changes come one after another, under its lock, and two in a row are never the same. So a program that
 * leaves some of them out must see to it that a handled one lies between any two that are the same.
 */
static __always_inline bool change_taken(struct sock_state *s, int old, int new)
{
	if (s->change == change_of(old, new))
		return true;
	s->change = change_of(old, new);
	return false;
}

/* A change that lies between two others and is otherwise of no interest. */
static __always_inline void change_pass(struct sock *sk, int old, int new)
{
	struct sock_state *s = state_find(sk);

	if (s)
		s->change = change_of(old, new);
}

/* ---------------------------------------------------------------- sockets without a typed pointer */

enum { COPY_BYTES = 4096 };

struct sock_copy {
	__u8 bytes[COPY_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sock_copy);
} copies SEC(".maps");

/*
 * A copy of the socket at an address, whose fields can be read as if it were one; but neither helpers nor further
 * pointers can be followed from it without a probing read.
 */
static __always_inline struct sock *sock_copied(__u64 address)
{
	__u32 zero = 0;
	struct sock_copy *copy = bpf_map_lookup_elem(&copies, &zero);

	if (!copy || bpf_core_type_size(struct tcp_sock) > COPY_BYTES)
		return NULL;
	if (bpf_probe_read_kernel(copy, bpf_core_type_size(struct tcp_sock), (void *)address))
		return NULL;
	return (struct sock *)copy;
}

static __always_inline struct tcp_sock *tcp_copied(struct sock *copy)
{
	struct tcp_sock *tp = protocol_of(copy) == IPPROTO_TCP ? (struct tcp_sock *)copy : NULL;

	/* What tests it later shall test the pointer: of the number the verifier of 5.10 forgets what it knew. */
	barrier_var(tp);
	return tp;
}

/*
 * Defines three programs, of which session.rs loads the one that the kernel can run: each calls
 * visit(seq, sk, tp, s) for every socket that is remembered; tp is NULL unless it is TCP's. `_by_namespace` is for
 * kernels that have the storage, but refuse to visit the elements of a map: it sees the TCP sockets of the network
 * namespace in which it is run, unless they are in CLOSE.
 */
#define EACH_SOCKET(name, visit)                                                              \
	SEC("?iter/bpf_sk_storage_map")                                                       \
	int name(struct bpf_iter__bpf_sk_storage_map *ctx)                                    \
	{                                                                                     \
		struct sock *sk = ctx->sk;                                                    \
		struct sock_state *s = ctx->value;                                            \
                                                                                              \
		if (sk && s)                                                                  \
			visit(ctx->meta->seq, sk, bpf_skc_to_tcp_sock(sk), s);                \
		return 0;                                                                     \
	}                                                                                     \
                                                                                              \
	SEC("?iter/tcp")                                                                      \
	int name##_by_namespace(struct bpf_iter__tcp *ctx)                                    \
	{                                                                                     \
		struct sock_common *common = ctx->sk_common;                                  \
		struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;            \
                                                                                              \
		if (!tp) /* in TIME_WAIT, or asking for a connection */                       \
			return 0;                                                             \
		struct sock_state *s = state_find((struct sock *)tp);                         \
		if (s)                                                                        \
			visit(ctx->meta->seq, (struct sock *)tp, tp, s);                      \
		return 0;                                                                     \
	}                                                                                     \
                                                                                              \
	SEC("?iter/bpf_map_elem")                                                             \
	int name##_by_address(struct bpf_iter__bpf_map_elem *ctx)                             \
	{                                                                                     \
		__u64 *address = ctx->key;                                                    \
		struct sock_state *s = ctx->value;                                            \
                                                                                              \
		if (!address || !s)                                                           \
			return 0;                                                             \
		struct sock *sk = sock_copied(*address);                                      \
		if (sk)                                                                       \
			visit(ctx->meta->seq, sk, tcp_copied(sk), s);                         \
		return 0;                                                                     \
	}

#endif
