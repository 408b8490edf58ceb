/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A TCP segment by the headers of its packet, wherever the packet is on its way through this host. What lies in a tunnel
 * is not looked at: its outer packet is none of TCP's.
 */
#ifndef TCPTOOLS_SEGMENT_BPF_H
#define TCPTOOLS_SEGMENT_BPF_H

#include "tcp.bpf.h"

/* Which way it goes. Addresses are local and remote as seen from here: of a forwarded one as if it were received. */
enum segment_way { SEGMENT_RECEIVED, SEGMENT_SENT, SEGMENT_FORWARDED };

struct segment {
	struct flow flow;
	__u32 seq;
	__u32 len; /* payload, bytes: all of it, if it is to be cut into several */
	__u16 flags;
	__u8 way;
	__u8 pad;
};

/* RFC 791, 8200 and 9293: what is read of them. */
struct ipv4_header {
	__u8 version_length;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__u8 version;
	__u8 class_label[3];
	__be16 payload_length;
	__u8 next;
	__u8 hop_limit;
	__be32 source[4];
	__be32 destination[4];
};

struct tcp_header {
	__be16 source;
	__be16 destination;
	__be32 seq;
	__be32 ack;
	__u8 offset_ae;
	__u8 flags;
	__be16 window;
};

/* Headers between IPv6 and TCP that have their length in units of 8 bytes, and how many of them are passed over. */
enum { IPV6_HOP_OPTIONS = 0, IPV6_ROUTING = 43, IPV6_OPTIONS = 60, IPV6_MAX_EXTENSIONS = 3 };

/* ---------------------------------------------------------------- where it is */

/* Inode numbers of network namespaces (include/linux/proc_ns.h, include/uapi/linux/nsfs.h). */
enum { FIRST_NETNS = 0xeffffff0U };

/* The interface that a packet is at, or what else is there: see device_netns(). */
static __always_inline struct net_device *device_of(struct sk_buff *skb)
{
	return READ_ONLY(skb, sk_buff)->dev;
}

/*
 * The namespace of the interface that a packet is at; 0: it is at none. While a packet is in a queue of TCP's, or of
 * some queueing disciplines, there is something else in the place of the interface.
 */
static __always_inline __u32 device_netns(struct sk_buff *skb)
{
	__u32 inode = device_of(skb)->nd_net.net->ns.inum;

	return inode >= FIRST_NETNS ? inode : 0;
}

/* The route of a packet, as a number; 0: none yet, or that of a tunnel's metadata. */
static __always_inline __u64 route_of(struct sk_buff *skb)
{
	__u64 dst = skb->_skb_refdst & ~1ULL;

	if (!dst || READ_AT(dst, dst_entry, flags) & DST_METADATA)
		return 0;
	return dst;
}

/* The namespace that a packet is in; 0: unknown. */
static __always_inline __u32 segment_netns(struct sk_buff *skb)
{
	__u32 netns = device_netns(skb);

	if (netns)
		return netns;
	__u64 route = route_of(skb);
	if (!route)
		return 0;
	if (!CAN_CAST(dst_entry))
		return BPF_CORE_READ((struct dst_entry *)route, dev, nd_net.net, ns.inum);
	return ((struct dst_entry *)bpf_rdonly_cast((void *)route, config.types.dst_entry))->dev->nd_net.net->ns.inum;
}

static __always_inline __u8 segment_way(struct sk_buff *skb, bool v6)
{
	__u32 from = skb->skb_iif;

	if (!from)
		return SEGMENT_SENT;
	__u64 route = route_of(skb);
	if (route) {
		__u32 flags = v6 ? READ_AT(route, rt6_info, rt6i_flags) : READ_AT(route, rtable, rt_flags);
		return flags & RTCF_LOCAL ? SEGMENT_RECEIVED : SEGMENT_FORWARDED;
	}
	/* A bridge has no route: the packet leaves by another interface. */
	bool leaves = device_netns(skb) && (__u32)device_of(skb)->ifindex != from;
	return leaves ? SEGMENT_FORWARDED : SEGMENT_RECEIVED;
}

/* ---------------------------------------------------------------- headers */

/* A socket of TCP's that has more than what all have in common (struct sock_common). */
static __always_inline bool is_full_tcp(struct sock *sk)
{
	int state = sk->__sk_common.skc_state;

	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		return false;
	return is_inet(sk) && protocol_of(sk) == IPPROTO_TCP && type_of(sk) == SOCK_STREAM;
}

