/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every tool shares in the kernel: the flow, the owner, the filters, the ring buffer, the counters.
 * A tool may define TOOL_STATE, a struct of its own kept per socket, before it includes this file.
 */
#ifndef TCPTOOLS_TCP_BPF_H
#define TCPTOOLS_TCP_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "kernel/cgroup.bpf.h"
#include "kernel/cgroup_path.bpf.h"
#include "kernel/compat.bpf.h"
#include "events.bpf.h"
#include "filter.bpf.h"

#include "owner/each.bpf.h"
#include "owner/state.bpf.h"
#include "owner/whose.bpf.h"

/*
 * What a function returns that has nothing to tell, and how it is called. The register of a result may otherwise have an
 * address on the stack at the end, with which the verifier lets no function return. Neither must the compiler know the value,
 * nor that nobody wants it.
 */
static __always_inline int nothing(void)
{
	int zero = 0;

	barrier_var(zero);
	return zero;
}

#define CALL(function)                     \
	({                                 \
		int nothing_ = (function); \
		barrier_var(nothing_);     \
	})

/* ---------------------------------------------------------------- flow */

/* TCP, subflows of MPTCP included (they are TCP on the wire); MPTCP's own connection-level socket only on request. */
static __always_inline bool protocol_matches(struct sock *sk)
{
	__u16 protocol = protocol_of(sk);

	return protocol == IPPROTO_TCP || (config.set.mptcp && protocol == IPPROTO_MPTCP);
}

static __always_inline bool is_inet(struct sock *sk)
{
	unsigned short family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6;
}

static __always_inline void copy_v6(__u8 *to, struct in6_addr *from)
{
	__u32 *word = (__u32 *)to;

	word[0] = from->in6_u.u6_addr32[0];
	word[1] = from->in6_u.u6_addr32[1];
	word[2] = from->in6_u.u6_addr32[2];
	word[3] = from->in6_u.u6_addr32[3];
}

/*
 * tcp_set_state() releases the bound port before it reports CLOSE: then skc_num is 0 and inet_sport still tells
 * (net/ipv4/tcp.c: tcp_set_state). Before connect() has chosen a port both are 0.
 */
static __always_inline __u16 local_port(struct sock *sk, struct tcp_sock *tp)
{
	if (sk->__sk_common.skc_num)
		return sk->__sk_common.skc_num;
	if (tp)
		return bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
	return bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
}

static __always_inline void flow_of(struct flow *flow, struct sock *sk, struct tcp_sock *tp)
{
	flow->lport = local_port(sk, tp);
	flow->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	flow->pad[0] = flow->pad[1] = flow->pad[2] = 0;
	flow->ifindex = 0;
	if (sk->__sk_common.skc_family == AF_INET || !has_ipv6()) {
		flow->family = 4;
		map_v4(flow->laddr, sk->__sk_common.skc_rcv_saddr);
		map_v4(flow->raddr, sk->__sk_common.skc_daddr);
		return;
	}
	copy_v6(flow->laddr, &sk->__sk_common.skc_v6_rcv_saddr);
	copy_v6(flow->raddr, &sk->__sk_common.skc_v6_daddr);
	flow->family = is_v4_mapped(flow->raddr) ? 4 : 6;
	/* Such a socket is bound to a link: by bind(), connect() or tcp_v6_syn_recv_sock(). */
	if (has_zone(flow))
		flow->ifindex = sk->__sk_common.skc_bound_dev_if;
}

/* ---------------------------------------------------------------- filters that look into the socket */

static __always_inline bool sock_matches(struct sock *sk)
{
	SOCK_FILTERS(REJECT)
	return true;
}

static __always_inline bool matches(struct sock *sk, const struct flow *flow, const struct owner *owner)
{
	return flow_matches(flow) && sock_matches(sk) && owner_matches(owner);
}

