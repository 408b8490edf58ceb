/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpinfo: the statistics of a TCP socket, one record when it is destroyed.
 *
 * tcp_disconnect() clears ports, addresses and counters after a refused connect(), with SO_LINGER 0, and for sessions
 * that nobody accepted, before it destroys the socket: so they are taken at the change to CLOSE, and shown then.
 */
#include "kernel.h"

/* What the socket was used for: head.event, and an index into EVENTS of tcpinfo.rs. */
enum use { USE_NONE, USE_LISTENER, USE_ATTEMPT, USE_CONNECTION };

struct use_state {
	__u64 start_ns; /* ESTABLISHED, or SYN_SENT until then; 0: before the trace */
	__u32 uses;	/* connections and attempts so far: a socket may connect again */
	__u8 use;
	__u8 unwanted; /* what was taken at CLOSE did not pass the filters */
	__u8 pad[2];
};

#define TOOL_STATE struct use_state
#include "tcp.bpf.h"
#include "nested.bpf.h"
#include "ending.bpf.h"

struct info {
	struct head head;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 pacing_rate;
	__u64 busy_us;
	__u64 rwnd_limited_us;
	__u64 sndbuf_limited_us;
	__u64 duration_ns; /* 0: opened before the trace */
	__u64 close_ns;	   /* the change to CLOSE */
	__u64 delivery_rate; /* bytes/s, where it was made without this program */
	__u32 segs_out;
	__u32 segs_in;
	__u32 data_segs_out;
	__u32 data_segs_in;
	__u32 total_retrans;
	__u32 total_rto; /* ~0: this kernel does not count them */
	__u32 unacked;
	__u32 sacked;
	__u32 lost;
	__u32 retrans;
	__u32 delivered;
	__u32 delivered_ce;
	__u32 dsack_dups;
	__u32 reord_seen;
	__u32 reordering;
	__u32 rcv_ooopack;
	__u32 rtt_us;	  /* 0: none measured */
	__u32 rttvar_us;
	__u32 min_rtt_us; /* ~0: none measured */
	__u32 rcv_rtt_us; /* 0: none measured */
	__u32 rto_us;
	__u32 snd_cwnd;
	__u32 snd_ssthresh; /* 0x7fffffff: never set (TCP_INFINITE_SSTHRESH) */
	__u32 snd_wnd;
	__u32 rcv_wnd;
	__u32 rcv_ssthresh;
	__u32 rcv_space;
	__u32 notsent;
	__u32 snd_mss;
	__u32 rcv_mss;
	__u32 advmss;
	__u32 pmtu;
	__u32 rate_delivered; /* packets */
	__u32 rate_interval_us;
	__u32 last_data_sent_ms;
	__u32 last_data_recv_ms;
	__u32 last_ack_recv_ms;
	__u32 uses;
	__u32 options; /* TCPI_OPT_* of include/uapi/linux/tcp.h */
	__s32 error;
	__u8 ca_name[16];
	__u8 state; /* before CLOSE */
	__u8 ca_state;
	__u8 retransmits;
	__u8 backoff;
	__u8 snd_wscale;
	__u8 rcv_wscale;
	__u8 app_limited;
	/* 0, unless it was made without this program: then what is known of struct tcp_info, in words, and one more */
	__u8 bare;
};
EXPORT_TYPE(info);

/* What a socket had when it last became CLOSE: kept from then until it is destroyed or used again, and only then. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct info);
} finals SEC(".maps");

/* The same where a socket has no storage (state.bpf.h). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct info);
} finals_by_address SEC(".maps");

static const struct info blank_info SEC(".rodata.blank") = {};

static __always_inline struct info *final_find(struct sock *sk)
{
	__u64 address = (__u64)sk;

	if (config.lacks.sk_storage)
		return bpf_map_lookup_elem(&finals_by_address, &address);
	return bpf_sk_storage_get(&finals, sk, 0, 0);
}

static __always_inline struct info *final_make(struct sock *sk)
{
	__u64 address = (__u64)sk;

	if (!config.lacks.sk_storage)
		return bpf_sk_storage_get(&finals, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	bpf_map_update_elem(&finals_by_address, &address, &blank_info, BPF_NOEXIST);
	return bpf_map_lookup_elem(&finals_by_address, &address);
}

static __always_inline void final_forget(struct sock *sk)
{
	__u64 address = (__u64)sk;

	if (config.lacks.sk_storage)
		bpf_map_delete_elem(&finals_by_address, &address);
	else
		bpf_sk_storage_delete(&finals, sk);
}

const volatile __u32 jiffy_us = 4000; /* USEC_PER_SEC / HZ of the running kernel */
const volatile bool all = false;

/* ---------------------------------------------------------------- struct tcp_info, as tcp_get_info() fills it */

enum { OPT_TIMESTAMPS = 1, OPT_SACK = 2, OPT_WSCALE = 4, OPT_ECN = 8, OPT_ECN_SEEN = 16, OPT_SYN_DATA = 32, OPT_TFO_CHILD = 128 };

/* include/net/tcp.h: bits of ecn_flags. Bit 4 is accurate ECN, since 6.18, and was free before. */
enum { ECN_MODE = 1 << 0 | 1 << 4, ECN_SEEN = 1 << 3 };

/* include/linux/tcp.h: enum tcp_chrono */
enum { CHRONO_BUSY = 1, CHRONO_RWND_LIMITED, CHRONO_SNDBUF_LIMITED };

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

