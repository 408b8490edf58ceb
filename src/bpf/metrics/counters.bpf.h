/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counters and histograms: one of each per CPU, and, where the user has chosen labels, one per set of their values in tables
 * of bounded size. What finds no room there is counted without labels. Read by src/commands/tcptools/metrics/counts.rs.
 */
#ifndef TCPTOOLS_COUNTERS_BPF_H
#define TCPTOOLS_COUNTERS_BPF_H

#include "buckets.bpf.h"
#include "group.bpf.h"

/* What is counted: a counter's number, to which that of its own label is added. */
enum counter {
	COUNT_OPENED = 0,          /* by enum outcome */
	COUNT_ACCEPTED = 8,        /* by enum accepted */
	COUNT_CLOSED = 10,         /* without its reason: see COUNT_ENDED */
	COUNT_RETRANSMITTED = 11,  /* by enum kind */
	COUNT_SPURIOUS = 17,       /* segments that the other end had already */
	COUNT_SENT = 18,           /* bytes */
	COUNT_RECEIVED = 19,       /* bytes */
	COUNT_BUFFERS = 20,        /* by enum buffer_event */
	COUNT_SOCKETS = 24,        /* sockets seen, by state: what a look adds is how many there are */
	COUNT_RESET_RECEIVED = 40, /* RSTs */
	COUNT_OVERFLOWED = 41,     /* occurrences that found no room in a table */
	COUNT_RESET_SENT = 64,     /* by enum sk_rst_reason */
	COUNT_DROPPED = 128,       /* by enum skb_drop_reason */
	COUNTERS = 512,
};
EXPORT_ENUM(counter);

enum accepted { ACCEPTED_ESTABLISHED, ACCEPTED_ABORTED };
enum buffer_event { BUFFER_RCVQUEUE_FULL, BUFFER_EXCEED_LIMIT, BUFFER_UDP_FAIL };
enum { STATES = 16, RESET_REASONS = 64, DROP_REASONS = 256 };

/*
 * An end is counted by what decides its reason, which user space does (src/commands/tcplife/close_reason.rs): the error,
 * the state before, and bits of enum ended.
 */
#define COUNT_ENDED (1U << 24)
#define ENDED_BY(error, state, facts) (COUNT_ENDED | ((error)&0xff) << 16 | ((state)&15) << 12 | ((facts)&0xfff))

/* Durations, in powers of two of microseconds. The last bucket has all that is longer than 2^40 us. */
enum span_kind { SPAN_HANDSHAKE, SPAN_SESSION, SPAN_SRTT, SPAN_MIN_RTT, SPANS };
EXPORT_ENUM(span_kind);
enum { SPAN_BUCKETS = 42 };

struct span {
	__u64 bucket[SPAN_BUCKETS]; /* bucket n: at most 2^n us, and more than in the one before */
	__u64 sum_ns;
};
EXPORT_TYPE(span);

struct totals {
	__u64 count[COUNTERS];
	struct span span[SPANS];
};
EXPORT_TYPE(totals);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

/* One entry until user space sets the size: an unused table takes no memory. The kind of a key is what is counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, struct span);
} spans SEC(".maps");

static const struct span span_empty = {};

const volatile bool plain = false;    /* no labels, and no filters: what a socket is like does not matter */
const volatile bool labelled = false; /* labels */
const volatile bool owned = false;    /* a label or a filter asks whose a socket is */
const volatile bool prefixed = false; /* an address is cut to its network */
/* Of an IPv4 address, as it lies in memory, and of an IPv6 address. */
const volatile __u64 laddr_mask[2][2] = {};
const volatile __u64 raddr_mask[2][2] = {};

static __always_inline struct totals *totals_here(void)
{
	__u32 zero = config.zero;

	return bpf_map_lookup_elem(&totals, &zero);
}

static __always_inline void total_add(__u32 counter, __u64 n)
{
	struct totals *here = totals_here();
	__u32 at = counter & COUNT_ENDED ? COUNT_CLOSED : counter;

	barrier_var(at);
	if (here && at < COUNTERS)
		__sync_fetch_and_add(&here->count[at], n);
}

/* `n` may be below 0: what was counted too early is taken back. */
static __always_inline void table_add(struct group_key *key, __u32 counter, __u64 n)
{
	key->kind = counter;
	__u64 *count = bpf_map_lookup_elem(&counts, key);
	if (!count) {
		if ((__s64)n > 0 && !bpf_map_update_elem(&counts, key, &n, BPF_NOEXIST))
			return;
		count = bpf_map_lookup_elem(&counts, key); /* another CPU was first, or the table is full */
	}
	if (count) {
		__sync_fetch_and_add(count, n);
		return;
	}
	total_add(counter, n);
	if (counter - COUNT_SOCKETS >= STATES) /* what a look finds is no event */
		total_add(COUNT_OVERFLOWED, 1);
}