/*
 * Whether a socket in state `new` can never pass the filters, so that it needs no state: by what stays as it is for the
 * life of a connection. Listeners pass for the sake of their children.
 */
static __always_inline bool never_matches(struct sock *sk, int new)
{
	const volatile struct id_list *list = &config.filter.netns;
	struct flow flow;

	if (config.set.netns && has_id(list, netns_of(sk)) == !!list->negate)
		return true;
	if (!config.set.flow || new == TCP_LISTEN || !sk->__sk_common.skc_dport)
		return false;
	flow_of(&flow, sk, NULL);
	/* connect() has not chosen a local port yet. */
	if (!flow.lport && (config.set.lport || config.set.port))
		return false;
	return !flow_matches(&flow);
}

/*
 * Counts an event dropped by a filter or by sampling. Shared memory and not per CPU, so that the reader
 * needs no privilege: this is for whoever asks what the tool costs.
 */
static __always_inline void count_filtered(void)
{
	if (config.stats)
		__sync_fetch_and_add(&counters.filtered, 1);
}

/* matches(), for an event and not for a socket that is only visited: finds the owner, and counts what is filtered out. */
static __always_inline bool passes_filters(struct sock *sk, const struct flow *flow, const struct sock_state *s,
					   struct owner *owner)
{
	if (flow_matches(flow) && sock_matches(sk)) {
		owner_find(owner, s, sk);
		if (owner_matches(owner))
			return true;
	}
	count_filtered();
	return false;
}

/* A packet without a socket, or for one in TIME_WAIT or in the handshake: no owner, no user, no cgroup. */
static __always_inline bool homeless_matches(const struct flow *flow, __u32 netns)
{
	const volatile struct id_list *list = &config.filter.netns;

#define X(name, type, has) +config.set.name
	if (0 OWNER_FILTERS(X) SOCK_FILTERS(X) != config.set.netns)
		return false;
#undef X
	return (!config.set.netns || has_id(list, netns) != !!list->negate) && flow_matches(flow);
}

/* ---------------------------------------------------------------- records */

static __always_inline void head_fill_with(struct head *head, __u64 boot_ns, __u64 cookie, struct sock *sk,
					   const struct flow *flow, const struct owner *owner, __u32 event)
{
	head->boot_ns = boot_ns;
	head->cookie = cookie;
	head->cgroup = cgroup_noted(sk);
	head->flow = *flow;
	head->owner = *owner;
	head->netns = netns_of(sk);
	head->uid = sk->sk_uid.val;
	head->event = event;
	head->known = KNOWN_ALL;
}

static __always_inline void head_fill_at(struct head *head, __u64 boot_ns, struct sock *sk, const struct flow *flow,
					 const struct owner *owner, __u32 event)
{
	head_fill_with(head, boot_ns, cookie_of(sk), sk, flow, owner, event);
}

/* Of a socket that is visited (owner/each.bpf.h): sk may be a copy. */
static __always_inline void head_fill_seen(struct head *head, __u64 boot_ns, struct sock *sk, const struct flow *flow,
					   const struct owner *owner, __u32 event)
{
	__u64 cookie = sk->__sk_common.skc_cookie.counter;

	head_fill_with(head, boot_ns, cookie, sk, flow, owner, event);
}

static __always_inline void head_fill(struct head *head, struct sock *sk, const struct flow *flow,
				      const struct owner *owner, __u32 event)
{
	head_fill_at(head, bpf_ktime_get_boot_ns(), sk, flow, owner, event);
}

static __always_inline void homeless_fill(struct head *head, const struct flow *flow, __u32 netns, __u64 cookie,
					  __u32 event)
{
	__builtin_memset(head, 0, sizeof(*head));
	head->boot_ns = bpf_ktime_get_boot_ns();
	head->cookie = cookie;
	head->flow = *flow;
	head->netns = netns;
	head->uid = ~0U;
	head->event = event;
	head->known = KNOWN_ALL;
}

#endif
