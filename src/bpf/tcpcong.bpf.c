/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpcong: one record per change of a connection's congestion state, with the time in the old one; or, for totals, one
 * per connection with its time in each state; or histograms of these times.
 */
#include "kernel/kernel.h"

/* TCP_CA_* of include/uapi/linux/tcp.h; the number behind them stands for the end of the connection. */
enum { CA_STATES = 5, CA_CLOSED = CA_STATES };

struct times {
	__u64 ns[CA_STATES];
	__u32 changes[CA_STATES]; /* to this state */
	__u32 pad;
};

struct congestion {
	__u64 since_ns; /* entry into the state; 0: not seen yet; odd: first sight of a socket already in it */
	struct times times;
	struct times reported;
	__u8 state; /* TCP_CA_*, if since_ns is even */
	__u8 pad[7];
};

#define TOOL_STATE struct congestion
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "hist.bpf.h"

#define TIME_UNKNOWN (~0ULL)

/* Which record it is: head.event. */
enum event_kind { CA_CHANGED, CA_ENDED, CA_TOTAL };
EXPORT_ENUM(event_kind);

struct change {
	struct head head;
	__u64 in_state_ns; /* TIME_UNKNOWN: the socket was not seen before */
	__u32 snd_cwnd;    /* segments, as the next five */
	__u32 ssthresh;
	__u32 packets_out;
	__u32 sacked_out;
	__u32 lost_out;
	__u32 retrans_out;
	__u32 srtt_us;
	__u32 mss;
	__u32 total_retrans;
	__u8 ca_name[16];
	__u8 old_state;
	__u8 new_state; /* CA_CLOSED: the connection has ended */
	__u8 at_least;  /* it was in the old state before it was first seen */
	__u8 state;     /* of TCP */
	__u8 retransmits;
	__u8 pad[7];
};
EXPORT_TYPE(change);

struct total {
	struct head head;
	struct times times; /* since the last record of this socket */
};
EXPORT_TYPE(times);
EXPORT_TYPE(total);

enum mode { MODE_ROWS, MODE_TOTALS, MODE_HIST };
EXPORT_ENUM(mode);

const volatile __u32 mode = MODE_ROWS;
const volatile __u32 old_states = ~0U; /* bit per state */
const volatile __u32 new_states = ~0U;
const volatile __u64 min_ns = 0;

struct step {
	__u64 at_ns;
	__u64 in_ns; /* or TIME_UNKNOWN */
	__u8 old, new;
	bool at_least;
	__u8 pad[5];
};

/* ---------------------------------------------------------------- the time in each state */

static __always_inline void time_add(struct times *times, __u64 state, __u64 ns)
{
	barrier_var(state); /* the check below is of the register that is used */
	if (state < CA_STATES)
		times->ns[state] += ns;
}

static __always_inline void change_count(struct times *times, __u64 state)
{
	barrier_var(state);
	if (state < CA_STATES)
		times->changes[state]++;
}

/* The entry into the state was seen. */
static __always_inline bool is_exact(const struct congestion *cong)
{
	return cong->since_ns && !(cong->since_ns & 1);
}

/*
 * Ends the time in the old state and starts that in the new one. Where the state is another than the one that was noted,
 * a change was missed, and nobody knows how long it was in either.
 */
static __always_inline void step_note(struct step *step, struct congestion *cong)
{
	__u64 since = cong->since_ns;
	bool missed = is_exact(cong) && cong->state != step->old;

	step->in_ns = TIME_UNKNOWN;
	step->at_least = since & 1;
	if (since && !missed) {
		step->in_ns = step->at_ns - since;
		time_add(&cong->times, step->old, step->in_ns);
	}
	change_count(&cong->times, step->new);
	cong->state = step->new;
	cong->since_ns = step->at_ns;
}

static __always_inline __u64 now_even(void)
{
	return bpf_ktime_get_boot_ns() & ~1ULL;
}

/* Returns what came since the last call, with the time in the present state, and updates what was reported. */
static __always_inline void times_report(struct times *to, struct congestion *cong, __u8 state, __u64 now)
{
	__u64 since = cong->since_ns;

	to->pad = 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < CA_STATES; i++) {
		__u64 ns = cong->times.ns[i];
		if (i == state && since && now > since)
			ns += now - since;
		/* A change on another CPU may be half written: what is missing comes with the next one. */
		to->ns[i] = ns > cong->reported.ns[i] ? ns - cong->reported.ns[i] : 0;
		to->changes[i] = cong->times.changes[i] - cong->reported.changes[i];
		cong->reported.ns[i] += to->ns[i];
		cong->reported.changes[i] = cong->times.changes[i];
	}
}