/* One that is neither TCP's nor what is left of one, or not yet one. */
static __always_inline bool is_foreign(struct sock *sk)
{
	int state = sk->__sk_common.skc_state;

	return !is_inet(sk) || (state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV && !is_full_tcp(sk));
}

/* Where the network header lies, from head. A packet that has just arrived may have it only at its beginning. */
static __always_inline __u32 network_offset(struct sk_buff *skb)
{
	return skb->network_header ?: (__u32)(skb->data - skb->head);
}

static __always_inline __u32 packet_end(struct sk_buff *skb)
{
	return (__u32)(skb->data - skb->head) + skb->len;
}

/* How many segments the packet is to be cut into. */
static __always_inline __u32 segments_of(struct sk_buff *skb)
{
	struct skb_shared_info *shared = (void *)(skb->head + skb->end);

	return READ_AT(shared, skb_shared_info, gso_segs) ?: 1;
}

/*
 * A header at `at` from head, or NULL: what lies behind tail is elsewhere. Plain loads, whose faults are caught, cost a
 * tenth of a helper; before 6.2 it is copied. `kernel`: the kernel's type of the same layout.
 */
#define HEADER_AT(copy, kernel, skb, at)                                                                           \
	((at) + sizeof(*(copy)) > (skb)->tail ? NULL :                                                             \
	 CAN_CAST(kernel)                     ? (void *)bpf_rdonly_cast((skb)->head + (at), config.types.kernel) : \
	 bpf_probe_read_kernel(copy, sizeof(*(copy)), (skb)->head + (at)) ? NULL :                                 \
									    (void *)(copy))

/* `at`: where the TCP header lies, `end`: where the segment ends, both from head. */
static __always_inline bool tcp_header_read(struct segment *seg, struct sk_buff *skb, __u32 at, __u32 end)
{
	struct tcp_header copy;
	const struct tcp_header *tcp = HEADER_AT(&copy, tcphdr, skb, at);

	if (!tcp)
		return false;
	bool sent = seg->way == SEGMENT_SENT;
	__u16 from = bpf_ntohs(tcp->source), to = bpf_ntohs(tcp->destination);
	__u32 offset = tcp->offset_ae;
	__u32 payload = at + (offset >> 4) * 4;
	seg->flow.lport = sent ? from : to;
	seg->flow.rport = sent ? to : from;
	seg->seq = bpf_ntohl(tcp->seq);
	seg->len = end > payload ? end - payload : 0;
	seg->flags = tcp->flags | (offset & 1) << 8;
	return true;
}

static __always_inline void flow_begin(struct segment *seg, struct sk_buff *skb, __u8 family)
{
	seg->way = segment_way(skb, family == 6);
	seg->flow.family = family;
	seg->flow.ifindex = 0;
	seg->flow.pad[0] = seg->flow.pad[1] = seg->flow.pad[2] = 0;
}

static __always_inline bool segment_v4(struct segment *seg, struct sk_buff *skb, __u32 at)
{
	struct ipv4_header copy;

	/* Most of what is none of TCP's ends here, after a load or two. */
	if (READ_AT(skb->head + at, iphdr, protocol) != IPPROTO_TCP)
		return false;
	const struct ipv4_header *ip = HEADER_AT(&copy, iphdr, skb, at);
	if (!ip)
		return false;
	/* Of fragments, only the first one has the TCP header. */
	__u32 version_length = ip->version_length;
	if (version_length >> 4 != 4 || ip->fragment & bpf_htons(0x1fff))
		return false;
	flow_begin(seg, skb, 4);
	bool sent = seg->way == SEGMENT_SENT;
	__be32 from = ip->source, to = ip->destination;
	__u32 length = bpf_ntohs(ip->total_length); /* 0: more than 64 KiB, to be cut */
	map_v4(seg->flow.laddr, sent ? from : to);
	map_v4(seg->flow.raddr, sent ? to : from);
	return tcp_header_read(seg, skb, at + (version_length & 15) * 4, length ? at + length : packet_end(skb));
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPV6_HOP_OPTIONS || next == IPV6_ROUTING || next == IPV6_OPTIONS;
}

static __always_inline bool may_lead_to_tcp(__u8 next)
{
	return next == IPPROTO_TCP || is_extension(next);
}

