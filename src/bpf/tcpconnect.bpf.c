/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpconnect: one record per active open when it ends, and one when it has waited too long for an answer; or, instead
 * of records, counts per flow or histograms of the latency.
 */
#include "kernel.h"

struct opening {
	__u64 start_ns; /* SYN_SENT; 0 when no open is under way that began in front of us */
	__u64 seed_ns;  /* when an open was first seen that had begun before the trace */
	__u8 slot;      /* where it is counted in `unanswered` */
	__u8 pending;   /* was shown as pending */
	__u8 pad[6];
};

#define TOOL_STATE struct opening
#include "tcp.bpf.h"
#include "nested.bpf.h"
#include "count.bpf.h"
#include "hist.bpf.h"
#include "ending.bpf.h"

enum outcome {
	OUTCOME_ESTABLISHED,
	OUTCOME_REFUSED,
	OUTCOME_RESET,
	OUTCOME_TIMEOUT,
	OUTCOME_UNREACHABLE,
	OUTCOME_ABORTED,
	OUTCOME_PENDING,
};

struct connect {
	struct head head;
	__u64 latency_ns; /* ~0: not known */
	__u32 syn_retrans;
	__u8 outcome;
	__u8 errno_;
	__u8 partial;  /* began before the trace: the latency is a lower bound */
	__u8 syn_sent; /* a SYN was handed to IP: the open is in ActiveOpens; 2: not known (src/bin/tcpconnect/record.rs) */
};
EXPORT_TYPE(connect);

enum mode { MODE_ROWS, MODE_COUNT, MODE_HIST };

const volatile __u32 mode = MODE_ROWS;
const volatile bool failed_only = false;
const volatile bool by_lport = false; /* MODE_COUNT */
const volatile bool by_raddr = false; /* MODE_HIST */
const volatile __u64 min_ns = 0;
const volatile __u64 pending_ns = 0; /* 0: pending opens are not shown */
const volatile __u32 slot_shift = 0; /* a slot is 1 << slot_shift ns wide */

/*
 * How many opens have no answer yet, by when they began: the reader walks over the sockets only when it sees that some
 * have waited long enough, and no open costs a record more than its row.
 */
enum { SLOTS = 64 };

struct unanswered {
	__u64 opens[SLOTS];
};
EXPORT_TYPE(unanswered);

struct unanswered unanswered SEC(".data.unanswered") = {};

static __always_inline bool outcome_wanted(__u8 outcome, __u64 latency_ns)
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

static __always_inline __u8 outcome_of_error(int error)
{
	switch (error) {
	case 0: /* the process closed it, or connect() itself failed */
	case ECONNABORTED: /* tcp_abort(): ss -K, bpf_sock_destroy() */
		return OUTCOME_ABORTED;
	case ECONNREFUSED:
		return OUTCOME_REFUSED;
	case ECONNRESET: /* after a simultaneous open's SYN_RECV */
		return OUTCOME_RESET;
	case ETIMEDOUT:
		return OUTCOME_TIMEOUT;
	}
	return OUTCOME_UNREACHABLE; /* what ICMP and the route can say (net/ipv4/icmp.c: icmp_err_convert) */
}

static __always_inline __u64 latency_of(struct opening *opening, struct tcp_sock *tp, __u8 outcome)
{
	/*
	 * TCP_FASTOPEN_CONNECT: the SYN may have waited for the first write. The round trip of the SYN is the only sample
	 * so far, and none when it was sent again.
	 */
	if (tp && outcome == OUTCOME_ESTABLISHED && BPF_CORE_READ_BITFIELD(tp, fastopen_connect) &&
	    BPF_CORE_READ_BITFIELD(tp, syn_fastopen))
		return tp->srtt_us && !tp->total_retrans ? (tp->srtt_us >> 3) * 1000ULL : ~0ULL;
	__u64 start = opening->start_ns ? opening->start_ns : opening->seed_ns;
	return start ? bpf_ktime_get_boot_ns() - start : ~0ULL;
}