/* Counts `n` of a key that labels_of() has made. */
static __noinline int count(struct group_key *key, __u32 counter, __u64 n)
{
	if (!key)
		return 0;
	if (labelled || counter & COUNT_ENDED)
		table_add(key, counter, n);
	else
		total_add(counter, n);
	return 0;
}

static __always_inline void span_add(struct span *span, __u64 ns)
{
	/* Rounded up, as a bucket's limit belongs to it. */
	__u64 us = (ns + 999) / 1000;
	__u64 bucket = bucket_of(us ? us - 1 : 0, 0, SPAN_BUCKETS - 1);

	barrier_var(bucket); /* see hist.bpf.h */
	if (bucket < SPAN_BUCKETS)
		__sync_fetch_and_add(&span->bucket[bucket], 1);
	__sync_fetch_and_add(&span->sum_ns, ns);
}

static __noinline int count_span(struct group_key *key, __u32 kind, __u64 ns)
{
	struct totals *here = totals_here();
	struct span *span = NULL;

	if (!key || !here)
		return 0;
	if (labelled) {
		key->kind = kind;
		span = bpf_map_lookup_elem(&spans, key);
		if (!span) {
			bpf_map_update_elem(&spans, key, &span_empty, BPF_NOEXIST);
			span = bpf_map_lookup_elem(&spans, key);
		}
		if (!span)
			__sync_fetch_and_add(&here->count[COUNT_OVERFLOWED], 1);
	}
	if (span) {
		span_add(span, ns);
		return 0;
	}
	barrier_var(kind);
	if (kind < SPANS)
		span_add(&here->span[kind], ns);
	return 0;
}

/* ---------------------------------------------------------------- labels */

static __always_inline void address_cut(__u8 *address, const volatile __u64 (*mask)[2], __u8 family)
{
	__u64 *word = (__u64 *)address;
	bool v6 = family == 6;

	word[0] &= v6 ? mask[1][0] : mask[0][0];
	word[1] &= v6 ? mask[1][1] : mask[0][1];
}

/* Of the host, when user space looked: net.ipv4.ip_local_port_range. */
const volatile __u16 local_ports[2] = {};

static __always_inline bool may_be_chosen(__u16 port)
{
	return port >= local_ports[0] && port <= local_ports[1];
}

/*
 * A port that the kernel has chosen for a connection says nothing, and each connection has another one: the port that tells
 * is that of whom was connected to. Where it is not known who that was, the range of ports decides.
 */
static __always_inline void ports_cut(struct flow *flow, bool known, bool opened_here, bool listens)
{
	if (!(group_by & (GROUP_LPORT | GROUP_RPORT)) || listens)
		return;
	if (known ? opened_here : may_be_chosen(flow->lport))
		flow->lport = 0;
	if (known ? !opened_here : may_be_chosen(flow->rport))
		flow->rport = 0;
}

static __always_inline void flow_cut(struct flow *flow)
{
	if (!prefixed)
		return;
	address_cut(flow->laddr, laddr_mask, flow->family);
	address_cut(flow->raddr, raddr_mask, flow->family);
}

/* Makes the key of a socket's labels, of one that has the flow; false if the filters do not let it pass. */
static __always_inline bool labels_of_flow(struct group_key *key, struct sock *sk, const struct sock_state *s)
{
	struct owner owner = {};

	if (plain)
		return true;
	if (!flow_matches(&key->flow) || !sock_matches(sk))
		return false;
	if (owned)
		owner_find(&owner, s, sk);
	if (!owner_matches(&owner))
		return false;
	flow_cut(&key->flow);
	bool listens = sk->__sk_common.skc_state == TCP_LISTEN && !key->flow.rport;
	ports_cut(&key->flow, s && s->tool.flags & BEGUN, s && s->tool.flags & ACTIVE_OPEN, listens);
	group_fill(key, sk, &owner, 0);
	return true;
}

static __always_inline bool labels_of(struct group_key *key, struct sock *sk, struct tcp_sock *tp,
				      const struct sock_state *s)
{
	if (plain)
		return true;
	flow_of(&key->flow, sk, tp);
	return labels_of_flow(key, sk, s);
}

/* The same, of a packet or of what is no full socket: nobody's. The key has its flow. */
static __always_inline bool labels_of_nobody(struct group_key *key, __u32 netns)
{
	if (plain)
		return true;
	if (!homeless_matches(&key->flow, netns))
		return false;
	flow_cut(&key->flow);
	ports_cut(&key->flow, false, false, false);
	group_cut(&key->flow);
	if (group_by & GROUP_NETNS || key->flow.ifindex)
		key->netns = netns;
	return true;
}

#endif
