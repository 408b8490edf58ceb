/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flow and flags from packet headers, for events without a socket. Uses only helpers to read, so the fallback programs
 * (fallback.bpf.c) can use it too.
 */
#ifndef TCPTOOLS_PACKET_BPF_H
#define TCPTOOLS_PACKET_BPF_H

#include "filter.bpf.h"
#include <bpf/bpf_core_read.h>

/*
 * The packet's flow from the local point of view, and its flags. The headers are where skb says (net/ipv4/tcp_ipv4.c:
 * tcp_v4_send_reset); their layout is that of RFC 791, 8200 and 9293.
 */
static __always_inline bool packet_flow(struct flow *flow, __u8 *flags, struct sk_buff *skb)
{
	unsigned char *head = BPF_CORE_READ(skb, head);
	unsigned char *ip = head + BPF_CORE_READ(skb, network_header);
	unsigned char *tcp = head + BPF_CORE_READ(skb, transport_header);
	__u8 version = 0;
	__be16 ports[2] = {};

	bpf_probe_read_kernel(&version, sizeof(version), ip);
	bpf_probe_read_kernel(ports, sizeof(ports), tcp);
	bpf_probe_read_kernel(flags, sizeof(*flags), tcp + 13);
	flow->lport = bpf_ntohs(ports[1]);
	flow->rport = bpf_ntohs(ports[0]);
	flow->pad[0] = flow->pad[1] = flow->pad[2] = 0;
	flow->ifindex = 0;
	version >>= 4;
	flow->family = version;
	if (version == 4) {
		__be32 addrs[2] = {};
		bpf_probe_read_kernel(addrs, sizeof(addrs), ip + 12);
		map_v4(flow->laddr, addrs[1]);
		map_v4(flow->raddr, addrs[0]);
		return true;
	}
	bpf_probe_read_kernel(flow->raddr, sizeof(flow->raddr), ip + 8);
	bpf_probe_read_kernel(flow->laddr, sizeof(flow->laddr), ip + 24);
	if (has_zone(flow) && bpf_core_field_exists(skb->skb_iif))
		flow->ifindex = BPF_CORE_READ(skb, skb_iif);
	return version == 6;
}

#endif