static __always_inline __u64 jiffies_us(__u64 jiffies)
{
	return jiffies * jiffy_us;
}

/* tcp_get_info_chrono_stats(): the time that runs now is not yet in the sums. */
static __always_inline __u64 chrono_us(struct tcp_sock *tp, __u32 type, __u32 now)
{
	__u64 jiffies = tp->chrono_stat[type - 1];

	if (chrono_type(tp) == type)
		jiffies += now - tp->chrono_start;
	return jiffies_us(jiffies);
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
	bpf_probe_read_kernel(e->ca_name, sizeof(e->ca_name), tp->inet_conn.icsk_ca_ops->name);
}

/* ---------------------------------------------------------------- from CLOSE to the end */

static __always_inline __u8 use_of(int state)
{
	if (state == TCP_CLOSE)
		return USE_NONE;
	if (state == TCP_LISTEN)
		return USE_LISTENER;
	return state == TCP_SYN_SENT || state == TCP_SYN_RECV ? USE_ATTEMPT : USE_CONNECTION;
}

/* Takes everything now, if the filters that need no owner let it pass. `state`: the one before CLOSE. */
static __noinline struct info *take(struct sock *sk, struct use_state *use, int state)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct flow flow;

	if (!tp || !use)
		return NULL;
	flow_of(&flow, sk, tp);
	use->unwanted = !flow_wanted(&flow) || !sock_wanted(sk);
	if (use->unwanted)
		return NULL;
	struct info *e = final_make(sk);
	if (!e) {
		__sync_fetch_and_add(&counters.untracked, 1);
		return NULL;
	}
	info_fill(e, sk, tp, state);
	e->head.flow = flow;
	e->close_ns = bpf_ktime_get_boot_ns();
	e->duration_ns = use->start_ns ? e->close_ns - use->start_ns : 0;
	e->uses = use->uses;
	return e;
}

static __always_inline void begin(struct sock *sk, struct sock_state *s, __u8 use)
{
	s->tool.use = use;
	s->tool.unwanted = false;
	s->tool.start_ns = bpf_ktime_get_boot_ns();
	s->tool.uses += use != USE_LISTENER;
	final_forget(sk);
}

static __always_inline void state_changed(struct sock *sk, struct sock_state *s, int old, int new)
{
	if (new == TCP_SYN_SENT) {
		begin(sk, s, USE_ATTEMPT);
	} else if (new == TCP_LISTEN) {
		begin(sk, s, USE_LISTENER);
	} else if (new == TCP_SYN_RECV && old == TCP_LISTEN) {
		s->tool.uses = 0; /* the listener's, cloned */
		begin(sk, s, USE_ATTEMPT);
	} else if (new == TCP_ESTABLISHED && s->tool.use != USE_CONNECTION) {
		s->tool.use = USE_CONNECTION;
		s->tool.start_ns = bpf_ktime_get_boot_ns();
	} else if (new == TCP_CLOSE) {
		if (!s->tool.use) { /* open before the trace */
			s->tool.use = use_of(old);
			s->tool.uses = 1;
		}
		if (old != TCP_LISTEN || all)
			take(sk, &s->tool, old);
	}
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !protocol_wanted(sk))
		return;
	if (new != TCP_ESTABLISHED && new != TCP_CLOSE && !owner_concerned(sk, old, new))
		return;
	struct sock_state *s = state_make(sk);
	if (!s || change_taken(s, old, new))
		return;
	owner_follow(s, sk, old, new);
	state_changed(sk, s, old, new);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* A socket that became CLOSE before the trace began, or never was anything else. */
static __always_inline struct info *take_late(struct sock *sk, struct sock_state *s)
{
	struct tcp_sock *tp = tcp_of(sk);

	if (tp && !s->tool.use && (tp->segs_in || tp->segs_out)) {
		s->tool.use = USE_CONNECTION;
		s->tool.uses = 1;
	}
	if (s->tool.use < USE_ATTEMPT && !all)
		return NULL;
	return take(sk, &s->tool, TCP_CLOSE);
}

/*
 * close() of a socket that is CLOSE already changes no state; it holds the lock, as `ss -K` does, which aborts. One that
 * the peer's last segment has ended was closed before; see proves_owner().
 */
static __always_inline void destroyer_note(struct sock_state *s, struct sock *sk)
{
	__u32 last = s->change >> 8;

	if (sk->sk_err != ECONNABORTED && last != TCP_LAST_ACK && last != TCP_CLOSING)
		owner_act(s, sk);
}

static __always_inline void on_destroy(struct sock *sk)
{
	struct sock_state *s = state_make(sk);

	if (!s)
		return;
	destroyer_note(s, sk);
	struct info *final = s->tool.unwanted ? NULL : final_find(sk);
	if (!final && !s->tool.unwanted)
		final = take_late(sk, s);
	struct owner owner;
	owner_find(&owner, s, sk);
	if (s->tool.unwanted || (final && !owner_wanted(&owner))) {
		turn_away();
		return;
	}
	if (!final)
		return;
	struct info *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	bpf_probe_read_kernel(e, sizeof(*e), final);
	struct flow flow = final->head.flow;
	head_fill(&e->head, sk, &flow, &owner, s->tool.use);
	event_submit(e, sizeof(*e));
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(destroy_sock, struct sock *sk)
{
	if (!protocol_wanted(sk))
		return 0;
	on_destroy(sk);
	if (config.lacks.sk_storage)
		final_forget(sk);
	return 0;
}

#define OWN_SET_STATE
#include "owner.bpf.h"
