/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A preallocated table of TCP sockets: no allocation for a socket, none for its children, nothing to free.
 *
 * A socket is found by its address, and told from an earlier socket at that address by its cookie, which is never
 * reused. Its bucket has WAYS slots. Finding takes no lock. Only taking a slot takes the bucket's, so that an event and
 * a scan of all files cannot make two states for one socket; that lock keeps interrupts off (kernel/bpf/helpers.c:
 * __bpf_spin_lock_irqsave), so no event waits for the program that it interrupts.
 *
 * A slot is never given back, but taken over: when the memory of its socket becomes another socket; when its socket is
 * `over`; or when it is found to be gone, if a bucket is full. Until then events after CLOSE find the state. A socket
 * for which there is no slot has its state in socket storage (state.bpf.h).
 */
#ifndef TCPTOOLS_TABLE_BPF_H
#define TCPTOOLS_TABLE_BPF_H

#include "kernel/order.bpf.h"
#include "kernel/process.bpf.h"
#include "owner/child.bpf.h"

enum { WAYS = 4 };

/*
 * The last event for which a command needs the state of a closed socket: the change to CLOSE, or tcp:tcp_destroy_sock,
 * if it defines NEEDED_UNTIL before.
 */
enum { CLOSED_FOR_GOOD, DESTROYED };
#ifndef NEEDED_UNTIL
#define NEEDED_UNTIL CLOSED_FOR_GOOD
#endif

struct sock_slot {
	struct bpf_spin_lock lock; /* of the bucket, in its first slot */
	__u32 taken;               /* counts how often a slot of the bucket was taken, in its first slot */
	__u64 address;             /* of the socket, read only; 0: never taken */
	__u64 cookie;              /* of the socket, or a mark (child.bpf.h); 0: it is being filled */
	struct sock_state state;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WAYS); /* user space sets the size, a power of two */
	__type(key, __u32);
	__type(value, struct sock_slot);
} socket_table SEC(".maps");

/* The slot where a socket is looked for first. The others of its bucket differ in the lowest bits. */
static __always_inline __u32 slot_home(__u64 address)
{
	return (half_of(address) >> 6) * 0x9e3779b1U >> config.table_shift;
}

static __always_inline struct sock_slot *slot_at(__u32 index)
{
	return bpf_map_lookup_elem(&socket_table, &index);
}

/* ---------------------------------------------------------------- finding */

/*
 * The slot of the socket at an address, or the one that its memory had as another socket; NULL without any. Sockets take
 * the first slot on their way that was never taken, so none lies behind such a slot.
 */
static __always_inline struct sock_slot *slot_of_address(__u64 address)
{
	__u32 home = slot_home(address);

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		struct sock_slot *slot = slot_at(home ^ i);
		if (!slot || !slot->address)
			return NULL;
		if (slot->address == address)
			return slot;
	}
	return NULL;
}

/* The state of a child whose slot is marked; NULL if another socket has got its memory. */
static __noinline struct sock_state *child_find(struct sock_slot *slot, struct sock *sk)
{
	if (slot->cookie != child_mark(sk))
		return NULL;
	if (sk->__sk_common.skc_state != TCP_LISTEN) /* it has got its own cookie by now */
		slot->cookie = cookie_of(sk);
	return &slot->state;
}

static __always_inline struct sock_state *table_find(struct sock *sk)
{
	struct sock_slot *slot = slot_of_address((__u64)sk);

	if (!slot)
		return NULL;
	__u64 cookie = slot->cookie;
	if (cookie == (__u64)sk->__sk_common.skc_cookie.counter)
		return &slot->state;
	return is_mark(cookie) ? child_find(slot, sk) : NULL;
}

/* The same, without a helper, and without a note that a child has got its own cookie. */
static __always_inline struct sock_state *table_peek(struct sock *sk)
{
	struct sock_slot *slot = slot_of_address((__u64)sk);

	if (!slot)
		return NULL;
	__u64 cookie = slot->cookie;
	bool is_its = is_mark(cookie) ? cookie == child_mark(sk) : cookie == (__u64)sk->__sk_common.skc_cookie.counter;
	return is_its ? &slot->state : NULL;
}

static __always_inline const struct sock_state *table_find_listener(__u64 listener)
{
	struct sock_slot *slot = slot_of_address(listener);

	return slot && slot->cookie == cookie_at(listener) ? &slot->state : NULL;
}

/* ---------------------------------------------------------------- taking a slot */

/* 1 unless it is 0; without a branch, which the verifier would follow in both directions. */
static __always_inline __u64 is_set(__u64 number)
{
	__u64 sign = number | -number;

	barrier_var(sign);
	return sign >> 63;
}

/* The place of the lowest of four bits, of which one is set: two bits of the number for each. */
static __always_inline __u32 lowest_bit(__u32 bits)
{
	return 0x12131210U >> bits * 2 & 3;
}

struct bucket {
	struct sock_slot *slot[WAYS]; /* in the order in which the socket looks for its own */
};

/*
 * The place of the socket's own slot in its bucket, or of the first that was never taken, or else of one that may be
 * taken over; WAYS if there is none. `gone`: bits of slots whose sockets are gone.
 */