/* ---------------------------------------------------------------- records */

static __always_inline void change_fill(struct change *e, struct sock *sk, struct tcp_sock *tp, const struct step *step)
{
	e->in_state_ns = step->in_ns;
	e->snd_cwnd = tp->snd_cwnd;
	e->ssthresh = tp->snd_ssthresh;
	e->packets_out = tp->packets_out;
	e->sacked_out = tp->sacked_out;
	e->lost_out = tp->lost_out;
	e->retrans_out = tp->retrans_out;
	e->srtt_us = tp->srtt_us >> 3;
	e->mss = tp->mss_cache;
	e->total_retrans = tp->total_retrans;
	ca_name_of(e->ca_name, tp);
	e->old_state = step->old;
	e->new_state = step->new;
	e->at_least = step->at_least;
	e->state = sk->__sk_common.skc_state;
	e->retransmits = tp->inet_conn.icsk_retransmits;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
}

static __always_inline bool step_matches(const struct step *step)
{
	if (!(old_states >> (step->old & 31) & 1) || !(new_states >> (step->new & 31) & 1))
		return false;
	return !min_ns || (step->in_ns != TIME_UNKNOWN && step->in_ns >= min_ns);
}

/*
 * A record, or a value of a histogram, which has only what was seen from its beginning. A function, whose stack is not added
 * to that of what is below state_make().
 */
static __noinline int report(struct sock *sk, struct tcp_sock *tp, struct sock_state *s, const struct flow *flow,
			     const struct step *step)
{
	struct owner owner;

	if (mode == MODE_HIST && (step->at_least || step->in_ns == TIME_UNKNOWN))
		return nothing();
	/* Nothing has changed where a connection ends as it began. */
	if (mode == MODE_ROWS && step->new == CA_CLOSED && step->old == TCP_CA_OPEN)
		return nothing();
	if (!step_matches(step)) {
		count_filtered();
		return nothing();
	}
	if (!passes_filters(sk, flow, s, &owner))
		return nothing();
	if (mode == MODE_HIST) {
		struct group_key key;
		key.flow = *flow;
		group_fill(&key, sk, &owner, step->old);
		hist_add(&key, step->in_ns / 1000);
		return nothing();
	}
	struct change *e = event_reserve(sizeof(*e));
	if (!e)
		return nothing();
	head_fill_at(&e->head, step->at_ns, sk, flow, &owner, step->new == CA_CLOSED ? CA_ENDED : CA_CHANGED);
	change_fill(e, sk, tp, step);
	event_submit(e, sizeof(*e));
	return nothing();
}

/* As report(). */
static __noinline int report_total(struct sock *sk, struct sock_state *s, const struct flow *flow, __u64 now)
{
	struct owner owner;

	if (!passes_filters(sk, flow, s, &owner))
		return nothing();
	struct total *e = event_reserve(sizeof(*e));
	if (!e)
		return nothing();
	head_fill_at(&e->head, now, sk, flow, &owner, CA_TOTAL);
	times_report(&e->times, &s->tool, CA_CLOSED, now);
	event_submit(e, sizeof(*e));
	return nothing();
}

/* ---------------------------------------------------------------- changes of the congestion state */

/* Told from any change of TCP's state on the same CPU. */
static __always_inline __u64 ca_change_of(int old, int new)
{
	return 1ULL << 32 | change_of(old, new);
}

/*
 * Called before the change (net/ipv4/tcp_cong.c: tcp_set_ca_state), and for a state that stays as it is, too: at each
 * timeout in Loss. disconnect() sets Open after CLOSE.
 */
static __always_inline void on_ca_state(struct sock *sk, struct tcp_sock *tp, int old, int new)
{
	struct step step = {.old = old, .new = new};
	struct flow flow;

	if (old == new || sk->__sk_common.skc_state == TCP_CLOSE)
		return;
	flow_of(&flow, sk, tp);
	if (!flow_matches(&flow) || !sock_matches(sk)) {
		count_filtered();
		return;
	}
	struct sock_state *s = state_make(sk);
	/* A backup (owner/nested.bpf.h) has been here. */
	if (!s || (is_exact(&s->tool) && s->tool.state == new))
		return;
	step.at_ns = now_even();
	step_note(&step, &s->tool);
	owner_learn(s, sk);
	if (mode != MODE_TOTALS)
		CALL(report(sk, tp, s, &flow, &step));
}

