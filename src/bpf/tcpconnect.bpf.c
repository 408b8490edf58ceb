/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpconnect: one record per active open when it ends, and one when it has waited too long for an answer; or, instead
 * of records, counts or histograms of the latency.
 */
#include "kernel/kernel.h"

struct connect_attempt {
	__u64 start_ns; /* entry into SYN_SENT; 0: no open in progress that began during the trace */
	__u64 found_ns; /* first sight of an open that began before the trace */
	__u8 slot;      /* where it is counted in `unanswered` */
	__u8 pending;   /* was shown as pending */
	/* How it ended. Read back from here, they are any number to the verifier: it need not follow each on its own. */
	volatile __u8 outcome;
	volatile __u8 errno_;
	volatile __u8 partial;
	__u8 pad[3];
};

#define TOOL_STATE struct connect_attempt
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "count.bpf.h"
#include "hist.bpf.h"
#include "ending.bpf.h"

EXPORT_ENUM(outcome);

struct connect {
	struct head head;
	__u64 latency_ns; /* ~0: not known */
	__u32 syn_retrans;
	__u8 outcome;
	__u8 errno_;
	__u8 partial;  /* began before the trace: the latency is a lower bound */
	__u8 syn_sent; /* a SYN was handed to IP: the open is in ActiveOpens */
};
EXPORT_TYPE(connect);

enum mode { MODE_ROWS, MODE_COUNT, MODE_HIST };
EXPORT_ENUM(mode);

const volatile __u32 mode = MODE_ROWS;
const volatile bool failed_only = false;
const volatile __u64 min_ns = 0;
const volatile __u64 pending_ns = 0; /* 0: pending opens are not shown */
const volatile __u32 slot_shift = 0; /* a slot is 1 << slot_shift ns wide */

/*
 * Unanswered opens by start time: the reader iterates over the sockets only when some have waited long enough, and each
 * open costs no more records than rows.
 */
enum { SLOTS = 64 };

/* What a reader that has seen none asks of the next open, which resets it: to leave a trace, or to wake the reader. */
enum asks { ASKS_NOTHING, ASKS_TRACE, ASKS_WAKE };
EXPORT_ENUM(asks);

struct unanswered {
	__u64 opens[SLOTS];
	__u32 asks;
	__u32 pad;
};
EXPORT_TYPE(unanswered);

struct unanswered unanswered SEC(".data.unanswered") = {};

static __always_inline bool outcome_matches(__u8 outcome, __u64 latency_ns)
{
	if (failed_only && outcome == OUTCOME_ESTABLISHED)
		return false;
	return !min_ns || (latency_ns != ~0ULL && latency_ns >= min_ns);
}

static __always_inline void connect_fill(struct connect *e, struct tcp_sock *tp, __u8 outcome, __u64 latency_ns)
{
	e->latency_ns = latency_ns;
	e->outcome = outcome;
	e->syn_retrans = tp ? tp->total_retrans : 0;
	e->syn_sent = !tp || tp->segs_out;
}

/* ---------------------------------------------------------------- the end of an open */

static __always_inline __u64 latency_of(struct connect_attempt *attempt, struct tcp_sock *tp, __u8 outcome, __u64 now)
{
	/*
	 * TCP_FASTOPEN_CONNECT: the SYN may have waited for the first write. The SYN's round trip is the only sample so
	 * far; there is none after a retransmission.
	 */
	if (tp && outcome == OUTCOME_ESTABLISHED && BPF_CORE_READ_BITFIELD(tp, fastopen_connect) &&
	    BPF_CORE_READ_BITFIELD(tp, syn_fastopen))
		return tp->srtt_us && !tp->total_retrans ? (tp->srtt_us >> 3) * 1000ULL : ~0ULL;
	__u64 start = attempt->start_ns ? attempt->start_ns : attempt->found_ns;
	return start ? now - start : ~0ULL;
}

static __always_inline void on_open_end(struct sock *sk, struct sock_state *s, int old, int new)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct group_key key;
	struct flow *flow = &key.flow;

	int error = new == TCP_CLOSE ? connect_error(sk, sk->sk_err) : 0;
	__u8 outcome = new == TCP_ESTABLISHED ? OUTCOME_ESTABLISHED : outcome_of_error(error);
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 latency_ns = latency_of(&s->tool, tp, outcome, now);
	/*
	 * No local port: connect() found none (net/ipv4/inet_hashtables.c: __inet_hash_connect), and sk_err does not
	 * say so.
	 */
	if (outcome == OUTCOME_ABORTED && !error && !local_port(sk, tp)) {
		outcome = OUTCOME_NO_PORT;
		error = EADDRNOTAVAIL;
	}
	s->tool.outcome = outcome;
	s->tool.errno_ = error;
	s->tool.partial = !s->tool.start_ns;
	outcome = s->tool.outcome;
	error = s->tool.errno_;
	if (s->tool.start_ns)
		__sync_fetch_and_add(&unanswered.opens[s->tool.slot & (SLOTS - 1)], -1);
	s->tool.start_ns = s->tool.found_ns = 0;
	if (tp && BPF_CORE_READ_BITFIELD(tp, repair)) /* restored by TCP_REPAIR: no packet, not in ActiveOpens */
		return;
	owner_on_state_change(s, sk, old, new);
	flow_of(flow, sk, tp);
	if (!outcome_matches(outcome, latency_ns)) {
		count_filtered();
		return;
	}
	if (!passes_filters(sk, flow, s, &owner))
		return;
	if (mode != MODE_ROWS) {
		bool timed = !s->tool.partial && latency_ns != ~0ULL;
		group_fill(&key, sk, &owner, mode == MODE_COUNT ? outcome : 0);
		if (mode == MODE_COUNT)
			count_add(&key, 1);
		else if (timed && (failed_only || outcome == OUTCOME_ESTABLISHED))
			hist_add(&key, latency_ns / 1000);
		return;
	}
	struct connect *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill_at(&e->head, now, sk, flow, &owner, 0);
	connect_fill(e, tp, outcome, latency_ns);
	e->errno_ = error;
	e->partial = s->tool.partial;
	event_submit(e, sizeof(*e));
}

