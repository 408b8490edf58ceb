/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpstates: one record per change of state; or, for a summary, histograms of the time in each state, of all or by group. Both this and a
 * listing look at the sockets that are there (active.bpf.h).
 */
#include "kernel/kernel.h"

struct residence {
	__u64 since_ns;    /* entry into the state; 0: unknown; odd: first sight of a socket already in it */
	__u64 deferred_ns; /* time of a change deferred until its ports are known; 0: none */
	__u64 held_in_ns;  /* and the time in the state before it */
	__u8 state;        /* current state; 0: no change seen yet */
	__u8 held_old_state;
	__u8 held_new_state;
	__u8 pad;
	__u32 look; /* the last look that has shown it; see active.bpf.h */
};

#define TOOL_STATE struct residence
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "buckets.bpf.h"
#include "group.bpf.h"

#define TIME_UNKNOWN (~0ULL)

enum { STATES = 13 }; /* 1-12 of include/net/tcp_states.h, and 0 unused */

/* Which record it is: head.event. The last two are made in user space, of the settings of a network namespace. */
enum event_kind { STATE_CHANGE, STATE_NOW, PORT_RANGE, PORT_RESERVED };
EXPORT_ENUM(event_kind);

struct transition {
	struct head head;
	__u64 in_state_ns; /* TIME_UNKNOWN: the entry was not seen */
	__u64 skaddr;
	__u8 old_state;
	__u8 new_state;
	__u8 pad[6];
};
EXPORT_TYPE(transition);

/*
 * Time in a state, log-linear: 16 buckets per power of two of nanoseconds, so the middle of a bucket is within 1/32 of
 * any time in it. Up to 2^52 ns (52 days); longer times fall into the last.
 */
enum { SUB_BITS = 4, MAX_EXPONENT = 52 };
enum { BUCKETS = BUCKET_COUNT(SUB_BITS, MAX_EXPONENT) };

struct histogram {
	__u64 max_ns;
	__u64 unknown; /* sockets that left the state after an unknown time */
	__u32 bucket[BUCKETS];
};
EXPORT_TYPE(histogram);

/* By old state. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STATES);
	__type(key, __u32);
	__type(value, struct histogram);
} histograms SEC(".maps");

/* The same by old state (the key's kind) and what the user groups by. One entry until user space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, struct histogram);
} group_histograms SEC(".maps");

/* Too large for the stack. */
static const struct histogram histogram_empty = {};

const volatile __u32 old_states = ~0U; /* bit per state */
const volatile __u32 new_states = ~0U;
const volatile __u64 min_ns = 0;
const volatile bool looks = false;   /* at the sockets that are there, instead of reporting */
const volatile bool summary = false; /* and count */
const volatile bool want_skaddr = false;

struct change {
	__u64 at_ns;
	__u64 in_ns; /* or TIME_UNKNOWN */
	__u64 at_least_ns;
	int old, new;
};

/* ---------------------------------------------------------------- filters */

static __always_inline bool change_matches(const struct change *c)
{
	if (!(old_states >> (c->old & 31) & 1) || !(new_states >> (c->new & 31) & 1))
		return false;
	return !min_ns || c->at_least_ns >= min_ns;
}

/*
 * A filter of local ports cannot decide before connect() has chosen the port. A new child has no peer yet (until 6.14:
 * net/ipv4/inet_connection_sock.c: inet_csk_clone_lock); its next change follows at once, or after a round trip if data
 * came with the SYN.
 */
static __always_inline bool port_unknown(const struct flow *flow, int new)
{
	if (new == TCP_SYN_RECV)
		return !flow->rport;
	if (!config.set.lport && !config.set.port)
		return false;
	if (new != TCP_SYN_SENT || flow->lport)
		return false;
	return config.set.lport || !has_port(&config.filter.port, flow->rport);
}

/* ---------------------------------------------------------------- counting */

/* `key` has the flow, and no longer afterwards. */
static __always_inline struct histogram *histogram_of(struct group_key *key, struct sock *sk, const struct owner *owner,
						      __u32 state)
{
	if (!group_by)
		return bpf_map_lookup_elem(&histograms, &state);
	group_fill(key, sk, owner, state);
	struct histogram *h = bpf_map_lookup_elem(&group_histograms, key);
	if (h)
		return h;
	bpf_map_update_elem(&group_histograms, key, &histogram_empty, BPF_NOEXIST);
	h = bpf_map_lookup_elem(&group_histograms, key);
	if (!h)
		loss_count(&counters.uncounted, 1);
	return h;
}

/* A softirq may interrupt this on the same CPU, and groups are counted on all of them, hence the atomic additions. */
static __always_inline void count(struct group_key *key, struct sock *sk, const struct owner *owner,
				  const struct change *c)
{
	/* A child starts in SYN_RECV; its listener does not leave LISTEN. */
	if (c->old == TCP_LISTEN && c->new == TCP_SYN_RECV)
		return;
	struct histogram *h = histogram_of(key, sk, owner, c->old);
	if (!h)
		return;
	if (c->in_ns == TIME_UNKNOWN) {
		__sync_fetch_and_add(&h->unknown, 1);
		return;
	}
	__u64 bucket = bucket_of(c->in_ns, SUB_BITS, MAX_EXPONENT);
	barrier_var(bucket); /* the verifier of 5.10 loses the bound of a value that is copied between check and use */
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&h->bucket[bucket], 1);
	if (c->in_ns > h->max_ns)
		h->max_ns = c->in_ns;
}

