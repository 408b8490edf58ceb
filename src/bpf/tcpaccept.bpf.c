/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpaccept: one record per passive open; or, instead of records, numbers per listener. */
#include "kernel/kernel.h"

/* A listener's reference to itself. A child gets it with the cloned storage, and so knows its listener. */
struct listener {
	__u64 addr; /* of struct sock: read only, and only if the cookie confirms that it is still the listener */
	__u64 cookie;
	__u8 child; /* a child in its handshake */
	__u8 pad[7];
};

#define TOOL_STATE struct listener
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "count.bpf.h"
#include "tcpaccept/listener.bpf.h"

struct accept {
	struct head head;
	__u64 listener_cookie;  /* 0: not known */
	__u32 accept_queue;     /* with this one in it */
	__u32 accept_queue_max; /* both ~0: not known */
	__u8 state;             /* after SYN_RECV: ESTABLISHED, unless it ended first (Fast Open) */
	__u8 pad[7];
};
EXPORT_TYPE(accept);

/* ---------------------------------------------------------------- numbers per listener */

/* A listener from before the trace may have no cookie; then its port must suffice. */
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

/* One entry until user space sets the size: an unused table takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct listener_key);
	__type(value, struct listener_stats);
} listeners SEC(".maps");

/* Owner and address at the first open, written before any numbers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct listener_key);
	__type(value, struct head);
} listener_heads SEC(".maps");

const volatile bool summarise = false;
const volatile bool every_listener = false; /* count all opens, and show all listeners that match */

/* The number of the interval, which the reader counts up. */
struct interval {
	__u64 epoch;
};
EXPORT_TYPE(interval);

struct interval interval SEC(".data.interval") = {.epoch = 1};

/* Too large for the stack. */
static const struct listener_stats stats_empty = {};
static const struct head head_empty = {};

/* ---------------------------------------------------------------- the listener of a child */

static __always_inline bool is_listener(__u64 address, __u64 cookie)
{
	return state_at(address) == TCP_LISTEN && cookie_at(address) == cookie;
}

struct queue {
	__u32 len, max;
};

/*
 * The listener may have been freed and its memory reused. Cookies are never reused, so values are used only if the
 * cookie matches before and after the read.
 */
static __always_inline bool queue_read(struct listener *listener, struct queue *queue)
{
	__u64 address = listener->addr;

	queue->len = queue->max = ~0U;
	if (!listener->cookie || !is_listener(address, listener->cookie))
		return false;
	__u32 len = READ_AT(address, sock, sk_ack_backlog);
	__u32 max = READ_AT(address, sock, sk_max_ack_backlog);
	barrier();
	if (!is_listener(address, listener->cookie))
		return false;
	queue->len = len;
	queue->max = max;
	return true;
}

/* The address the listener is bound to, if it can be read; otherwise the child's local address. */
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
	struct listener_key key = {.cookie = s->tool.cookie, .netns = netns_of(sk), .lport = child->lport};
	struct queue queue;
	bool known = queue_read(&s->tool, &queue);
	struct listener_stats *stats = bpf_map_lookup_elem(&listeners, &key);

	if (!stats) {
		struct flow flow;
		listener_flow(&flow, child, &s->tool, known);
		/* In place: it is too large for the stack. It is read only once there are numbers. */
		bpf_map_update_elem(&listener_heads, &key, &head_empty, BPF_NOEXIST);
		struct head *head = bpf_map_lookup_elem(&listener_heads, &key);
		if (head) {
			head_fill(head, sk, &flow, owner, 0);
			head->cookie = s->tool.cookie;
		}
		bpf_map_update_elem(&listeners, &key, &stats_empty, BPF_NOEXIST);
		stats = bpf_map_lookup_elem(&listeners, &key);
	}
	if (!stats) {
		loss_count(&counters.uncounted, 1);
		return;
	}
	__sync_fetch_and_add(&stats->accepts, 1);
	if (!known)
		return;
	__u64 epoch = interval.epoch;
	__u64 high = epoch << 32 | queue.len;
	__u32 cpu = bpf_get_smp_processor_id() & (QUEUES - 1);
	__u64 slot = (epoch & 1) * QUEUES + cpu;
	barrier_var(slot); /* or the compiler splits it into parts whose sum older verifiers cannot bound */
	__u64 *mine = &stats->high[slot & (2 * QUEUES - 1)];
	if (high > *mine)
		*mine = high;
	stats->accept_queue_max = queue.max;
}

