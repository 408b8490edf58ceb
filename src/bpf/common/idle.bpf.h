/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For how long a connection has carried no data. */
#ifndef TCPTOOLS_IDLE_BPF_H
#define TCPTOOLS_IDLE_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

#define IDLE_UNKNOWN (~0U)

/*
 * Jiffies since data was last sent, retransmissions included, or received (tcpi_last_data_sent and tcpi_last_data_recv of
 * net/ipv4/tcp.c: tcp_get_info); IDLE_UNKNOWN if there never was any.
 */
static __always_inline __u32 idle_jiffies(struct tcp_sock *tp)
{
	__u32 now = bpf_jiffies64();
	__u32 sent = now - tp->lsndtime;
	__u32 received = now - tp->inet_conn.icsk_ack.lrcvtime;

	/* Before, these are the time of the handshake. */
	if (!tp->data_segs_out)
		sent = IDLE_UNKNOWN;
	if (!tp->data_segs_in)
		received = IDLE_UNKNOWN;
	return sent < received ? sent : received;
}

#endif
