/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcprcvspace: receive-buffer autotuning as its function is entered, once per buffer that a read empties; and, on
 * request, one record per socket that its window limited.
 */
#include "kernel.h"
#include "sample.bpf.h"

/* Measurements of a round trip each, as tcp_rcv_space_adjust() makes them (net/ipv4/tcp_input.c). */
struct tally {
	__u64 since_ns; /* the first call */
	__u32 calls;
	__u32 measures;
	__u32 limited; /* measures that asked for more window than the socket may offer */
	__u32 copied;  /* the largest */
};

struct rcv_state {
	struct sample sample;
	struct tally tally;
};

#define TOOL_STATE struct rcv_state
#include "tcp.bpf.h"

/* head.event, and an index into EVENTS of tcprcvspace.rs */
enum event_kind { ADJUST, LIMITED_CLOSED, LIMITED_OPEN };

/* Whether the buffer can still grow, or why not: an index into GROWTH of tcprcvspace.rs */
enum growth { GROWTH_OPEN, GROWTH_LOCKED, GROWTH_OFF, GROWTH_MAX };

struct adjust {
	struct head head;
	__u64 measure_us; /* since this measurement began */
	__u64 tally_ns;	  /* since the socket's first call that was seen */
	__u32 copied;	  /* bytes read since this measurement began */
	__u32 queued;	  /* bytes that arrived in order and are not read */
	__s32 space;	  /* bytes that were read in the round trip with the most */
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
	__u8 bare;     /* made of a tracepoint's record, on a kernel without type information */
	__u8 pad[5];
};
EXPORT_TYPE(adjust);

const volatile bool summary = false;

static __always_inline int rmem_max_of(struct sock *sk)
{
	if (config.lacks.sk_storage) /* no typed pointer, see netns_of() */
		return BPF_CORE_READ(sk, __sk_common.skc_net.net, ipv4.sysctl_tcp_rmem[2]);
	return sk->__sk_common.skc_net.net->ipv4.sysctl_tcp_rmem[2];
}

/* What tcp_rcvbuf_grow() asks, before and after 6.17 made it a function of its own. */
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
 * The kernel wants the window to be twice what is read in a round trip. When that is more than it may offer
 * (rcv_ssthresh) and the buffer cannot grow, the window limits the sender. A reader that lets round trips pass between
 * its reads limits it itself.
 */
static __always_inline void tally_add(struct tally *tally, struct sock *sk, struct tcp_sock *tp)
{
	__u32 rtt = tp->rcv_rtt_est.rtt_us >> 3;
	__u64 us = bpf_ktime_get_ns() / 1000 - tp->rcvq_space.time;

	if (!tally->calls++)
		tally->since_ns = bpf_ktime_get_boot_ns();
	if (!tp->rcv_rtt_est.rtt_us || us < rtt)
		return;
	__u32 copied = tp->copied_seq - tp->rcvq_space.seq;
	tally->measures++;
	if (copied > tally->copied)
		tally->copied = copied;
	if (2 * (__u64)copied * rtt > us * tp->rcv_ssthresh && growth_of(sk) != GROWTH_OPEN)
		tally->limited++;
}

static __always_inline void tally_fill(struct adjust *e, const struct tally *tally)
{
	e->tally_ns = tally->since_ns ? e->head.boot_ns - tally->since_ns : 0;
	e->calls = tally->calls;
	e->measures = tally->measures;
	e->limited = tally->limited;
	e->max_copied = tally->copied;
}

/* Reads happen in the reader's context under the lock: owner_reads() learns who serves an accepted socket. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(rcv_space_adjust, struct sock *sk)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct sock_state *s;
	struct owner owner;
	struct flow flow;

	if (!tp || !protocol_wanted(sk) || !(s = state_make(sk)))
		return 0;
	owner_reads(s, sk);
	if (summary) {
		tally_add(&s->tool.tally, sk, tp);
		return 0;
	}
	s->tool.tally.calls++;
	flow_of(&flow, sk, tp);
	if (!event_wanted(sk, &flow, s, &owner))
		return 0;
	/* --changes: the buffer, or what was measured to size it. */
	__u64 window = (__u64)sk->sk_rcvbuf << 32 | (__u32)tp->rcvq_space.space;
	if (!sample_due(&s->tool.sample, bpf_ktime_get_boot_ns(), window)) {
		turn_away();
		return 0;
	}
	struct adjust *e = event_reserve(sizeof(*e));
	if (!e)
		return 0;
	head_fill(&e->head, sk, &flow, &owner, ADJUST);
	__builtin_memset(&e->measure_us, 0, sizeof(*e) - sizeof(e->head));
	adjust_fill(e, sk, tp);
	e->calls = s->tool.tally.calls;
	event_submit(e, sizeof(*e));
	return 0;
}

/* ---------------------------------------------------------------- the summary */

static __always_inline void on_close(struct sock *sk, struct sock_state *s)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	if (!tp || !s->tool.tally.limited)
		return;
	flow_of(&flow, sk, tp);
	if (!event_wanted(sk, &flow, s, &owner))
		return;
	struct adjust *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, LIMITED_CLOSED);
	__builtin_memset(&e->measure_us, 0, sizeof(*e) - sizeof(e->head));
	adjust_fill(e, sk, tp);
	tally_fill(e, &s->tool.tally);
	event_submit(e, sizeof(*e));
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	struct sock_state *s;

	if (old == new || !protocol_wanted(sk) || !(s = state_make(sk)))
		return 0;
	owner_follow(s, sk, old, new);
	if (new == TCP_SYN_SENT || new == TCP_SYN_RECV) {
		__builtin_memset(&s->tool, 0, sizeof(s->tool));
	} else if (summary && new == TCP_CLOSE && old != TCP_LISTEN) {
		on_close(sk, s);
		__builtin_memset(&s->tool, 0, sizeof(s->tool));
	}
	return 0;
}

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct adjust e = {};
	struct flow flow;

	if (!tp || !s->tool.tally.limited)
		return;
	struct owner owner;
	struct tally tally = s->tool.tally;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!wanted(sk, &flow, &owner))
		return;
	head_fill(&e.head, sk, &flow, &owner, LIMITED_OPEN);
	adjust_fill(&e, sk, tp);
	tally_fill(&e, &tally);
	bpf_seq_write(seq, &e, sizeof(e));
}

EACH_SOCKET(open_sockets, show_open)

#define OWN_SET_STATE
#define OWN_READER
#include "owner.bpf.h"
