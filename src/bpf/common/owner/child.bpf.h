/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A child and its listener; and sockets that are known by nothing but their address. */
#ifndef TCPTOOLS_CHILD_BPF_H
#define TCPTOOLS_CHILD_BPF_H

#include "kernel/compat.bpf.h"
#include <bpf/bpf_endian.h>

/* ---------------------------------------------------------------- addresses */

enum { SCRATCHES = 64 };

/* Half of an address, as a number: a 32-bit move makes one of a pointer, which needs the right to read kernel memory. */
static __always_inline __u32 half_of(__u64 address)
{
	__u64 half;

	asm volatile("r1 = %[address]\n\tw1 = w1\n\t%[half] = r1" : [half] "=r"(half) : [address] "r"(address) : "r1");
	return half;
}

/* The socket at an address may be gone, and its memory anything. */
static __always_inline __u64 cookie_at(__u64 address)
{
	return READ_AT(address, sock, __sk_common.skc_cookie.counter);
}

static __always_inline __u8 state_at(__u64 address)
{
	return READ_AT(address, sock, __sk_common.skc_state);
}

static __always_inline unsigned long flags_at(__u64 address)
{
	return READ_AT(address, sock, __sk_common.skc_flags);
}

/*
 * A pointer as a number: the verifier lets nobody calculate with a pointer, nor hand it to a global function. What comes
 * out of a map is a number. An event that interrupts this program may have left its own there.
 */
struct scratch {
	volatile __u64 word;
	__u64 pad[7];
};
struct scratch scratch[SCRATCHES] SEC(".data.sockets") __attribute__((aligned(64))) = {};

static __always_inline __u64 number_of(__u64 pointer)
{
	struct scratch *mine = &scratch[bpf_get_smp_processor_id() & (SCRATCHES - 1)];

	mine->word = pointer;
	__u64 found = mine->word, number = found;
	barrier_var(number); /* or the compiler takes the pointer, which is equal */
	if (found != pointer)
		bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* ---------------------------------------------------------------- the listener of a child */

static __always_inline __u64 tsq_next(struct tcp_sock *tp)
{
	__u64 next;

	if (CAN_CAST(tcp_sock))
		next = (__u64)READ_ONLY(tp, tcp_sock)->tsq_node.next;
	else
		next = (__u64)BPF_CORE_READ(tp, tsq_node.next);
	return number_of(next);
}

/*
 * The address of the listener of a child that is just being created, 0 for other sockets. An empty list node points to
 * itself; in the copy it still points into the listener (net/ipv4/tcp.c: tcp_init_sock; net/ipv4/tcp_minisocks.c:
 * tcp_create_openreq_child, which makes a new one after this event). The listener's own must be empty, or the copy
 * points elsewhere.
 */
static __always_inline __u64 listener_address(struct sock *sk)
{
	struct tcp_sock *tp = (void *)sk;
	__u64 offset = bpf_core_field_offset(struct tcp_sock, tsq_node);

	if (sk->__sk_common.skc_state != TCP_LISTEN)
		return 0;
	__u64 listener = tsq_next(tp) - offset;
	if (listener == (__u64)sk)
		return 0;
	if (tsq_next((struct tcp_sock *)listener) - offset != listener || state_at(listener) != TCP_LISTEN)
		return 0;
	return listener;
}

/* ---------------------------------------------------------------- a child without a cookie */

/*
 * Until 6.14 a child has its listener's cookie while it is being created, and its own only after that event
 * (net/ipv4/inet_connection_sock.c: inet_csk_clone_lock). Its slot is marked by what stays as it is: the namespace and
 * the local port. Another socket that gets its memory has others, or is a child with an event of its own. Cookies are
 * counted up from 1, and never have the highest bit.
 */
static __always_inline bool is_mark(__u64 cookie)
{
	return cookie >> 63;
}

static __always_inline __u64 child_mark(struct sock *sk)
{
	__u16 port = sk->__sk_common.skc_num;

	if (!port) /* it is released before CLOSE is reported (net/ipv4/tcp.c: tcp_set_state) */
		port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	return 1ULL << 63 | (__u64)netns_of(sk) << 16 | port;
}

/* The cookie of a child that is just being created, or its mark: the addresses are its listener's until then, too. */
static __always_inline __u64 child_cookie(struct sock *sk)
{
	return sk->__sk_common.skc_dport ? cookie_of(sk) : child_mark(sk);
}

#endif