SEC("tp_btf/tcp_cong_state_set")
int BPF_PROG(cong_state_set, struct sock *sk, __u8 new)
{
	struct tcp_sock *tp = tcp_of(sk);

	if (!tp)
		return 0;
	struct handled *last = handled_here();
	int old = ca_state_of(tp);
	last->sk = 0;
	on_ca_state(sk, tp, old, new);
	last->change = ca_change_of(old, new);
	last->sk = (__u64)sk;
	return 0;
}

/* See SET_STATE_BACKUP() of owner/nested.bpf.h. */
#define CONG_STATE_BACKUP(section, name)                                             \
	SEC(section)                                                                 \
	int BPF_PROG(name, struct sock *sk, __u8 new)                                \
	{                                                                            \
		struct tcp_sock *tp = tcp_of(sk);                                    \
		if (!tp || config.missing.sk_storage)                                \
			return 0;                                                    \
		struct handled *last = handled_here();                               \
		int old = ca_state_of(tp);                                           \
		if (last->sk != (__u64)sk || last->change != ca_change_of(old, new)) \
			on_ca_state(sk, tp, old, new);                               \
		return 0;                                                            \
	}
CONG_STATE_BACKUP("tp_btf/tcp_cong_state_set", cong_state_set_backup1)
CONG_STATE_BACKUP("?tp_btf/tcp_cong_state_set", cong_state_set_backup2)
CONG_STATE_BACKUP("?tp_btf/tcp_cong_state_set", cong_state_set_backup3)

/* ---------------------------------------------------------------- the life of a connection */

/* A new connection is in Open; a child begins with a copy of its listener's state. */
static __always_inline void cong_begin(struct congestion *cong)
{
	__builtin_memset(cong, 0, sizeof(*cong));
	cong->state = TCP_CA_OPEN;
	cong->since_ns = now_even();
}

static __always_inline void cong_end(struct sock *sk, struct sock_state *s)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct step step = {.new = CA_CLOSED};
	struct flow flow;

	if (!tp)
		return;
	step.at_ns = now_even();
	step.old = ca_state_of(tp);
	step_note(&step, &s->tool);
	flow_of(&flow, sk, tp);
	if (mode == MODE_TOTALS)
		CALL(report_total(sk, s, &flow, step.at_ns));
	else
		CALL(report(sk, tp, s, &flow, &step));
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	bool begins = new == TCP_SYN_SENT || (old == TCP_LISTEN && new == TCP_SYN_RECV);

	if (old == new || !protocol_matches(sk) || never_matches(sk, new))
		return;
	struct sock_state *s = begins ? state_make(sk) : state_of_follower(sk, old, new);
	if (!s || !claim_change(s, old, new))
		return;
	if (begins)
		cong_begin(&s->tool);
	owner_on_state_change(s, sk, old, new);
	if (new != TCP_CLOSE)
		return;
	if (old != TCP_LISTEN)
		cong_end(sk, s);
	state_end(s, sk);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- sockets that are there already */

static __always_inline bool is_connected(struct sock *sk)
{
	int state = sk->__sk_common.skc_state;

	return state != TCP_CLOSE && state != TCP_LISTEN;
}

/* Only the time: what state that is of, the next event tells, or the socket itself. */
#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s)                                                        \
	do {                                                                        \
		if (is_connected(sk) && !(s)->tool.since_ns)                        \
			SET_ONCE(&(s)->tool.since_ns, bpf_ktime_get_boot_ns() | 1); \
	} while (0)
#include "owner/owner.bpf.h"

SEEN_RECORD(total)

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct owner owner;
	struct flow flow;

	if (!tp || !is_connected(sk) || !s->tool.since_ns)
		return;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!matches(sk, &flow, &owner))
		return;
	struct total *e = total_seen();
	if (!e)
		return;
	struct congestion cong = s->tool;
	__u64 now = bpf_ktime_get_boot_ns();
	head_fill_seen(&e->head, now, sk, &flow, &owner, CA_TOTAL);
	times_report(&e->times, &cong, is_exact(&cong) ? cong.state : ca_state_of(tp), now);
	/* Reported twice if the socket closes on another CPU at this moment: no lock covers both. */
	if (!seen_write(seq, e, sizeof(*e)))
		s->tool.reported = cong.reported;
}
EACH_SOCKET(open_totals, show_open)
