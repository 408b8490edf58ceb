/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcprcvspace: receive-buffer autotuning at the entry of its function, once per buffer that a read empties; and, on
 * request, one record per socket limited by its window, or per step in which a buffer was to grow.
 */
#include "kernel/kernel.h"
#include "sample.bpf.h"

/* Measurements of a round trip each, as tcp_rcv_space_adjust() makes them (net/ipv4/tcp_input.c). */
struct adjust_stats {
	__u64 since_ns; /* the first call */
	__u32 calls;
	__u32 measures;
	__u32 limited; /* measures that asked for more window than the socket may offer */
	__u32 copied;  /* the largest */
};

/* A measurement that asked for more, before anything came of it. */
struct growth_step {
	__u64 at_ns; /* 0: none, or it was reported */
	__u64 measure_us;
	__u32 copied;
	__u32 queued;
	__s32 space;
	__u32 rcvbuf;
};

struct rcv_state {
	struct sample sample;
	struct adjust_stats stats;
	struct growth_step step;
};

#define TOOL_STATE struct rcv_state
#include "tcp.bpf.h"

/* head.event */
enum event_kind { ADJUST, LIMITED_CLOSED, LIMITED_OPEN, GROWN };
EXPORT_ENUM(event_kind);

/* Whether the buffer can still grow, or why not. */
enum growth { GROWTH_OPEN, GROWTH_LOCKED, GROWTH_OFF, GROWTH_MAX };
EXPORT_ENUM(growth);

struct adjust {
	struct head head;
	__u64 measure_us; /* since this measurement began */
	__u64 stats_ns;   /* since the socket's first call that was seen */
	__u32 copied;     /* bytes read since this measurement began */
	__u32 queued;     /* bytes that arrived in order and are not read */
	__s32 space;      /* bytes that were read in the round trip with the most */
	__u32 rcv_rtt_us; /* 0: none measured */
	__u32 rcvbuf;
	__u32 rmem_alloc;
	__u32 window_clamp;
	__u32 rcv_ssthresh;
	__u32 rcv_wnd;
	__u32 rmem_max; /* net.ipv4.tcp_rmem[2] */
	__u32 calls;
	__u32 measures;
	__u32 limited;
	__u32 max_copied;
	__u8 growth;
	__u8 measured; /* this call ends a measurement */
	__u8 pad[2];
	__u32 old_rcvbuf; /* GROWN: before the step */
};
EXPORT_TYPE(adjust);

const volatile bool summary = false;
const volatile bool grown = false; /* only steps in which the buffer was to grow */

static __always_inline int rmem_max_of(struct sock *sk)
{
	if (!bpf_ksym_exists(bpf_rdonly_cast)) /* maybe no typed pointer, see netns_of() */
		return BPF_CORE_READ(sk, __sk_common.skc_net.net, ipv4.sysctl_tcp_rmem[2]);
	return READ_ONLY(sk, sock)->__sk_common.skc_net.net->ipv4.sysctl_tcp_rmem[2];
}

/* The condition of tcp_rcvbuf_grow(), which 6.17 made a function of its own. */
static __always_inline __u8 growth_of(struct sock *sk)
{
	if (userlocks_of(sk) & SOCK_RCVBUF_LOCK)
		return GROWTH_LOCKED;
	if (!rcvbuf_is_moderated(sk))
		return GROWTH_OFF;
	return sk->sk_rcvbuf >= rmem_max_of(sk) ? GROWTH_MAX : GROWTH_OPEN;
}

static __always_inline void adjust_fill(struct adjust *e, struct sock *sk, struct tcp_sock *tp)
{
	__s64 us = bpf_ktime_get_ns() / 1000 - tp->rcvq_space.time;

	e->measure_us = us > 0 ? us : 0;
	e->copied = tp->copied_seq - tp->rcvq_space.seq;
	e->queued = tp->rcv_nxt - tp->copied_seq;
	e->space = tp->rcvq_space.space;
	e->rcv_rtt_us = tp->rcv_rtt_est.rtt_us >> 3;
	e->rcvbuf = sk->sk_rcvbuf;
	e->rmem_alloc = sk->sk_backlog.rmem_alloc.counter;
	e->window_clamp = tp->window_clamp;
	e->rcv_ssthresh = tp->rcv_ssthresh;
	e->rcv_wnd = tp->rcv_wnd;
	e->rmem_max = rmem_max_of(sk);
	e->growth = growth_of(sk);
	e->measured = tp->rcv_rtt_est.rtt_us && e->measure_us >= e->rcv_rtt_us;
}

/*
 * The kernel aims for a window of twice the bytes read per round trip. If that exceeds rcv_ssthresh and the buffer
 * cannot grow, the window limits the sender. A reader that pauses for round trips between reads is itself the limit.
 */
static __always_inline void stats_add(struct adjust_stats *stats, struct sock *sk, struct tcp_sock *tp)
{
	__u32 rtt = tp->rcv_rtt_est.rtt_us >> 3;
	__u64 us = bpf_ktime_get_ns() / 1000 - tp->rcvq_space.time;

	if (!stats->calls++)
		stats->since_ns = bpf_ktime_get_boot_ns();
	if (!tp->rcv_rtt_est.rtt_us || us < rtt)
		return;
	__u32 copied = tp->copied_seq - tp->rcvq_space.seq;
	stats->measures++;
	if (copied > stats->copied)
		stats->copied = copied;
	if (2 * (__u64)copied * rtt > us * tp->rcv_ssthresh && growth_of(sk) != GROWTH_OPEN)
		stats->limited++;
}

