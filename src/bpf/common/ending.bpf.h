/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How an active open ended, and the error that ended a socket where sk_err does not hold it. Uses only helpers to read, so
 * the fallback programs (fallback_socket.bpf.h) can use it too.
 */
#ifndef TCPTOOLS_ENDING_BPF_H
#define TCPTOOLS_ENDING_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Entries of the error queue to check, newest first; a timestamp may be queued after an ICMP error. */
enum { ERRORS_DEPTH = 4 };

/* The errno of the last ICMP error in the error queue; 0: none. */
static __always_inline __u32 queued_icmp_error(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_error_queue) || !bpf_core_field_exists(struct sock_exterr_skb, ee))
		return 0;
	void *head = (void *)sk + bpf_core_field_offset(sk->sk_error_queue);
	struct sk_buff *skb = BPF_CORE_READ(sk, sk_error_queue.prev);

	for (int i = 0; i < ERRORS_DEPTH && skb && (void *)skb != head; i++) {
		struct sock_exterr_skb *entry = (void *)skb + bpf_core_field_offset(skb->cb);
		__u8 origin = BPF_CORE_READ(entry, ee.ee_origin);
		if (origin == SO_EE_ORIGIN_ICMP || origin == SO_EE_ORIGIN_ICMP6)
			return BPF_CORE_READ(entry, ee.ee_errno);
		skb = BPF_CORE_READ(skb, prev);
	}
	return 0;
}

/*
 * Why a connect attempt failed, at the change to CLOSE; 0: abandoned by the process, or unknown.
 *
 * An ICMP error that arrives while connect() holds the socket does not end the attempt: sk_err stays 0, and the
 * application reads sk_err_soft with SO_ERROR, which clears it. For IPv4 the error is also in the error queue, since
 * 5.9 even without IP_RECVERR (net/ipv4/tcp_ipv4.c: tcp_v4_err; net/core/sock.c: sk_getsockopt).
 */
static __always_inline int connect_error(struct sock *sk, int error)
{
	if (error || !bpf_core_field_exists(sk->sk_err_soft))
		return error;
	error = BPF_CORE_READ(sk, sk_err_soft);
	return error ?: queued_icmp_error(sk);
}

/* Of an active open. */
enum outcome {
	OUTCOME_ESTABLISHED,
	OUTCOME_REFUSED,
	OUTCOME_RESET,
	OUTCOME_TIMEOUT,
	OUTCOME_UNREACHABLE,
	OUTCOME_ABORTED,
	OUTCOME_PENDING,
	OUTCOME_NO_PORT,
};

static __always_inline __u8 outcome_of_error(int error)
{
	switch (error) {
	case 0:            /* the process closed it, or connect() itself failed */
	case ECONNABORTED: /* tcp_abort(): ss -K, bpf_sock_destroy() */
		return OUTCOME_ABORTED;
	case ECONNREFUSED:
		return OUTCOME_REFUSED;
	case ECONNRESET: /* after a simultaneous open's SYN_RECV */
		return OUTCOME_RESET;
	case ETIMEDOUT:
		return OUTCOME_TIMEOUT;
	}
	return OUTCOME_UNREACHABLE; /* what ICMP and the route can say (net/ipv4/icmp.c: icmp_err_convert) */
}

#endif