static __always_inline void open_end(struct sock *sk, int old, int new)
{
	struct sock_state *s = state_make(sk);
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	if (!s || change_taken(s, old, new))
		return;
	int error = new == TCP_CLOSE ? connect_error(sk, sk->sk_err) : 0;
	__u8 outcome = new == TCP_ESTABLISHED ? OUTCOME_ESTABLISHED : outcome_of_error(error);
	__u64 latency_ns = latency_of(&s->tool, tp, outcome);
	bool partial = !s->tool.start_ns;
	if (!partial)
		__sync_fetch_and_add(&unanswered.opens[s->tool.slot & (SLOTS - 1)], -1);
	s->tool.start_ns = s->tool.seed_ns = 0;
	if (tp && BPF_CORE_READ_BITFIELD(tp, repair)) /* restored, not made: no packet, and no ActiveOpens */
		return;
	owner_follow(s, sk, old, new);
	flow_of(&flow, sk, tp);
	if (!outcome_wanted(outcome, latency_ns)) {
		turn_away();
		return;
	}
	if (!event_wanted(sk, &flow, s, &owner))
		return;
	if (mode == MODE_COUNT) {
		count_flow(sk, &flow, by_lport, outcome, 1);
		return;
	}
	if (mode == MODE_HIST) {
		if (!partial && latency_ns != ~0ULL && (failed_only || outcome == OUTCOME_ESTABLISHED))
			hist_add(by_raddr ? &flow : NULL, 0, latency_ns / 1000);
		return;
	}
	struct connect *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, 0);
	connect_fill(e, tp, outcome, latency_ns);
	/* No port: connect() found none (net/ipv4/inet_hashtables.c: __inet_hash_connect), and sk_err does not say so. */
	e->errno_ = !error && !flow.lport ? EADDRNOTAVAIL : error;
	e->partial = partial;
	event_submit(e, sizeof(*e));
}

/* ---------------------------------------------------------------- following an open */

static __always_inline void open_begin(struct sock *sk, int old)
{
	struct sock_state *s = state_make(sk);

	if (!s || change_taken(s, old, TCP_SYN_SENT))
		return;
	owner_follow(s, sk, old, TCP_SYN_SENT);
	__u64 now = bpf_ktime_get_boot_ns();
	s->tool.pending = 0;
	s->tool.seed_ns = 0;
	s->tool.slot = now >> slot_shift & (SLOTS - 1);
	s->tool.start_ns = now;
	__sync_fetch_and_add(&unanswered.opens[s->tool.slot & (SLOTS - 1)], 1);
}

/* SYN_RECV is an active open only where both ends opened at once. */
static __always_inline bool is_active(struct sock *sk)
{
	struct sock_state *s = state_find(sk);

	return s && (s->tool.start_ns || s->tool.seed_ns);
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !protocol_wanted(sk))
		return;
	if (new == TCP_SYN_SENT)
		open_begin(sk, old);
	else if (old == TCP_SYN_SENT ? new != TCP_SYN_RECV : old == TCP_SYN_RECV && is_active(sk))
		open_end(sk, old, new);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- opens that are there already */

/* Files are looked at again before pending opens are shown: the first sight counts. */
static __always_inline void open_seed(struct opening *opening)
{
	if (!opening->start_ns && !opening->seed_ns)
		opening->seed_ns = bpf_ktime_get_boot_ns();
}

#define OWN_SET_STATE
#define SOCK_OWNED(sk) (protocol_wanted(sk) && is_inet(sk) && (sk)->__sk_common.skc_state == TCP_SYN_SENT)
#define SOCK_SEED(sk, tp, s) open_seed(&s->tool)
#include "owner.bpf.h"

/* ---------------------------------------------------------------- opens without an answer */

/*
 * Sends a record of each open that has waited too long and is not shown yet. It takes its place in the ring buffer
 * before it looks again whether the open has ended: then the end's record comes behind it.
 */
static __always_inline void show_one(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct flow flow;

	if (sk->__sk_common.skc_state != TCP_SYN_SENT)
		return;
	bool partial = !s->tool.start_ns;
	__u64 start = partial ? s->tool.seed_ns : s->tool.start_ns;
	__u64 latency_ns = bpf_ktime_get_boot_ns() - start;
	if (!start || latency_ns < pending_ns)
		return;
	if (s->tool.pending || (tp && !tp->segs_out)) /* Fast Open: the SYN goes with the first write */
		return;
	struct owner owner;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!outcome_wanted(OUTCOME_PENDING, latency_ns) || !wanted(sk, &flow, &owner))
		return;
	struct connect *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, 0);
	connect_fill(e, tp, OUTCOME_PENDING, latency_ns);
	e->errno_ = 0;
	e->partial = partial;
	if (start != (partial ? s->tool.seed_ns : s->tool.start_ns)) {
		bpf_ringbuf_discard(e, 0);
		return;
	}
	s->tool.pending = 1;
	event_submit(e, sizeof(*e));
}

EACH_SOCKET(show_pending, show_one)
