/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpaccept: one record per passive open; or, instead of records, numbers per listener. */
#include "kernel.h"

/* Of a listener: itself. A child inherits it with the storage that it is cloned with, and so knows its listener. */
struct listener {
	__u64 addr; /* of struct sock: only to be read from, and only if what is there proves to be the listener */
	__u64 cookie;
	__u8 child; /* this is a child, whose handshake is under way */
	__u8 pad[7];
};

#define TOOL_STATE struct listener
#include "tcp.bpf.h"
#include "nested.bpf.h"

struct accept {
	struct head head;
	__u64 listener_cookie;    /* 0: not known */
	__u32 accept_queue;       /* with this one in it */
	__u32 accept_queue_max;   /* both ~0: not known */
	__u8 state;               /* after SYN_RECV: ESTABLISHED, unless it ended first (Fast Open) */
	__u8 pad[7];
};
EXPORT_TYPE(accept);

/* ---------------------------------------------------------------- numbers per listener */

/* A listener that began before the trace may have no cookie here: its port tells it apart well enough. */
struct listener_key {
	__u64 cookie;
	__u32 netns;
	__u32 lport;
};

enum { QUEUES = 64 };

struct listener_stats {
	__u64 accepts;
	/* Per CPU, so that none is overwritten, and for this interval and the one that is read: epoch << 32 | longest. */
	__u64 high[2 * QUEUES];
	__u32 accept_queue_max;
	__u32 pad;
};
EXPORT_TYPE(listener_stats);

/* One entry until userspace asks for more: a table that is not used takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct listener_key);
	__type(value, struct listener_stats);
} listeners SEC(".maps");

/* Whose and where it is, as of its first open: put here whole, before there are numbers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct listener_key);
	__type(value, struct head);
} listener_heads SEC(".maps");

const volatile bool summarise = false;

/* The number of the interval, which the reader counts up. */
struct interval {
	__u64 epoch;
};
EXPORT_TYPE(interval);

struct interval interval SEC(".data.interval") = {.epoch = 1};

/* Too large for the stack. */
static const struct listener_stats stats_empty = {};

/* ---------------------------------------------------------------- the listener of a child */

static __always_inline bool is_listener(struct sock *sk, __u64 cookie)
{
	return BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_LISTEN &&
	       (__u64)BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == cookie;
}

struct queue {
	__u32 len, max;
};

/*
 * The listener may have gone, and its memory be another socket's: cookies are never used twice, so it is believed only
 * if the cookie is its own before the reading and after it.
 */
static __always_inline bool queue_read(struct listener *listener, struct queue *queue)
{
	struct sock *sk = (void *)listener->addr;

	queue->len = queue->max = ~0U;
	if (!listener->cookie || !is_listener(sk, listener->cookie))
		return false;
	__u32 len = BPF_CORE_READ(sk, sk_ack_backlog);
	__u32 max = BPF_CORE_READ(sk, sk_max_ack_backlog);
	if (!is_listener(sk, listener->cookie))
		return false;
	queue->len = len;
	queue->max = max;
	return true;
}

