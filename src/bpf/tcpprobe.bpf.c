/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpprobe: one record per segment that an established socket receives, or histograms of round-trip times. */
#include "sample.bpf.h"

/* What the last segment left behind, from which the sample in the next one's is found: see rtt_sampled(). */
struct rtt {
	__u32 srtt_us; /* us << 3, as in struct tcp_sock; 0: none measured */
	__u32 mdev_us;
	__u32 delivered;
	__u32 known; /* the rest was read of this connection */
};

struct probed {
	struct sample sample;
	struct rtt rtt;
};

#define TOOL_STATE struct probed
#include "tcp.bpf.h"
#include "hist.bpf.h"
#define OWN_SET_STATE
#include "owner.bpf.h"

/* Which record it is: head.event. */
enum event_kind { PROBE_SAMPLE, PROBE_RETRANSMIT };

struct probe {
	struct head head;
	__u64 pacing_rate; /* bytes/s; ~0: not paced */
	__u32 snd_cwnd;
	__u32 ssthresh;
	__u32 snd_wnd;
	__u32 rcv_wnd;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 srtt_us;
	__u32 data_len;
	__u32 mss;
	__u32 packets_out;
	__u32 sacked_out;
	__u32 lost_out;
	__u32 retrans_out;
	__u32 total_retrans;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u8 ca_name[16];
	__u8 ca_state;
	__u8 retransmits;
	__u8 app_limited;
	__u8 bare; /* made of the tracepoint's record, which has nothing after data_len (src/bin/tcpprobe/record.rs) */
	__u8 pad[4];
};
EXPORT_TYPE(probe);

/* Counts round-trip times instead of sending records; by what. */
enum hist_by { HIST_NONE, HIST_ALL, HIST_LADDR, HIST_RADDR, HIST_LPORT, HIST_RPORT };
const volatile __u32 hist_by = HIST_NONE;

/* Any of --every, --interval, --changes. */
const volatile bool sampled = false;

/* ---------------------------------------------------------------- the record */

/* Payload of the segment: skb->data is at its TCP header here, whose 13th byte begins with the header's length. */
static __always_inline __u32 payload_of(const struct sk_buff *skb)
{
	__u8 offset = 0;

	bpf_probe_read_kernel(&offset, sizeof(offset), skb->data + 12);
	return skb->len - (offset >> 4) * 4;
}

static __always_inline void probe_fill(struct probe *e, struct sock *sk, struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;

	e->pacing_rate = sk->sk_pacing_rate;
	e->snd_cwnd = tp->snd_cwnd;
	e->ssthresh = tp->snd_ssthresh;
	e->snd_wnd = tp->snd_wnd;
	e->rcv_wnd = tp->rcv_wnd;
	e->snd_nxt = tp->snd_nxt;
	e->snd_una = tp->snd_una;
	e->srtt_us = tp->srtt_us >> 3;
	e->mss = tp->mss_cache;
	e->packets_out = tp->packets_out;
	e->sacked_out = tp->sacked_out;
	e->lost_out = tp->lost_out;
	e->retrans_out = tp->retrans_out;
	e->total_retrans = tp->total_retrans;
	e->rate_delivered = tp->rate_delivered;
	e->rate_interval_us = tp->rate_interval_us;
	bpf_probe_read_kernel(e->ca_name, sizeof(e->ca_name), icsk->icsk_ca_ops->name);
	e->ca_state = ca_state_of(tp);
	e->retransmits = icsk->icsk_retransmits;
	e->app_limited = BPF_CORE_READ_BITFIELD(tp, rate_app_limited);
	e->bare = 0;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
}

static __always_inline void emit(struct sock *sk, struct tcp_sock *tp, const struct flow *flow,
				 const struct owner *owner, __u32 kind, __u32 data_len)
{
	struct probe *e = event_reserve(sizeof(*e));

	if (!e)
		return;
	head_fill(&e->head, sk, flow, owner, kind);
	probe_fill(e, sk, tp);
	e->data_len = data_len;
	event_submit(e, sizeof(*e));
}

/* ---------------------------------------------------------------- the histogram */

/*
 * The round-trip time that the kernel has measured since this was last called for the socket; false if none. No field of
 * struct tcp_sock keeps it, but the smoothed one is made of it without any loss (net/ipv4/tcp_input.c:
 * tcp_rtt_estimator): new = old + (sample - old / 8), in units of an eighth of a microsecond. One that is what was
 * expected leaves the average as it is; then the deviation becomes smaller, if it can, and segments were delivered.
 *
 * rack.rtt_us is no substitute: of a segment that was sent twice it has the time since the second, and skips what is
 * shorter than the shortest, where the timestamp option has told the kernel how long the answer really took.
 */