/* A function, whose stack is not added to that of what is below state_make(). */
static __noinline void passive_open(struct sock *sk, struct sock_state *s, int state)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner = {};
	struct group_key key;
	struct flow *flow = &key.flow;
	struct queue queue;

	flow_of(flow, sk, tp);
	if (every_listener) {
		/* The filters are for listeners, whose owners are found when they are shown. */
		listener_count(sk, flow, s, &owner);
		return;
	}
	if (!passes_filters(sk, flow, s, &owner))
		return;
	/* The child still has its listener's user and cgroup. */
	if (group_by) {
		group_fill(&key, sk, &owner, 0);
		count_add(&key, 1);
		return;
	}
	if (summarise) {
		listener_count(sk, flow, s, &owner);
		return;
	}
	struct accept *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, flow, &owner, 0);
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

	if (old == new || (old != TCP_LISTEN && old != TCP_SYN_RECV && new != TCP_LISTEN) || !protocol_matches(sk))
		return;
	/* Of all listeners, the filters are for listeners: those say which opens count. */
	if (!every_listener && never_matches(sk, new)) {
		if (old == TCP_SYN_RECV)
			count_filtered();
		return;
	}
	if (new == TCP_LISTEN || (old == TCP_LISTEN && new == TCP_SYN_RECV)) {
		s = state_make(sk);
		if (!s || !claim_change(s, old, new))
			return;
		owner_on_state_change(s, sk, old, new);
		if (new == TCP_LISTEN)
			listener_note(&s->tool, sk, (__u64)sk);
		else
			s->tool.child = 1;
	} else if (old == TCP_SYN_RECV) {
		s = state_find(sk);
		if (!s || !s->tool.child)
			return;
		s->tool.child = 0;
		owner_on_state_change(s, sk, old, new);
		passive_open(sk, s, new);
		state_done(s);
	} else if (old == TCP_LISTEN) {
		mark_change(sk, old, new);
	}
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- listeners that are there already */

#define OWN_SET_STATE
#define SOCK_OWNED(sk) (protocol_matches(sk) && is_inet(sk) && (sk)->__sk_common.skc_state == TCP_LISTEN)
#define SOCK_SCAN(sk, tp, s)                                                           \
	do {                                                                           \
		if (!s->tool.addr) /* a cookie that came later would be another key */ \
			listener_note(&s->tool, sk, address);                          \
	} while (0)
#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- listeners as they are now */

/* The event of the head: the listener itself matches the filters. */
struct listener_now {
	struct head head;
	struct listener_key key;
	__u64 address; /* distinguishes listeners without a cookie */
	struct queues queues;
};
EXPORT_TYPE(listener_now);
SEEN_RECORD(listener_now)

static __always_inline void show_listener(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp,
					  struct sock_state *s)
{
	struct owner owner;
	struct flow flow;

	/* An MPTCP listener's queue is that of its TCP listener. */
	if (!tp || sk->__sk_common.skc_state != TCP_LISTEN)
		return;
	flow_of(&flow, sk, tp);
	owner_now(&owner, s, sk, tp);
	bool matching = matches(sk, &flow, &owner);
	if (every_listener && !matching)
		return;
	struct listener_now *now = listener_now_seen();
	if (!now)
		return;
	__builtin_memset(&now->key, 0, sizeof(now->key));
	now->key.cookie = s->tool.cookie;
	head_fill_seen(&now->head, bpf_ktime_get_boot_ns(), sk, &flow, &owner, matching);
	now->key.netns = now->head.netns;
	now->key.lport = flow.lport;
	now->address = s->tool.addr;
	queues_fill(&now->queues, sk, tp, now->address);
	seen_write(seq, now, sizeof(*now));
}
EACH_SOCKET(listeners_now, show_listener)

/*
 * Listeners that no process has open: the kernel's own, one that is on its way to another process, and those of
 * io_uring. In the current network namespace.
 */
SEC("?iter/tcp")
int find_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (!tp)
		return 0;
	struct sock *sk = (struct sock *)tp;
	if (sk->__sk_common.skc_state != TCP_LISTEN)
		return 0;
	struct sock_state *s = state_make(sk);
	if (s && !s->tool.addr)
		listener_note(&s->tool, sk, (__u64)sk);
	return 0;
}
