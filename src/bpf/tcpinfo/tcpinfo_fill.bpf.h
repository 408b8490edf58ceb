/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* struct info of tcpinfo.bpf.c, filled as tcp_get_info() (net/ipv4/tcp.c) fills struct tcp_info. */
#ifndef TCPTOOLS_TCPINFO_FILL_BPF_H
#define TCPTOOLS_TCPINFO_FILL_BPF_H

#include "times.bpf.h"

enum {
	OPT_TIMESTAMPS = 1,
	OPT_SACK = 2,
	OPT_WSCALE = 4,
	OPT_ECN = 8,
	OPT_ECN_SEEN = 16,
	OPT_SYN_DATA = 32,
	OPT_TFO_CHILD = 128
};

/* include/net/tcp.h: bits of ecn_flags. Bit 4 is accurate ECN, since 6.18, and was free before. */
enum { ECN_MODE = 1 << 0 | 1 << 4, ECN_SEEN = 1 << 3 };

static __always_inline __u32 options_of(struct tcp_sock *tp)
{
	__u32 options = 0;

	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok))
		options |= OPT_TIMESTAMPS;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok))
		options |= OPT_SACK;
	if (BPF_CORE_READ_BITFIELD(tp, rx_opt.wscale_ok))
		options |= OPT_WSCALE;
	if (tp->ecn_flags & ECN_MODE)
		options |= OPT_ECN;
	if (tp->ecn_flags & ECN_SEEN)
		options |= OPT_ECN_SEEN;
	if (BPF_CORE_READ_BITFIELD(tp, syn_data_acked))
		options |= OPT_SYN_DATA;
	if (is_fastopen_child(tp))
		options |= OPT_TFO_CHILD;
	return options;
}

static __always_inline void counters_fill(struct info *e, struct tcp_sock *tp)
{
	e->bytes_sent = tp->bytes_sent;
	e->bytes_retrans = tp->bytes_retrans;
	e->bytes_acked = tp->bytes_acked;
	e->bytes_received = tp->bytes_received;
	e->segs_out = tp->segs_out;
	e->segs_in = tp->segs_in;
	e->data_segs_out = tp->data_segs_out;
	e->data_segs_in = tp->data_segs_in;
	e->total_retrans = tp->total_retrans;
	e->total_rto = total_rto(tp);
	e->unacked = tp->packets_out;
	e->sacked = tp->sacked_out;
	e->lost = tp->lost_out;
	e->retrans = tp->retrans_out;
	e->delivered = tp->delivered;
	e->delivered_ce = tp->delivered_ce;
	e->dsack_dups = tp->dsack_dups;
	e->reord_seen = tp->reord_seen;
	e->reordering = tp->reordering;
	e->rcv_ooopack = tp->rcv_ooopack;
}

static __always_inline void times_fill(struct info *e, struct tcp_sock *tp)
{
	__u32 now = bpf_jiffies64();

	e->rwnd_limited_us = chrono_us(tp, CHRONO_RWND_LIMITED, now);
	e->sndbuf_limited_us = chrono_us(tp, CHRONO_SNDBUF_LIMITED, now);
	e->busy_us = chrono_us(tp, CHRONO_BUSY, now) + e->rwnd_limited_us + e->sndbuf_limited_us;
	e->rtt_us = tp->srtt_us >> 3;
	e->rttvar_us = tp->mdev_us >> 2;
	e->min_rtt_us = tp->rtt_min.s[0].v;
	e->rcv_rtt_us = tp->rcv_rtt_est.rtt_us >> 3;
	e->rto_us = jiffies_us(tp->inet_conn.icsk_rto);
	e->last_data_sent_ms = jiffies_us(now - tp->lsndtime) / 1000;
	e->last_data_recv_ms = jiffies_us(now - tp->inet_conn.icsk_ack.lrcvtime) / 1000;
	e->last_ack_recv_ms = jiffies_us(now - tp->rcv_tstamp) / 1000;
}

static __always_inline void windows_fill(struct info *e, struct tcp_sock *tp)
{
	__s32 notsent = tp->write_seq - tp->snd_nxt;

	e->snd_cwnd = tp->snd_cwnd;
	e->snd_ssthresh = tp->snd_ssthresh;
	e->snd_wnd = tp->snd_wnd;
	e->rcv_wnd = tp->rcv_wnd;
	e->rcv_ssthresh = tp->rcv_ssthresh;
	e->rcv_space = tp->rcvq_space.space;
	e->notsent = notsent > 0 ? notsent : 0;
	e->snd_mss = tp->mss_cache;
	e->rcv_mss = tp->inet_conn.icsk_ack.rcv_mss;
	e->advmss = tp->advmss;
	e->pmtu = tp->inet_conn.icsk_pmtu_cookie;
	e->rate_delivered = tp->rate_delivered;
	e->rate_interval_us = tp->rate_interval_us;
	e->app_limited = BPF_CORE_READ_BITFIELD(tp, rate_app_limited);
	e->snd_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
	e->rcv_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
}

static __always_inline void info_fill(struct info *e, struct sock *sk, struct tcp_sock *tp, int state)
{
	counters_fill(e, tp);
	times_fill(e, tp);
	windows_fill(e, tp);
	e->pacing_rate = sk->sk_pacing_rate;
	e->error = state == TCP_SYN_SENT ? connect_error(sk, sk->sk_err) : sk->sk_err;
	e->options = options_of(tp);
	e->ca_state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);
	e->retransmits = tp->inet_conn.icsk_retransmits;
	e->backoff = tp->inet_conn.icsk_backoff;
	e->state = state;
	ca_name_of(e->ca_name, tp);
}

#endif
