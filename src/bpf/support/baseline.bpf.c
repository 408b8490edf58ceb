/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Empty programs, one per tracepoint: the minimum cost of an event, the baseline of the benchmark. */
#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define BASELINE(event)                 \
	SEC("tp_btf/" #event)           \
	int baseline_##event(void *ctx) \
	{                               \
		return 0;               \
	}

BASELINE(inet_sock_set_state)
BASELINE(tcp_retransmit_skb)
BASELINE(tcp_send_reset)
BASELINE(tcp_receive_reset)
BASELINE(tcp_probe)
BASELINE(tcp_destroy_sock)
BASELINE(tcp_cong_state_set)
BASELINE(tcp_rcv_space_adjust)
BASELINE(udp_fail_queue_rcv_skb)
BASELINE(kfree_skb)