/* The address that the listener is bound to, where it can be read; else the one that the child was reached at. */
static __always_inline void listener_flow(struct flow *flow, const struct flow *child, struct listener *listener,
					  bool known)
{
	struct sock *sk = (void *)listener->addr;

	*flow = *child;
	__builtin_memset(flow->raddr, 0, sizeof(flow->raddr));
	flow->rport = 0;
	if (has_ipv6() && known && BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		struct in6_addr addr = BPF_CORE_READ(sk, __sk_common.skc_v6_rcv_saddr);
		copy_v6(flow->laddr, &addr);
		flow->family = 6;
	} else if (known) {
		map_v4(flow->laddr, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	}
	if (flow->family == 4)
		map_v4(flow->raddr, 0);
	if (!is_link_local(flow->laddr)) /* the child's peer was */
		flow->ifindex = 0;
}

/* ---------------------------------------------------------------- what is made of a passive open */

static __always_inline void listener_count(struct sock *sk, const struct flow *child, struct sock_state *s,
					   const struct owner *owner)
{
	struct listener_key key = {
		.cookie = s->tool.cookie, .netns = netns_of(sk), .lport = child->lport};
	struct queue queue;
	bool known = queue_read(&s->tool, &queue);
	struct listener_stats *stats = bpf_map_lookup_elem(&listeners, &key);

	if (!stats) {
		struct flow flow;
		struct head head;
		listener_flow(&flow, child, &s->tool, known);
		head_fill(&head, sk, &flow, owner, 0);
		head.cookie = s->tool.cookie;
		bpf_map_update_elem(&listener_heads, &key, &head, BPF_NOEXIST);
		bpf_map_update_elem(&listeners, &key, &stats_empty, BPF_NOEXIST);
		stats = bpf_map_lookup_elem(&listeners, &key);
	}
	if (!stats) {
		__sync_fetch_and_add(&counters.uncounted, 1);
		return;
	}
	__sync_fetch_and_add(&stats->accepts, 1);
	if (!known)
		return;
	__u64 epoch = interval.epoch;
	__u64 high = epoch << 32 | queue.len;
	__u32 cpu = bpf_get_smp_processor_id() & (QUEUES - 1);
	__u64 slot = (epoch & 1) * QUEUES + cpu;
	barrier_var(slot); /* or the compiler builds it from parts whose sum older verifiers cannot bound */
	__u64 *mine = &stats->high[slot & (2 * QUEUES - 1)];
	if (high > *mine)
		*mine = high;
	stats->accept_queue_max = queue.max;
}

static __always_inline void passive_open(struct sock *sk, struct sock_state *s, int state)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct queue queue;
	struct owner owner;
	struct flow flow;

	flow_of(&flow, sk, tp);
	if (!event_wanted(sk, &flow, s, &owner))
		return;
	if (summarise) {
		listener_count(sk, &flow, s, &owner);
		return;
	}
	struct accept *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, 0);
	queue_read(&s->tool, &queue);
	e->listener_cookie = s->tool.cookie;
	e->accept_queue = queue.len;
	e->accept_queue_max = queue.max;
	e->state = state;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
	event_submit(e, sizeof(*e));
}

/* ---------------------------------------------------------------- following listeners and their children */

static __always_inline void listener_note(struct listener *listener, struct sock *sk, __u64 address)
{
	listener->addr = address;
	listener->cookie = cookie_of(sk);
	listener->child = 0;
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	struct sock_state *s;

	if (old == new || !protocol_wanted(sk))
		return;
	if (new == TCP_LISTEN || (old == TCP_LISTEN && new == TCP_SYN_RECV)) {
		s = state_make(sk);
		if (!s || change_taken(s, old, new))
			return;
		owner_follow(s, sk, old, new);
		if (new == TCP_LISTEN)
			listener_note(&s->tool, sk, (__u64)sk);
		else
			s->tool.child = 1;
	} else if (old == TCP_SYN_RECV) {
		s = state_find(sk);
		if (!s || !s->tool.child)
			return;
		s->tool.child = 0;
		owner_follow(s, sk, old, new);
		passive_open(sk, s, new);
	} else if (old == TCP_LISTEN) {
		change_pass(sk, old, new);
	}
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- listeners that are there already */

#define OWN_SET_STATE
#define SOCK_OWNED(sk) (protocol_wanted(sk) && is_inet(sk) && (sk)->__sk_common.skc_state == TCP_LISTEN)
#define SOCK_SEED(sk, tp, s)                                                                                               \
	do {                                                                                                           \
		if (!s->tool.cookie)                                                                                   \
			listener_note(&s->tool, sk, address);                                                    \
	} while (0)
#include "owner.bpf.h"

/* ---------------------------------------------------------------- whose the listeners are when they are shown */

/* Of the head, only the owner. */
struct listener_now {
	struct head head;
	struct listener_key key;
};
EXPORT_TYPE(listener_now);

static __always_inline void show_listener(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp,
					  struct sock_state *s)
{
	struct listener_now now = {.key = {.cookie = s->tool.cookie}};

	if (sk->__sk_common.skc_state != TCP_LISTEN)
		return;
	now.key.netns = netns_of(sk);
	now.key.lport = sk->__sk_common.skc_num;
	owner_now(&now.head.owner, s, sk, tp);
	bpf_seq_write(seq, &now, sizeof(now));
}
EACH_SOCKET(listeners_now, show_listener)
