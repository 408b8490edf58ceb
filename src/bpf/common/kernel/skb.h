/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets: what is sent and received, and which way it goes. Part of kernel.h, which says what a field may be. */
#ifndef TCPTOOLS_KERNEL_SKB_H
#define TCPTOOLS_KERNEL_SKB_H

#include "kernel/sock.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* parts of the kernel's types */

/* include/linux/netdevice.h */
struct net_device {
	char name[16];
	int ifindex;
	possible_net_t nd_net;
};

/* include/linux/skbuff.h */
struct sk_buff {
	struct sk_buff *prev;
	unsigned int truesize;
	int skb_iif; /* the interface that it came by; 0: it was made here */
	struct net_device *dev;
	struct sock *sk;           /* whose it is: the sender's, or the receiver's once that is found */
	unsigned long _skb_refdst; /* its route; the lowest bit says whether it is counted */
	unsigned int len;
	unsigned int tail; /* the end of what lies at head, from head */
	unsigned int end;  /* where struct skb_shared_info lies, from head */
	char cb[48];
	__be16 protocol;        /* ETH_P_*, network order; 0: it has no network header yet */
	__u16 transport_header; /* from head */
	__u16 network_header;
	__u8 encapsulation : 1; /* it is in a tunnel, and what follows is valid */
	__u16 inner_network_header;
	unsigned char *head;
	unsigned char *data;
};

struct skb_shared_info {
	unsigned short gso_segs; /* 0: it is a single segment */
};

/* include/net/dst.h, include/net/route.h, include/net/ip6_fib.h: a route */
struct dst_entry {
	struct net_device *dev;
	unsigned short flags; /* DST_* */
};

struct rtable {
	unsigned int rt_flags; /* RTCF_* */
};

struct rt6_info {
	__u32 rt6i_flags; /* RTF_* */
};

/* include/uapi/linux/ip.h, include/uapi/linux/ipv6.h: what is looked at first */
struct iphdr {
	__u8 protocol;
};

struct ipv6hdr {
	__u8 nexthdr;
};

/* include/linux/errqueue.h: what an entry of the error queue keeps in skb->cb */
struct sock_extended_err {
	__u32 ee_errno;
	__u8 ee_origin;
};

struct sock_exterr_skb {
	struct sock_extended_err ee;
};

/* include/net/tcp.h: what TCP keeps in skb->cb */
struct tcp_skb_cb {
	__u32 seq;
	__u32 end_seq;
	__u16 tcp_gso_segs;
	__u16 tcp_flags;
};

#pragma clang diagnostic pop
#pragma clang attribute pop

#endif