static __always_inline void stats_fill(struct adjust *e, const struct adjust_stats *stats)
{
	e->stats_ns = stats->since_ns ? e->head.boot_ns - stats->since_ns : 0;
	e->calls = stats->calls;
	e->measures = stats->measures;
	e->limited = stats->limited;
	e->max_copied = stats->copied;
}

/* ---------------------------------------------------------------- steps of growth */

/*
 * More was read in a round trip than ever before. The buffer is still as it was (net/ipv4/tcp_input.c:
 * tcp_rcv_space_adjust); what became of it, the next call shows.
 */
SEC("?tp_btf/tcp_rcvbuf_grow")
int BPF_PROG(rcvbuf_grow, struct sock *sk, int time)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct sock_state *s;

	if (!tp || !protocol_matches(sk) || !(s = state_find(sk)))
		return 0;
	s->tool.step.at_ns = bpf_ktime_get_boot_ns();
	s->tool.step.measure_us = time > 0 ? time : 0;
	s->tool.step.copied = tp->copied_seq - tp->rcvq_space.seq;
	s->tool.step.queued = tp->rcv_nxt - tp->copied_seq;
	s->tool.step.space = tp->rcvq_space.space;
	s->tool.step.rcvbuf = sk->sk_rcvbuf;
	return 0;
}

static __always_inline void step_report(struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct growth_step step = s->tool.step;
	struct owner owner;
	struct flow flow;

	if (!step.at_ns)
		return;
	s->tool.step.at_ns = 0;
	flow_of(&flow, sk, tp);
	if (!passes_filters(sk, &flow, s, &owner))
		return;
	struct adjust *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill_at(&e->head, step.at_ns, sk, &flow, &owner, GROWN);
	__builtin_memset(&e->measure_us, 0, sizeof(*e) - sizeof(e->head));
	adjust_fill(e, sk, tp);
	e->measure_us = step.measure_us;
	e->copied = step.copied;
	e->queued = step.queued;
	e->space = step.space;
	e->old_rcvbuf = step.rcvbuf;
	e->measured = 1;
	e->calls = s->tool.stats.calls;
	event_submit(e, sizeof(*e));
}

/* ---------------------------------------------------------------- reads */

/* Reads run in the reader's context under the lock: owner_reads() learns the process that serves an accepted socket. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(rcv_space_adjust, struct sock *sk)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct sock_state *s;
	struct owner owner;
	struct flow flow;

	if (!tp || !protocol_matches(sk) || !(s = state_make(sk)))
		return 0;
	owner_reads(s, sk);
	if (summary) {
		stats_add(&s->tool.stats, sk, tp);
		return 0;
	}
	s->tool.stats.calls++;
	if (grown) {
		step_report(sk, tp, s);
		return 0;
	}
	flow_of(&flow, sk, tp);
	if (!passes_filters(sk, &flow, s, &owner))
		return 0;
	/* --changes: the buffer, or what was measured to size it. */
	__u64 window = (__u64)sk->sk_rcvbuf << 32 | (__u32)tp->rcvq_space.space;
	if (!sample_due(&s->tool.sample, bpf_ktime_get_boot_ns(), window)) {
		count_filtered();
		return 0;
	}
	struct adjust *e = event_reserve(sizeof(*e));
	if (!e)
		return 0;
	head_fill(&e->head, sk, &flow, &owner, ADJUST);
	__builtin_memset(&e->measure_us, 0, sizeof(*e) - sizeof(e->head));
	adjust_fill(e, sk, tp);
	e->calls = s->tool.stats.calls;
	event_submit(e, sizeof(*e));
	return 0;
}

/* ---------------------------------------------------------------- the summary */

static __always_inline void on_close(struct sock *sk, struct sock_state *s)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	if (!tp || !s->tool.stats.limited)
		return;
	flow_of(&flow, sk, tp);
	if (!passes_filters(sk, &flow, s, &owner))
		return;
	struct adjust *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, LIMITED_CLOSED);
	__builtin_memset(&e->measure_us, 0, sizeof(*e) - sizeof(e->head));
	adjust_fill(e, sk, tp);
	stats_fill(e, &s->tool.stats);
	event_submit(e, sizeof(*e));
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	struct sock_state *s;

	if (old == new || !protocol_matches(sk) || never_matches(sk, new) || !(s = state_make(sk)))
		return 0;
	owner_on_state_change(s, sk, old, new);
	if (new == TCP_SYN_SENT || new == TCP_SYN_RECV) {
		__builtin_memset(&s->tool, 0, sizeof(s->tool));
	} else if (summary && new == TCP_CLOSE && old != TCP_LISTEN) {
		on_close(sk, s);
		__builtin_memset(&s->tool, 0, sizeof(s->tool));
	} else if (grown && new == TCP_CLOSE && old != TCP_LISTEN) {
		struct tcp_sock *tp = tcp_of(sk);
		if (tp)
			step_report(sk, tp, s);
	}
	if (new == TCP_CLOSE)
		state_end(s, sk);
	return 0;
}

SEEN_RECORD(adjust)

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct flow flow;

	if (!tp || !s->tool.stats.limited)
		return;
	struct owner owner;
	struct adjust_stats stats = s->tool.stats;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!matches(sk, &flow, &owner))
		return;
	struct adjust *e = adjust_seen();
	if (!e)
		return;
	__builtin_memset(e, 0, sizeof(*e));
	head_fill_seen(&e->head, bpf_ktime_get_boot_ns(), sk, &flow, &owner, LIMITED_OPEN);
	adjust_fill(e, sk, tp);
	stats_fill(e, &stats);
	seen_write(seq, e, sizeof(*e));
}

EACH_SOCKET(open_sockets, show_open)

#define OWN_SET_STATE
#define OWN_READER
#include "owner/owner.bpf.h"