/* ---------------------------------------------------------------- the record */

static __always_inline void transition_fill(struct transition *e, struct sock *sk, const struct change *c)
{
	e->in_state_ns = c->in_ns;
	e->skaddr = want_skaddr ? (__u64)sk : 0;
	e->old_state = c->old;
	e->new_state = c->new;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
}

/* `key` has the flow. */
static __always_inline void report(struct sock *sk, struct group_key *key, const struct owner *owner,
				   const struct change *c)
{
	if (summary)
		count(key, sk, owner, c);
	if (looks)
		return;
	struct transition *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill_at(&e->head, c->at_ns, sk, &key->flow, owner, STATE_CHANGE);
	transition_fill(e, sk, c);
	event_submit(e, sizeof(*e));
}

/*
 * The port is known now, or never will be: send the deferred change before the socket's next one. A function, whose stack
 * is not added to that of what is below state_make().
 */
static __noinline int release(struct sock *sk, struct sock_state *s, struct group_key *key)
{
	struct change c = {
		.at_ns = s->tool.deferred_ns,
		.in_ns = s->tool.held_in_ns,
		.old = s->tool.held_old_state,
		.new = s->tool.held_new_state,
	};
	struct owner owner;

	s->tool.deferred_ns = 0;
	if (passes_filters(sk, &key->flow, s, &owner))
		report(sk, key, &owner, &c);
	return nothing();
}

/* ---------------------------------------------------------------- following a socket */

/* Ends the residence in the old state and starts the one in the new. */
static __always_inline void change_note(struct change *c, struct residence *residence)
{
	__u64 since = residence->since_ns;
	/* A child is a clone of its listener, including storage, but was never in LISTEN itself. */
	bool born = c->old == TCP_LISTEN && c->new != TCP_CLOSE;

	c->in_ns = TIME_UNKNOWN;
	c->at_least_ns = 0;
	if (born) {
		residence->deferred_ns = 0;
		residence->look = 0;
	} else if (since) {
		c->at_least_ns = c->at_ns - since;
		if (!(since & 1) && residence->state == c->old)
			c->in_ns = c->at_least_ns;
	}
	residence->since_ns = c->at_ns;
	residence->state = c->new;
}

static __always_inline void on_change(struct sock *sk, struct sock_state *s, int old, int new)
{
	struct change c = {.old = old, .new = new};
	struct group_key key;
	struct flow *flow = &key.flow;
	struct owner owner;

	/* Even: see struct stay. */
	c.at_ns = bpf_ktime_get_boot_ns() & ~1ULL;
	change_note(&c, &s->tool);
	owner_on_state_change(s, sk, old, new);
	flow_of(flow, sk, tcp_of(sk));
	if (s->tool.deferred_ns) {
		CALL(release(sk, s, &key));
		flow_of(flow, sk, tcp_of(sk));
	}
	if (!change_matches(&c)) {
		count_filtered();
		return;
	}
	if (port_unknown(flow, new)) {
		s->tool.deferred_ns = c.at_ns;
		s->tool.held_in_ns = c.in_ns;
		s->tool.held_old_state = old;
		s->tool.held_new_state = new;
		return;
	}
	if (passes_filters(sk, flow, s, &owner))
		report(sk, &key, &owner, &c);
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	/* MPTCP reports changes from a state to itself. */
	if (old == new || !protocol_matches(sk))
		return;
	if (never_matches(sk, new)) {
		count_filtered();
		return;
	}
	struct sock_state *s = state_make(sk);
	if (!s || !claim_change(s, old, new))
		return;
	on_change(sk, s, old, new);
	if (new == TCP_CLOSE)
		state_end(s, sk);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* An unanswered SYN is retransmitted after a second: the port is known, and the row need not wait longer. */
SEC("?tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit, struct sock *sk)
{
	struct sock_state *s = state_find(sk);
	struct group_key key;

	if (!s || !s->tool.deferred_ns)
		return 0;
	flow_of(&key.flow, sk, NULL);
	CALL(release(sk, s, &key));
	return 0;
}

/* ---------------------------------------------------------------- owners and sockets that are there already */

static __always_inline __u64 entered_ns(struct tcp_sock *tp, __u32 state);

/* A row has the time of what was seen; a look has what else is known. set_state() may run concurrently, and its value wins. */
#define FIRST_SEEN(sk, tp) (looks ? entered_ns(tp, (sk)->__sk_common.skc_state) : bpf_ktime_get_boot_ns() | 1)
#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s)                                               \
	do {                                                               \
		if (!(s)->tool.since_ns)                                   \
			SET_ONCE(&(s)->tool.since_ns, FIRST_SEEN(sk, tp)); \
	} while (0)
#include "owner/owner.bpf.h"
#include "tcpstates/active.bpf.h"