/* Where the TCP header lies behind others; 0: there is none. */
static __always_inline __u32 behind_extensions(struct sk_buff *skb, __u32 at, __u8 next)
{
	__u8 header[2]; /* what follows, and the length of this one */

#pragma unroll
	for (int i = 0; i < IPV6_MAX_EXTENSIONS; i++) {
		if (next == IPPROTO_TCP)
			return at;
		if (!is_extension(next))
			return 0;
		if (at + sizeof(header) > skb->tail || bpf_probe_read_kernel(header, sizeof(header), skb->head + at))
			return 0;
		next = header[0];
		at += (header[1] + 1) * 8;
	}
	return next == IPPROTO_TCP ? at : 0;
}

static __always_inline void copy_address(__u8 *to, const __be32 *from)
{
	__u32 *word = (__u32 *)to;

	word[0] = from[0];
	word[1] = from[1];
	word[2] = from[2];
	word[3] = from[3];
}

static __always_inline bool segment_v6(struct segment *seg, struct sk_buff *skb, __u32 at)
{
	struct ipv6_header copy;

	if (!may_lead_to_tcp(READ_AT(skb->head + at, ipv6hdr, nexthdr)))
		return false;
	const struct ipv6_header *ip = HEADER_AT(&copy, ipv6hdr, skb, at);
	if (!ip || ip->version >> 4 != 6)
		return false;
	__u32 tcp = behind_extensions(skb, at + sizeof(*ip), ip->next);
	if (!tcp)
		return false;
	flow_begin(seg, skb, 6);
	bool sent = seg->way == SEGMENT_SENT;
	copy_address(sent ? seg->flow.laddr : seg->flow.raddr, ip->source);
	copy_address(sent ? seg->flow.raddr : seg->flow.laddr, ip->destination);
	if (has_zone(&seg->flow))
		seg->flow.ifindex = sent ? device_of(skb)->ifindex : skb->skb_iif;
	__u32 length = bpf_ntohs(ip->payload_length);
	return tcp_header_read(seg, skb, tcp, length ? at + sizeof(*ip) + length : packet_end(skb));
}

/* A segment that TCP has just made, and that has no route (net/ipv4/ip_output.c: __ip_queue_xmit): its socket knows. */
static __always_inline bool segment_of_socket(struct segment *seg, struct sk_buff *skb)
{
	struct sock *sk = skb->sk;

	if (!sk || skb->skb_iif || !is_full_tcp(sk))
		return false;
	seg->way = SEGMENT_SENT;
	flow_of(&seg->flow, sk, NULL);
	__u16 lport = seg->flow.lport;
	return tcp_header_read(seg, skb, skb->transport_header, packet_end(skb)) && seg->flow.lport == lport;
}

/*
 * Keeps a segment in memory. In registers the compiler puts the halves of an address together where the branches meet, and
 * one that does not set them may have left a pointer there, which the verifier does not let it shift.
 */
static __always_inline bool segment_keep(struct segment *seg, bool read)
{
	asm volatile("" : : "r"(seg) : "memory");
	return read;
}

/* Whether a packet is a TCP segment, and what it says. Nothing is read of what is neither IPv4 nor IPv6. */
static __always_inline bool segment_read(struct segment *seg, struct sk_buff *skb)
{
	__be16 protocol = skb->protocol;

	if (protocol == bpf_htons(ETH_P_IP))
		return segment_keep(seg, segment_v4(seg, skb, network_offset(skb)));
	if (protocol == bpf_htons(ETH_P_IPV6))
		return segment_keep(seg, segment_v6(seg, skb, network_offset(skb)));
	return !protocol && segment_keep(seg, segment_of_socket(seg, skb));
}

/* Whether it is one inside a tunnel, which it has entered here. */
static __always_inline bool segment_in_tunnel(struct segment *seg, struct sk_buff *skb)
{
	if (!BPF_CORE_READ_BITFIELD(skb, encapsulation))
		return false;
	__u32 at = skb->inner_network_header;
	return segment_v4(seg, skb, at) || segment_v6(seg, skb, at);
}

/*
 * The socket that a segment belongs to, which may have only what all have in common; NULL: unknown. One that arrives may
 * still have its sender's, from another namespace of this host.
 */
static __always_inline struct sock *segment_sock(const struct segment *seg, struct sk_buff *skb)
{
	struct sock *sk = skb->sk;

	if (!sk || seg->way == SEGMENT_FORWARDED)
		return NULL;
	if (seg->way == SEGMENT_SENT)
		return sk;
	if (sk->__sk_common.skc_num != seg->flow.lport || sk->__sk_common.skc_dport != bpf_htons(seg->flow.rport))
		return NULL;
	return sk;
}

#endif
