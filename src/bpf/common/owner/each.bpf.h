/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* EACH_SOCKET(): iterates over all sockets that have state. */
#ifndef TCPTOOLS_EACH_BPF_H
#define TCPTOOLS_EACH_BPF_H

#include "owner/state.bpf.h"

/* ---------------------------------------------------------------- sockets without a typed pointer */

enum { COPY_BYTES = 4096 };

struct sock_copy {
	__u8 bytes[COPY_BYTES];
	__u64 address; /* of the socket that is visited, which may be copied or not */
	__u64 cookie;  /* of its slot, when it was copied */
	__u32 place;   /* one more than the index of its slot; 0: its state is elsewhere */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sock_copy);
} copies SEC(".maps");

/*
 * A copy of the socket at an address. Its fields can be read directly, but it cannot be passed to helpers, and its
 * pointers need probing reads.
 */
static __always_inline struct sock *sock_copied(__u64 address)
{
	__u32 zero = 0;
	struct sock_copy *copy = bpf_map_lookup_elem(&copies, &zero);

	if (!copy || bpf_core_type_size(struct tcp_sock) > COPY_BYTES)
		return NULL;
	if (bpf_probe_read_kernel(copy, bpf_core_type_size(struct tcp_sock), (void *)address))
		return NULL;
	copy->address = address;
	copy->place = 0;
	return (struct sock *)copy;
}

static __always_inline void address_note(struct sock *sk)
{
	__u32 zero = 0;
	struct sock_copy *copy = bpf_map_lookup_elem(&copies, &zero);

	if (!copy)
		return;
	copy->address = (__u64)sk;
	copy->place = 0;
}

/* In visit(): the socket's own address. */
static __always_inline __u64 address_seen(void)
{
	__u32 zero = 0;
	const struct sock_copy *copy = bpf_map_lookup_elem(&copies, &zero);

	return copy ? copy->address : 0;
}

static __always_inline struct tcp_sock *tcp_copied(struct sock *copy)
{
	struct tcp_sock *tp = protocol_of(copy) == IPPROTO_TCP ? (struct tcp_sock *)copy : NULL;

	/* Later tests must test the pointer: the verifier of 5.10 loses track of the number. */
	barrier_var(tp);
	return tp;
}

/* Whether it is a copy of the socket whose slot has this cookie, or mark. */
static __always_inline bool is_copy_of(struct sock *copy, __u64 cookie)
{
	if (is_mark(cookie))
		return copy->__sk_common.skc_state != TCP_LISTEN && child_mark(copy) == cookie;
	return (__u64)copy->__sk_common.skc_cookie.counter == cookie;
}

/* The state in a slot, with a copy of its socket; NULL if the slot has none, or the socket is gone. */
static __always_inline struct sock_state *slot_seen(__u32 index, struct sock **sk)
{
	struct sock_slot *slot = slot_at(index);

	if (!slot || !slot->address || !slot->cookie)
		return NULL;
	__u64 cookie = slot->cookie;
	struct sock *copy = sock_copied(slot->address);
	if (!copy || !is_copy_of(copy, cookie))
		return NULL;
	if (copy->__sk_common.skc_state == TCP_CLOSE && copy->__sk_common.skc_flags & (1UL << SOCK_DEAD))
		return NULL;
	((struct sock_copy *)copy)->cookie = cookie;
	((struct sock_copy *)copy)->place = index + 1;
	*sk = copy;
	return &slot->state;
}

/* Whether the state that visit() has read is that of the visited socket: its slot may be another's by now. */
static __always_inline bool is_still_seen(void)
{
	__u32 zero = 0;
	const struct sock_copy *copy = bpf_map_lookup_elem(&copies, &zero);

	if (config.missing.socket_table || !copy || !copy->place)
		return true;
	const volatile struct sock_slot *slot = slot_at(copy->place - 1);
	return slot && slot->cookie == copy->cookie && slot->address == copy->address;
}

