/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpprobe: one record per segment that an established socket receives, or histograms of round-trip times. */
#include "sample.bpf.h"

/* State after the last segment, from which rtt_sampled() derives the next sample. */
struct rtt {
	__u32 srtt_us; /* us << 3, as in struct tcp_sock; 0: none measured */
	__u32 mdev_us;
	__u32 delivered;
	__u32 known; /* the other fields belong to this connection */
};

struct probed {
	struct sample sample;
	struct rtt rtt;
};

#define TOOL_STATE struct probed
#include "tcp.bpf.h"
#include "hist.bpf.h"
#define OWN_SET_STATE
#include "owner/owner.bpf.h"

/* Which record it is: head.event. */
enum event_kind { PROBE_SAMPLE, PROBE_RETRANSMIT };
EXPORT_ENUM(event_kind);

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
	__u8 pad[5];
};
EXPORT_TYPE(probe);

/* Histograms of round-trip times instead of records. */
const volatile bool histograms = false;

/* Any of --every, --interval, --changes. */
const volatile bool sampled = false;

/* ---------------------------------------------------------------- the record */

/* Payload of the segment: skb->data points to the TCP header here, whose 13th byte starts with the header length. */
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
	ca_name_of(e->ca_name, tp);
	e->ca_state = ca_state_of(tp);
	e->retransmits = icsk->icsk_retransmits;
	e->app_limited = BPF_CORE_READ_BITFIELD(tp, rate_app_limited);
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
 * The round-trip time measured since the last call for this socket; false if none. struct tcp_sock does not keep it,
 * but it follows exactly from the smoothed value (net/ipv4/tcp_input.c: tcp_rtt_estimator): new = old + (sample - old /
 * 8), in eighths of a microsecond. A sample equal to the average leaves it unchanged; then the deviation shrinks, if it
 * can, and segments were delivered.
 *
 * rack.rtt_us is no substitute: for a retransmitted segment it is the time since the second transmission, and it skips
 * values below the minimum, where the timestamp option has given the kernel the real time.
 */
static __always_inline bool rtt_sampled(struct rtt *last, struct tcp_sock *tp, __u32 *rtt_us)
{
	struct rtt now = {.srtt_us = tp->srtt_us, .mdev_us = tp->mdev_us, .delivered = tp->delivered, .known = 1};
	struct rtt before = *last;

	*last = now;
	if (!before.known || !now.srtt_us)
		return false;
	if (now.srtt_us == before.srtt_us &&
	    (now.delivered == before.delivered || (now.mdev_us == before.mdev_us && now.mdev_us >= 4)))
		return false;
	__s64 rtt = before.srtt_us ? (__s64)now.srtt_us - before.srtt_us + (before.srtt_us >> 3) : now.srtt_us >> 3;
	if (rtt < 0 || rtt >> 31) /* another connection: ignore the state of the former one */
		return false;
	*rtt_us = rtt;
	return true;
}

/* `key` has the flow. */
static __always_inline void count_rtt(struct group_key *key, struct sock *sk, const struct owner *owner,
				      struct rtt *last, struct tcp_sock *tp)
{
	__u32 rtt_us;

	if (!rtt_sampled(last, tp, &rtt_us))
		return;
	group_fill(key, sk, owner, 0);
	hist_add(key, rtt_us);
}

/* ---------------------------------------------------------------- the tracepoints */

/*
 * A socket from before the trace may have no state; then its owner stays unknown. Only sampling and histograms need
 * state; they create it, once per socket that passes every filter.
 */
static __always_inline bool is_due(struct sock *sk, struct sock_state *s, struct tcp_sock *tp)
{
	if (!s)
		s = state_make(sk);
	if (!s)
		return false;
	/* Reading the clock costs as much as everything else; without --interval any time but 0 will do. */
	return sample_due(&s->tool.sample, sample_interval_ns ? bpf_ktime_get_boot_ns() : 1, tp->snd_cwnd);
}

/* Runs for every segment in ESTABLISHED, before it is processed (net/ipv4/tcp_input.c: tcp_rcv_established). */
SEC("tp_btf/tcp_probe")
int BPF_PROG(probe_segment, struct sock *sk, struct sk_buff *skb)
{
	struct group_key key;
	struct flow *flow = &key.flow;
	struct owner owner;

	flow_of(flow, sk, NULL);
	if (!flow_matches(flow) || !sock_matches(sk)) {
		count_filtered();
		return 0;
	}
	struct sock_state *s = state_find(sk);
	/* The lock is held while a process handles the backlog, and not for a segment received directly. */
	if (s)
		owner_learn(s, sk);
	owner_find(&owner, s, sk);
	if (!owner_matches(&owner)) {
		count_filtered();
		return 0;
	}
	struct tcp_sock *tp = tcp_of(sk);
	if (!tp)
		return 0;
	if (histograms && !s)
		s = state_make(sk);
	if (histograms && s)
		count_rtt(&key, sk, &owner, &s->tool.rtt, tp);
	else if (histograms)
		return 0;
	else if (!sampled || is_due(sk, s, tp))
		emit(sk, tp, flow, &owner, PROBE_SAMPLE, payload_of(skb));
	else
		count_filtered();
	return 0;
}

/* Samples of the handshake and of the last segment in ESTABLISHED. */
static __always_inline void count_ends(struct sock *sk, struct sock_state *s, int new)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct group_key key;
	struct owner owner;

	if (!tp)
		return;
	if (new == TCP_ESTABLISHED) {
		struct rtt none = {.known = 1};
		s->tool.rtt = none;
	}
	flow_of(&key.flow, sk, tp);
	if (passes_filters(sk, &key.flow, s, &owner))
		count_rtt(&key, sk, &owner, &s->tool.rtt, tp);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	bool counted = histograms && (new == TCP_ESTABLISHED || old == TCP_ESTABLISHED);

	if (old == new || !protocol_matches(sk) || never_matches(sk, new))
		return 0;
	struct sock_state *s = counted ? state_make(sk) : state_of_follower(sk, old, new);
	if (!s)
		return 0;
	owner_on_state_change(s, sk, old, new);
	if (counted)
		count_ends(sk, s, new);
	if (new == TCP_CLOSE)
		state_end(s, sk);
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
	if (tp && passes_filters(sk, &flow, s, &owner))
		emit(sk, tp, &flow, &owner, PROBE_RETRANSMIT, 0);
	return 0;
}