static __always_inline void open_end(struct sock *sk, int old, int new)
{
	struct sock_state *s = state_make(sk);

	if (!s || !claim_change(s, old, new))
		return;
	on_open_end(sk, s, old, new);
	state_done(s);
}

/* ---------------------------------------------------------------- following an open */

static __always_inline void open_begin(struct sock *sk, int old)
{
	struct sock_state *s = state_make(sk);

	if (!s || !claim_change(s, old, TCP_SYN_SENT))
		return;
	owner_on_state_change(s, sk, old, TCP_SYN_SENT);
	__u64 now = bpf_ktime_get_boot_ns();
	s->tool.pending = 0;
	s->tool.found_ns = 0;
	s->tool.slot = now >> slot_shift & (SLOTS - 1);
	s->tool.start_ns = now;
	__sync_fetch_and_add(&unanswered.opens[s->tool.slot & (SLOTS - 1)], 1);
	if (unanswered.asks == ASKS_WAKE)
		reader_wake(&unanswered.asks);
	else if (unanswered.asks)
		unanswered.asks = ASKS_NOTHING;
}

/* SYN_RECV belongs to an active open only in a simultaneous open. */
static __always_inline bool is_active(struct sock *sk)
{
	struct sock_state *s = state_find(sk);

	return s && (s->tool.start_ns || s->tool.found_ns);
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || (old != TCP_SYN_SENT && old != TCP_SYN_RECV && new != TCP_SYN_SENT) || !protocol_matches(sk))
		return;
	if (never_matches(sk, new)) {
		/* An open that ends. In SYN_RECV an accepted socket looks like a simultaneous open. */
		if (old == TCP_SYN_SENT && new != TCP_SYN_RECV)
			count_filtered();
		return;
	}
	if (new == TCP_SYN_SENT)
		open_begin(sk, old);
	else if (old == TCP_SYN_SENT ? new != TCP_SYN_RECV : old == TCP_SYN_RECV && is_active(sk))
		open_end(sk, old, new);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- opens that are there already */

/* Files are scanned again before pending opens are shown: the first sight counts. */
static __always_inline void attempt_found(struct connect_attempt *attempt)
{
	if (!attempt->start_ns && !attempt->found_ns)
		attempt->found_ns = bpf_ktime_get_boot_ns();
}

#define OWN_SET_STATE
#define SOCK_OWNED(sk) (protocol_matches(sk) && is_inet(sk) && (sk)->__sk_common.skc_state == TCP_SYN_SENT)
#define SOCK_SCAN(sk, tp, s) attempt_found(&s->tool)
#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- opens without an answer */

/*
 * Sends a record for each open that has waited too long and was not shown. Reserves the record before it rechecks
 * whether the open has ended, so that the record of the end follows.
 */
static __always_inline void show_one(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct flow flow;

	if (sk->__sk_common.skc_state != TCP_SYN_SENT)
		return;
	bool partial = !s->tool.start_ns;
	__u64 start = partial ? s->tool.found_ns : s->tool.start_ns;
	__u64 latency_ns = bpf_ktime_get_boot_ns() - start;
	if (!start || latency_ns < pending_ns)
		return;
	if (s->tool.pending || (tp && !tp->segs_out)) /* Fast Open: the SYN goes with the first write */
		return;
	struct owner owner;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!outcome_matches(OUTCOME_PENDING, latency_ns) || !matches(sk, &flow, &owner))
		return;
	struct connect *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill_seen(&e->head, bpf_ktime_get_boot_ns(), sk, &flow, &owner, 0);
	connect_fill(e, tp, OUTCOME_PENDING, latency_ns);
	e->errno_ = 0;
	e->partial = partial;
	if (start != (partial ? s->tool.found_ns : s->tool.start_ns)) {
		bpf_ringbuf_discard(e, 0);
		return;
	}
	s->tool.pending = 1;
	event_submit(e, sizeof(*e));
}

EACH_SOCKET(show_pending, show_one)