/* Writes a record in visit(), where the socket still has its state; 0 if it is written. */
static __always_inline long seen_write(struct seq_file *seq, const void *record, __u32 size)
{
	barrier(); /* all of the state is read */
	return is_still_seen() ? bpf_seq_write(seq, record, size) : -ENOENT;
}

/* Room for a record that has none on the stack. Iterators of one command do not run at the same time. */
#define SEEN_RECORD(name)                                          \
	struct {                                                   \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);           \
		__uint(max_entries, 1);                            \
		__type(key, __u32);                                \
		__type(value, struct name);                        \
	} name##_record SEC(".maps");                              \
                                                                   \
	static __always_inline struct name *name##_seen(void)      \
	{                                                          \
		__u32 zero = 0;                                    \
                                                                   \
		return bpf_map_lookup_elem(&name##_record, &zero); \
	}

/*
 * Defines four programs, of which session/mod.rs loads those that the kernel supports and that it needs. Each calls
 * visit(seq, sk, tp, s) for sockets that have state; tp is NULL unless it is a TCP socket. `_by_slot` and `_by_address`
 * visit copies of sockets, see sock_copied(). `_by_namespace` is for kernels with socket storage but no iterator over map
 * elements: it visits the TCP sockets of the current network namespace that are not in CLOSE.
 */
#define EACH_SOCKET(name, visit)                                                   \
	SEC("?iter/bpf_sk_storage_map")                                            \
	int name(struct bpf_iter__bpf_sk_storage_map *ctx)                         \
	{                                                                          \
		struct sock *sk = ctx->sk;                                         \
		struct sock_state *s = ctx->value;                                 \
                                                                                   \
		if (!sk || !s)                                                     \
			return 0;                                                  \
		/* Two programs may have been looking for a slot at once. */       \
		if (!config.missing.socket_table && table_find(sk))                \
			return 0;                                                  \
		cookie_of(sk); /* makes one, which visit() reads */                \
		address_note(sk);                                                  \
		visit(ctx->meta->seq, sk, bpf_skc_to_tcp_sock(sk), s);             \
		return 0;                                                          \
	}                                                                          \
                                                                                   \
	SEC("?iter/bpf_map_elem")                                                  \
	int name##_by_slot(struct bpf_iter__bpf_map_elem *ctx)                     \
	{                                                                          \
		__u32 *index = ctx->key;                                           \
		struct sock *sk;                                                   \
                                                                                   \
		if (!index)                                                        \
			return 0;                                                  \
		struct sock_state *s = slot_seen(*index, &sk);                     \
		if (s)                                                             \
			visit(ctx->meta->seq, sk, tcp_copied(sk), s);              \
		return 0;                                                          \
	}                                                                          \
                                                                                   \
	SEC("?iter/tcp")                                                           \
	int name##_by_namespace(struct bpf_iter__tcp *ctx)                         \
	{                                                                          \
		struct sock_common *common = ctx->sk_common;                       \
		struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL; \
                                                                                   \
		if (!tp) /* a TIME_WAIT or request socket */                       \
			return 0;                                                  \
		struct sock_state *s = state_find((struct sock *)tp);              \
		if (s) {                                                           \
			cookie_of((struct sock *)tp);                              \
			address_note((struct sock *)tp);                           \
			visit(ctx->meta->seq, (struct sock *)tp, tp, s);           \
		}                                                                  \
		return 0;                                                          \
	}                                                                          \
                                                                                   \
	SEC("?iter/bpf_map_elem")                                                  \
	int name##_by_address(struct bpf_iter__bpf_map_elem *ctx)                  \
	{                                                                          \
		__u64 *address = ctx->key;                                         \
		struct sock_state *s = ctx->value;                                 \
                                                                                   \
		if (!address || !s)                                                \
			return 0;                                                  \
		struct sock *sk = sock_copied(*address);                           \
		if (sk)                                                            \
			visit(ctx->meta->seq, sk, tcp_copied(sk), s);              \
		return 0;                                                          \
	}

#endif
