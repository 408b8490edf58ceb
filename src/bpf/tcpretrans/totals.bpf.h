/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* --summary: what a socket has sent, and sent again, since it was last reported. */
#ifndef TCPTOOLS_TOTALS_BPF_H
#define TCPTOOLS_TOTALS_BPF_H

static __always_inline void stats_begin(struct send_stats *t, struct tcp_sock *tp)
{
	if (t->begun || !tp)
		return;
	t->begun = 1;
	t->reported.segs_out = tp->segs_out;
	t->reported.data_segs_out = tp->data_segs_out;
	t->reported.dsack_dups = tp->dsack_dups;
	t->reported.reord_seen = tp->reord_seen;
}

/* Returns what was sent since the last call, and updates the reported values; false if nothing was sent. */
static __always_inline bool stats_report(struct sent *sent, struct send_stats *t, struct tcp_sock *tp)
{
	__u32 segs_out = tp->segs_out, data_segs_out = tp->data_segs_out;
	__u32 dsack_dups = tp->dsack_dups, reord_seen = tp->reord_seen;

	sent->segs_out = segs_out - t->reported.segs_out;
	sent->data_segs_out = data_segs_out - t->reported.data_segs_out;
	sent->dsack_dups = dsack_dups - t->reported.dsack_dups;
	sent->reord_seen = reord_seen - t->reported.reord_seen;
	t->reported.segs_out = segs_out;
	t->reported.data_segs_out = data_segs_out;
	t->reported.dsack_dups = dsack_dups;
	t->reported.reord_seen = reord_seen;
	__u32 any = sent->segs_out | sent->dsack_dups | sent->reord_seen;
	for (int i = 0; i < KINDS; i++) {
		__u32 now = t->retrans[i];
		sent->retrans[i] = now - t->reported.retrans[i];
		t->reported.retrans[i] = now;
		any |= sent->retrans[i];
	}
	return any;
}

static __always_inline void total_at_close(struct sock *sk, struct sock_state *s)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	if (!tp)
		return;
	flow_of(&flow, sk, tp);
	if (!passes_filters(sk, &flow, s, &owner))
		return;
	struct sent sent;
	if (!stats_report(&sent, &s->tool, tp))
		return;
	struct total *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, TOTAL);
	e->sent = sent;
	event_submit(e, sizeof(*e));
}

#endif
