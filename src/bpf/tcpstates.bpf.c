/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpstates: one record per change of state; or, for a summary, histograms of the time in each state. */
#include "kernel.h"

struct stay {
	__u64 since_ns;      /* entry into the state; 0: not seen; odd: there already when first seen, maybe for long */
	__u64 held_ns;       /* a change that waits for its ports: when it was; 0: none */
	__u64 held_in_ns;    /* and the time in the state before it */
	__u8 state;          /* that this stay is in; 0: no change was seen yet */
	__u8 held_old_state;
	__u8 held_new_state;
	__u8 pad[5];
};

#define TOOL_STATE struct stay
#include "tcp.bpf.h"
#include "nested.bpf.h"
#include "buckets.bpf.h"

#define TIME_UNKNOWN (~0ULL)

enum { STATES = 13 }; /* 1-12 of include/net/tcp_states.h, and 0 unused */

/* Which record it is: head.event. */
enum event_kind { STATE_CHANGE, STATE_NOW };

struct transition {
	struct head head;
	__u64 in_state_ns; /* TIME_UNKNOWN: the entry was not seen */
	__u64 skaddr;
	__u8 old_state; /* STATE_NOW: the state it is in */
	__u8 new_state;
	__u8 at_least; /* STATE_NOW: the entry was not seen, the time is a lower bound */
	__u8 pad[5];
};
EXPORT_TYPE(transition);

/*
 * Time in a state, log-linear: 16 buckets for each power of two of nanoseconds, so a bucket's middle is at most 1/32
 * away from any time in it. Up to 2^52 ns (52 days); what is longer falls into the last one.
 */
enum { SUB_BITS = 4, MAX_EXPONENT = 52 };
enum { BUCKETS = BUCKET_COUNT(SUB_BITS, MAX_EXPONENT) };

