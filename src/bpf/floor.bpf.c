/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Empty programs, one per tracepoint: what an event costs at the least. The benchmark measures everything against them. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define FLOOR(event)                      \
	SEC("tp_btf/" #event)             \
	int floor_##event(void *ctx)      \
	{                                 \
		return 0;                 \
	}

FLOOR(inet_sock_set_state)
FLOOR(tcp_retransmit_skb)
FLOOR(tcp_send_reset)
FLOOR(tcp_receive_reset)
FLOOR(tcp_probe)
FLOOR(tcp_destroy_sock)
FLOOR(tcp_rcv_space_adjust)