static __always_inline __u32 slot_choose(const struct bucket *bucket, __u64 address, __u32 gone)
{
	__u32 mine = 0, others = gone;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u64 there = bucket->slot[i]->address;
		mine |= (__u32)(1 ^ (is_set(there) & is_set(there ^ address))) << i;
		others |= (bucket->slot[i]->state.over & 1) << i;
	}
	if (!mine)
		mine = others;
	return mine ? lowest_bit(mine & 15) : WAYS;
}

/*
 * Which sockets of a full bucket are gone: the memory is another socket's; or, if nothing more is NEEDED, it is closed,
 * and by its process too, and will not be used again (net/ipv4/tcp.c: tcp_done, __tcp_close). A mark says nothing of the memory, nor does a cookie
 * that is UNSEEN.
 */
static __always_inline __u32 bucket_gone(const struct bucket *bucket)
{
	__u32 gone = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < WAYS; i++) {
		__u64 address = bucket->slot[i]->address, cookie = bucket->slot[i]->cookie;
		__u64 another = is_set(cookie_at(address) ^ cookie);
		__u64 closed = 1 ^ is_set(state_at(address) ^ TCP_CLOSE);
		__u64 dead = NEEDED_UNTIL == DESTROYED ? 0 : flags_at(address) >> SOCK_DEAD & 1;
		__u64 final = 1 ^ is_set(cookie >> 62);
		gone |= (__u32)(is_set(cookie) & ((another & final) | (closed & dead))) << i;
	}
	return gone;
}

/* Whether it is the socket's own slot, or one that was never taken. */
static __always_inline bool suits(const struct sock_slot *slot, __u64 address)
{
	return !slot->address || slot->address == address;
}

/* Set in a cookie until other CPUs see what the slot was filled with. */
#define UNSEEN (IN_ORDER ? 0 : 1ULL << 62)

/* The listener's owner may change meanwhile; see owner_set(). */
static __always_inline void slot_fill(struct sock_slot *slot, __u64 address, __u64 cookie,
				      const struct sock_state *initial)
{
	const volatile __u32 *version = (const volatile __u32 *)&initial->owner.source; /* with the source */
	__u32 before = *version;

	slot->cookie = 0;
	barrier();
	slot->state = *initial;
	barrier();
	if (*version != before)
		slot->state.owner.source = PID_UNKNOWN;
	slot->state.over = 0;
	slot->address = address;
	barrier();
	slot->cookie = cookie | UNSEEN;
}

/*
 * Takes a slot, unless another program has just done so for the same socket: its index, or -1 if the bucket is full. A
 * child begins with its listener's state, others with zeros and, in a scan, this process as holder (`task`, and the
 * rest of struct process in a word).
 *
 * The verifier checks a global function once, and not for each caller; so it takes and returns numbers. `cookie`: or a
 * mark; then the socket is new.
 */
__noinline int slot_take(__u64 address, __u64 cookie, __u64 listener, __u64 task, __u64 ids)
{
	if (config.missing.socket_table)
		return -1;
	__u32 home = slot_home(address);
	struct sock_slot *first = slot_at(home & ~(WAYS - 1));
	struct bucket bucket = {{slot_at(home), slot_at(home ^ 1), slot_at(home ^ 2), slot_at(home ^ 3)}};
	if (!first || !bucket.slot[0] || !bucket.slot[1] || !bucket.slot[2] || !bucket.slot[3])
		return -1;
	const struct sock_state *initial = listener ? table_find_listener(listener) : NULL;
	if (!initial)
		initial = &ZERO_STATE;
	__u32 taken = first->taken, gone = 0, place = 0;
	struct sock_slot *slot = bucket.slot[0];
	if (!suits(slot, address) && slot_choose(&bucket, address, 0) == WAYS)
		gone = bucket_gone(&bucket);

	bpf_spin_lock(&first->lock);
	if (first->taken != taken) /* by a socket that is not gone */
		gone = 0;
	if (!suits(slot, address)) { /* otherwise the others need not be looked at */
		place = slot_choose(&bucket, address, gone);
		slot = place == 0 ? bucket.slot[0] :
		       place == 1 ? bucket.slot[1] :
		       place == 2 ? bucket.slot[2] :
				    bucket.slot[3];
	}
	bool known = slot->address == address && (slot->cookie & ~UNSEEN) == cookie && !is_mark(cookie);
	if (place < WAYS && known) {
		slot->state.over = 0;
	} else if (place < WAYS) {
		slot_fill(slot, address, cookie, initial);
		if (task) {
			slot->state.holder.number = scan.number;
			slot->state.holder.process.tgid = ids;
			slot->state.holder.process.start_time = ids >> 32;
			slot->state.holder.process.task = task;
		}
		first->taken++;
	}
	bpf_spin_unlock(&first->lock);
	if (!IN_ORDER && place < WAYS) {
		/* What is stored before a lock is released is seen before what is stored under it later. */
		bpf_spin_lock(&first->lock);
		slot->cookie &= ~UNSEEN;
		bpf_spin_unlock(&first->lock);
	}
	return place < WAYS ? (int)(home ^ place) : -1;
}

#endif