struct histogram {
	__u64 max_ns;
	__u64 unknown; /* sockets that left the state, but whose entry was not seen */
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

const volatile __u32 old_states = ~0U; /* bit per state */
const volatile __u32 new_states = ~0U;
const volatile __u64 min_ns = 0;
const volatile bool summary = false; /* count instead of reporting */
const volatile bool want_skaddr = false;

struct change {
	__u64 at_ns;
	__u64 in_ns; /* or TIME_UNKNOWN */
	__u64 at_least_ns;
	int old, new;
};

/* ---------------------------------------------------------------- what is wanted */

static __always_inline bool change_wanted(const struct change *c)
{
	if (!(old_states >> (c->old & 31) & 1) || !(new_states >> (c->new & 31) & 1))
		return false;
	return !min_ns || c->at_least_ns >= min_ns;
}

/*
 * Before connect() has chosen a local port a filter of local ports cannot decide. A child that is born has no peer yet
 * (until 6.14: net/ipv4/inet_connection_sock.c: inet_csk_clone_lock); its next change follows at once, or, where data
 * came with the SYN, after a round trip.
 */
static __always_inline bool port_undecided(const struct flow *flow, int new)
{
	if (new == TCP_SYN_RECV)
		return !flow->rport;
	if (!config.set.lport && !config.set.port)
		return false;
	if (new != TCP_SYN_SENT || flow->lport)
		return false;
	return config.set.lport || !in_ports(&config.filter.port, flow->rport);
}

/* ---------------------------------------------------------------- counting */

/* A softirq may interrupt this on the same CPU, hence the atomic additions. */
static __always_inline void count(const struct change *c)
{
	__u32 state = c->old;
	struct histogram *h = bpf_map_lookup_elem(&histograms, &state);

	/* A child is born in SYN_RECV: its listener does not leave LISTEN. */
	if (!h || (c->old == TCP_LISTEN && c->new == TCP_SYN_RECV))
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
	e->at_least = 0;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
}

static __always_inline void report(struct sock *sk, const struct flow *flow, const struct owner *owner,
				   const struct change *c)
{
	if (summary) {
		count(c);
		return;
	}
	struct transition *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill_at(&e->head, c->at_ns, sk, flow, owner, STATE_CHANGE);
	transition_fill(e, sk, c);
	event_submit(e, sizeof(*e));
}

/* The port is known now, or never will be: the change that waited for it goes before the next of its socket. */
static __always_inline void release(struct sock *sk, struct sock_state *s, const struct flow *flow)
{
	struct change c = {
		.at_ns = s->tool.held_ns,
		.in_ns = s->tool.held_in_ns,
		.old = s->tool.held_old_state,
		.new = s->tool.held_new_state,
	};
	struct owner owner;

	s->tool.held_ns = 0;
	if (event_wanted(sk, flow, s, &owner))
		report(sk, flow, &owner, &c);
}

/* ---------------------------------------------------------------- following a socket */

/* Ends the stay in the old state and begins the one in the new. */
static __always_inline void change_note(struct change *c, struct stay *stay)
{
	__u64 since = stay->since_ns;
	/* A child is a clone of its listener, storage and all, but has not been in LISTEN itself. */
	bool born = c->old == TCP_LISTEN && c->new != TCP_CLOSE;

	c->in_ns = TIME_UNKNOWN;
	c->at_least_ns = 0;
	if (born) {
		stay->held_ns = 0;
	} else if (since) {
		c->at_least_ns = c->at_ns - since;
		if (!(since & 1) && stay->state == c->old)
			c->in_ns = c->at_least_ns;
	}
	stay->since_ns = c->at_ns;
	stay->state = c->new;
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	struct change c = {.old = old, .new = new};
	struct owner owner;
	struct flow flow;

	/* MPTCP reports changes from a state to itself. */
	if (old == new || !protocol_wanted(sk))
		return;
	struct sock_state *s = state_make(sk);
	if (!s || change_taken(s, old, new))
		return;
	/* Even: see struct stay. */
	c.at_ns = bpf_ktime_get_boot_ns() & ~1ULL;
	change_note(&c, &s->tool);
	owner_follow(s, sk, old, new);
	flow_of(&flow, sk, tcp_of(sk));
	if (s->tool.held_ns)
		release(sk, s, &flow);
	if (!change_wanted(&c)) {
		turn_away();
		return;
	}
	if (port_undecided(&flow, new)) {
		s->tool.held_ns = c.at_ns;
		s->tool.held_in_ns = c.in_ns;
		s->tool.held_old_state = old;
		s->tool.held_new_state = new;
		return;
	}
	if (event_wanted(sk, &flow, s, &owner))
		report(sk, &flow, &owner, &c);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* A SYN without an answer is sent again after a second: its port is known, and its row need not wait for the end. */
SEC("?tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit, struct sock *sk)
{
	struct sock_state *s = state_find(sk);
	struct flow flow;

	if (!s || !s->tool.held_ns)
		return 0;
	flow_of(&flow, sk, NULL);
	release(sk, s, &flow);
	return 0;
}

/* ---------------------------------------------------------------- owners and sockets that are there already */

/* set_state() may run at the same moment, and knows better. */
#define OWN_SET_STATE
#define SOCK_SEED(sk, tp, s) SEED_ONCE(&(s)->tool.since_ns, bpf_ktime_get_boot_ns() | 1)
#include "owner.bpf.h"

/* Which state the socket is in; 0 for one that no one uses: never used, or closed by both the network and its owner. */
static __always_inline __u32 state_now(struct sock *sk, const struct stay *stay)
{
	__u32 state = stay->state ?: sk->__sk_common.skc_state;

	if (state != TCP_CLOSE)
		return state;
	return stay->state && !(sk->__sk_common.skc_flags & (1UL << SOCK_DEAD)) ? state : 0;
}

static __always_inline void show_now(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct transition e;
	struct flow flow;

	struct stay stay = s->tool;
	struct owner owner;
	__u32 state = state_now(sk, &stay);
	__u64 now = bpf_ktime_get_boot_ns();
	/* A change on another CPU may be newer than `now`. */
	__u64 in_ns = stay.since_ns && now > stay.since_ns ? now - stay.since_ns : 0;
	struct change c = {.in_ns = in_ns, .old = state, .new = state};
	if (!state || !(old_states >> (state & 31) & 1) || in_ns < min_ns)
		return;
	flow_of(&flow, sk, tp);
	owner_now(&owner, s, sk, tp);
	if (!wanted(sk, &flow, &owner))
		return;
	head_fill_at(&e.head, now, sk, &flow, &owner, STATE_NOW);
	transition_fill(&e, sk, &c);
	e.at_least = !stay.since_ns || (stay.since_ns & 1);
	bpf_seq_write(seq, &e, sizeof(e));
}
EACH_SOCKET(sockets_now, show_now)
