/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Per-socket state: state_find(), state_make() and state_end(). each.bpf.h iterates over all.
 *
 * TCP sockets have it in a table (table.bpf.h). What finds no slot there, other sockets, and all sockets without the
 * table (missing.socket_table) have it in socket storage: unbounded, freed with the socket, and cloned from a listener
 * to its children. So only the children of such listeners cost a clone. Without socket storage (missing.sk_storage) it
 * is in a bounded table keyed by the socket's address; overflow is counted, and forget_socket() (owner.bpf.h) removes
 * entries.
 */
#ifndef TCPTOOLS_STATE_BPF_H
#define TCPTOOLS_STATE_BPF_H

#include "kernel/process.bpf.h"
#include "owner/sock_state.bpf.h"
#include "owner/table.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sock_state);
} sockets SEC(".maps");

/* Whether anything is in the storage: what is not in the table is in neither, otherwise. */
struct storage {
	__u64 used;
};
struct storage storage SEC(".data.sockets") = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* user space sets the size if needed */
	__type(key, __u64);
	__type(value, struct sock_state);
} sockets_by_address SEC(".maps");

/* ---------------------------------------------------------------- without socket storage */

static __always_inline struct sock_state *address_find(__u64 address)
{
	return bpf_map_lookup_elem(&sockets_by_address, &address);
}

static __always_inline struct sock_state *address_make(struct sock *sk)
{
	__u64 listener = listener_address(sk);
	__u64 address = (__u64)sk;
	const struct sock_state *initial = NULL;
	struct sock_state *s = NULL;

	if (listener)
		initial = address_find(listener);
	else
		s = address_find(address);
	if (s)
		return s;
	/* Always overwrite: the entry may belong to a freed socket at the same address. */
	if (bpf_map_update_elem(&sockets_by_address, &address, initial ?: &ZERO_STATE, BPF_ANY))
		return NULL;
	return address_find(address);
}

/* ---------------------------------------------------------------- the table, or storage */

/* Sockets that close: a raw socket may have TCP's number. */
static __always_inline bool in_table(struct sock *sk)
{
	return !config.missing.socket_table && protocol_of(sk) == IPPROTO_TCP && type_of(sk) == SOCK_STREAM;
}

/* NULL if the socket has no state. */
static __always_inline struct sock_state *state_find(struct sock *sk)
{
	if (config.missing.sk_storage)
		return address_find((__u64)sk);
	if (!config.missing.socket_table) {
		struct sock_state *s = table_find(sk);
		if (s || !storage.used)
			return s;
	}
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

/*
 * The same, of a socket to which another structure points: new kernels let no helper have it. What found no slot in the
 * table is not found here.
 */
static __always_inline struct sock_state *state_peek(struct sock *sk)
{
	if (config.missing.sk_storage)
		return address_find((__u64)sk);
	if (config.missing.socket_table)
		return bpf_sk_storage_get(&sockets, sk, 0, 0);
	return table_peek(sk);
}

/* Counts a TCP socket whose state is in storage: one that found no slot, or whose listener did not. */
static __always_inline struct sock_state *stored(struct sock_state *s, struct sock *sk)
{
	if (!s || s->stored == half_of((__u64)sk))
		return s;
	s->stored = half_of((__u64)sk);
	if (in_table(sk))
		__sync_fetch_and_add(&counters.stored, 1);
	return s;
}

/* State for a TCP socket that has none, in the table or else in storage. */
static __always_inline struct sock_state *state_create(struct sock *sk, const struct sock_state *initial)
{
	if (!sk || !initial)
		return NULL;
	if (in_table(sk)) {
		__u64 listener = listener_address(sk);
		__u64 cookie = listener ? child_cookie(sk) : cookie_of(sk);
		const struct process *process = &initial->holder.process;
		__u64 ids = process->tgid | (__u64)process->start_time << 32;
		int index = slot_take(number_of((__u64)sk), cookie, listener, process->task, ids);
		struct sock_slot *slot = index >= 0 ? slot_at(index) : NULL;
		if (slot)
			return &slot->state;
		if (listener)
			initial = table_find_listener(listener) ?: initial;
	}
	storage.used = 1;
	return stored(bpf_sk_storage_get(&sockets, sk, (void *)initial, BPF_SK_STORAGE_GET_F_CREATE), sk);
}

/*
 * The socket's state. If it has none, it is created as zeros but for the holder of `initial`, and a child's as its
 * listener's; NULL, and counted, if that fails.
 */
static __always_inline struct sock_state *state_make_inline(struct sock *sk, const struct sock_state *initial)
{
	struct sock_state *s;

	if (config.missing.sk_storage) {
		s = address_make(sk);
	} else if (config.missing.socket_table) {
		s = bpf_sk_storage_get(&sockets, sk, (void *)initial, BPF_SK_STORAGE_GET_F_CREATE);
	} else {
		s = table_find(sk);
		bool over = s && s->over; /* and used again */
		if (!s && storage.used)
			s = stored(bpf_sk_storage_get(&sockets, sk, 0, 0), sk);
		if (!s || over)
			s = state_create(sk, initial);
	}
	if (!s)
		loss_count(&counters.untracked, 1);
	return s;
}

/* As a function, for programs that need their stack for what follows. */
static __noinline __attribute__((unused)) struct sock_state *state_make_as(struct sock *sk,
									   const struct sock_state *initial)
{
	return sk && initial ? state_make_inline(sk, initial) : NULL;
}

static __always_inline struct sock_state *state_make(struct sock *sk)
{
	return state_make_inline(sk, &ZERO_STATE);
}

/*
 * The last event that needs the state, unless the socket is used again. Call it last: from then on the slot may be another
 * socket's.
 */
static __always_inline void state_done(struct sock_state *s)
{
	s->over = 1;
}

/*
 * The same, if the socket is closed by its process too. Others are closed now and may be used again; whoever needs their
 * slot sees whether they are gone (table.bpf.h: bucket_gone). Events that follow find the state or do not, and write
 * nothing to it.
 */
static __always_inline void state_end(struct sock_state *s, struct sock *sk)
{
	if (sk->__sk_common.skc_flags & (1UL << SOCK_DEAD))
		state_done(s);
}

static __always_inline __u32 change_of(int old, int new)
{
	return old << 8 | new;
}

/*
 * Claims a state change; false if a backup program (nested.bpf.h) has handled it already. A socket's changes are
 * serialised by its lock, and consecutive ones differ. A program that ignores some changes must call mark_change() for
 * one between any two equal ones.
 */
static __always_inline bool claim_change(struct sock_state *s, int old, int new)
{
	if (s->change == change_of(old, new))
		return false;
	s->change = change_of(old, new);
	return true;
}

/* Marks a change as handled that is needed only to separate two others. */
static __always_inline void mark_change(struct sock *sk, int old, int new)
{
	struct sock_state *s = state_find(sk);

	if (s)
		s->change = change_of(old, new);
}

#endif