static __always_inline bool rtt_sampled(struct rtt *last, struct tcp_sock *tp, __u32 *rtt_us)
{
	struct rtt now = {.srtt_us = tp->srtt_us, .mdev_us = tp->mdev_us, .delivered = tp->delivered, .known = 1};
	struct rtt before = *last;

	*last = now;
	if (!before.known || !now.srtt_us)
		return false;
	if (now.srtt_us == before.srtt_us && (now.delivered == before.delivered ||
					      (now.mdev_us == before.mdev_us && now.mdev_us >= 4)))
		return false;
	__s64 rtt = before.srtt_us ? (__s64)now.srtt_us - before.srtt_us + (before.srtt_us >> 3) : now.srtt_us >> 3;
	if (rtt < 0 || rtt >> 31) /* a connection that was replaced: not what was before it */
		return false;
	*rtt_us = rtt;
	return true;
}

/* The table is keyed by a remote address and a number of ours: a local address goes where the remote one is. */
static __always_inline void count_rtt(struct flow *flow, struct rtt *last, struct tcp_sock *tp)
{
	__u32 rtt_us;

	if (!rtt_sampled(last, tp, &rtt_us))
		return;
	if (hist_by == HIST_LADDR)
		__builtin_memcpy(flow->raddr, flow->laddr, sizeof(flow->raddr));
	if (hist_by == HIST_LADDR || hist_by == HIST_RADDR)
		hist_add(flow, 0, rtt_us);
	else if (hist_by == HIST_LPORT)
		hist_add(NULL, flow->lport, rtt_us);
	else
		hist_add(NULL, hist_by == HIST_RPORT ? flow->rport : 0, rtt_us);
}

/* ---------------------------------------------------------------- the tracepoints */

/*
 * A socket that was there before the trace may have no state: then its owner stays unknown. Only sampling and histograms
 * cannot do without; they make one, once per socket and only for those that pass every filter.
 */
static __always_inline bool is_due(struct sock *sk, struct sock_state *s, struct tcp_sock *tp)
{
	if (!s)
		s = state_make(sk);
	if (!s)
		return false;
	/* A clock costs as much as all the rest; without --interval any time but 0 does. */
	return sample_due(&s->tool.sample, sample_interval_ns ? bpf_ktime_get_boot_ns() : 1, tp->snd_cwnd);
}

/* Runs for every segment in ESTABLISHED, before it is processed (net/ipv4/tcp_input.c: tcp_rcv_established). */
SEC("tp_btf/tcp_probe")
int BPF_PROG(probe_segment, struct sock *sk, struct sk_buff *skb)
{
	struct owner owner;
	struct flow flow;

	flow_of(&flow, sk, NULL);
	if (!flow_wanted(&flow) || !sock_wanted(sk)) {
		turn_away();
		return 0;
	}
	struct sock_state *s = state_find(sk);
	/* The lock is held by who processes its own backlog, and by nobody when a segment comes straight in. */
	if (s)
		owner_note(s, sk);
	owner_find(&owner, s, sk);
	if (!owner_wanted(&owner)) {
		turn_away();
		return 0;
	}
	struct tcp_sock *tp = tcp_of(sk);
	if (!tp)
		return 0;
	if (hist_by && !s)
		s = state_make(sk);
	if (hist_by && s)
		count_rtt(&flow, &s->tool.rtt, tp);
	else if (hist_by)
		return 0;
	else if (!sampled || is_due(sk, s, tp))
		emit(sk, tp, &flow, &owner, PROBE_SAMPLE, payload_of(skb));
	else
		turn_away();
	return 0;
}

/* The handshake's sample, and that of the last segment, after which no other comes in ESTABLISHED. */
static __always_inline void count_ends(struct sock *sk, struct sock_state *s, int new)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	if (!tp)
		return;
	if (new == TCP_ESTABLISHED) {
		struct rtt none = {.known = 1};
		s->tool.rtt = none;
	}
	flow_of(&flow, sk, tp);
	if (event_wanted(sk, &flow, s, &owner))
		count_rtt(&flow, &s->tool.rtt, tp);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	bool counted = hist_by && (new == TCP_ESTABLISHED || old == TCP_ESTABLISHED);

	if (old == new || !protocol_wanted(sk) || !(counted || owner_concerned(sk, old, new)))
		return 0;
	struct sock_state *s = state_make(sk);
	if (!s)
		return 0;
	owner_follow(s, sk, old, new);
	if (counted)
		count_ends(sk, s, new);
	return 0;
}

/* Attached for pictures only. A SYN comes before any sample. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit, struct sock *sk)
{
	struct owner owner;
	struct flow flow;

	if (sk->__sk_common.skc_state == TCP_SYN_SENT)
		return 0;
	flow_of(&flow, sk, NULL);
	struct sock_state *s = state_find(sk);
	struct tcp_sock *tp = tcp_of(sk);
	if (tp && event_wanted(sk, &flow, s, &owner))
		emit(sk, tp, &flow, &owner, PROBE_RETRANSMIT, 0);
	return 0;
}
