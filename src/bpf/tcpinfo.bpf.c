/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpinfo: the statistics of a TCP socket, one record when it is destroyed.
 *
 * tcp_disconnect() clears ports, addresses and counters after a refused connect(), with SO_LINGER 0, and for sessions
 * that nobody accepted, before it destroys the socket: so the statistics are taken at the change to CLOSE. A socket that
 * its process has closed already is destroyed at once, and as it is (net/ipv4/tcp.c: tcp_done).
 */
#define OWNERS_INLINE
#include "kernel/kernel.h"

/* What the socket was used for: head.event, and an index into EVENTS of tcpinfo.rs. */
enum usage { USE_NONE, USE_LISTENER, USE_ATTEMPT, USE_CONNECTION };

struct socket_usage {
	__u64 start_ns; /* ESTABLISHED, or SYN_SENT until then; 0: before the trace */
	__u32 uses;     /* connections and attempts so far: a socket may connect again */
	__u8 use;
	__u8 unwanted; /* rejected by the filters at CLOSE */
	__u8 taken;    /* it has statistics in `finals` */
	__u8 pad;
};

#define TOOL_STATE struct socket_usage
#define NEEDED_UNTIL DESTROYED
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "ending.bpf.h"
EXPORT_ENUM(usage);

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
	__u64 duration_ns;   /* 0: opened before the trace */
	__u64 close_ns;      /* the change to CLOSE */
	__u64 delivery_rate; /* bytes/s, as inet_diag has it; 0: see rate_delivered */
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
	__u32 rtt_us; /* 0: none measured */
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
	__u8 pad;
};
EXPORT_TYPE(info);

/* Statistics of a socket at its last change to CLOSE, kept until it is destroyed or used again. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct info);
} finals SEC(".maps");

/* Likewise without socket storage (state.bpf.h). */
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

	if (config.missing.sk_storage)
		return bpf_map_lookup_elem(&finals_by_address, &address);
	return bpf_sk_storage_get(&finals, sk, 0, 0);
}

static __always_inline struct info *final_make(struct sock *sk)
{
	__u64 address = (__u64)sk;

	if (!config.missing.sk_storage)
		return bpf_sk_storage_get(&finals, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	bpf_map_update_elem(&finals_by_address, &address, &blank_info, BPF_NOEXIST);
	return bpf_map_lookup_elem(&finals_by_address, &address);
}

static __always_inline void final_forget(struct sock *sk)
{
	__u64 address = (__u64)sk;

	if (config.missing.sk_storage)
		bpf_map_delete_elem(&finals_by_address, &address);
	else
		bpf_sk_storage_delete(&finals, sk);
}

const volatile bool all = false;

#include "tcpinfo/tcpinfo_fill.bpf.h"

/* ---------------------------------------------------------------- from CLOSE to the end */

static __always_inline __u8 use_of(int state)
{
	if (state == TCP_CLOSE)
		return USE_NONE;
	if (state == TCP_LISTEN)
		return USE_LISTENER;
	return state == TCP_SYN_SENT || state == TCP_SYN_RECV ? USE_ATTEMPT : USE_CONNECTION;
}

static __always_inline void fill_now(struct info *e, struct sock *sk, struct tcp_sock *tp,
				     const struct socket_usage *use, int state, __u64 now)
{
	info_fill(e, sk, tp, state);
	e->close_ns = now;
	e->duration_ns = use->start_ns ? e->close_ns - use->start_ns : 0;
	e->uses = use->uses;
	e->delivery_rate = 0;
	e->pad = 0;
}

/* Decides whether the filters that need no owner pass, by the flow as it is now. */
static __always_inline bool is_wanted(struct flow *flow, struct sock *sk, struct tcp_sock *tp, struct socket_usage *use)
{
	flow_of(flow, sk, tp);
	use->unwanted = !flow_matches(flow) || !sock_matches(sk);
	return !use->unwanted;
}

/* Takes all statistics now, if the filters that need no owner pass. `state`: before CLOSE. */
static __noinline void take(struct sock *sk, struct socket_usage *use, int state)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct flow flow;

	if (!tp || !use || !is_wanted(&flow, sk, tp, use))
		return;
	struct info *e = final_make(sk);
	if (!e) {
		loss_count(&counters.untracked, 1);
		return;
	}
	use->taken = true;
	fill_now(e, sk, tp, use, state, bpf_ktime_get_boot_ns());
	e->head.flow = flow;
}

static __always_inline void begin(struct sock *sk, struct sock_state *s, __u8 use)
{
	s->tool.use = use;
	s->tool.unwanted = false;
	s->tool.start_ns = bpf_ktime_get_boot_ns();
	s->tool.uses += use != USE_LISTENER;
	if (s->tool.taken)
		final_forget(sk);
	s->tool.taken = false;
}

static __always_inline void state_changed(struct sock *sk, struct sock_state *s, int old, int new)
{
	if (new == TCP_SYN_SENT) {
		begin(sk, s, USE_ATTEMPT);
	} else if (new == TCP_LISTEN) {
		begin(sk, s, USE_LISTENER);
	} else if (old == TCP_LISTEN && new == TCP_SYN_RECV) {
		s->tool.uses = 0; /* the listener's, as the next */
		s->tool.taken = false;
		begin(sk, s, USE_ATTEMPT);
	} else if (new == TCP_ESTABLISHED && s->tool.use != USE_CONNECTION) {
		s->tool.use = USE_CONNECTION;
		s->tool.start_ns = bpf_ktime_get_boot_ns();
	} else if (new == TCP_CLOSE) {
		if (!s->tool.use) { /* open before the trace */
			s->tool.use = use_of(old);
			s->tool.uses = 1;
		}
		if ((old != TCP_LISTEN || all) && !is_orphan(sk))
			take(sk, &s->tool, old);
	}
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !protocol_matches(sk))
		return;
	if (new != TCP_ESTABLISHED && (new != TCP_CLOSE && !owner_may_change(sk, old, new)))
		return;
	struct sock_state *s = state_make(sk);
	if (!s || !claim_change(s, old, new))
		return;
	owner_on_state_change(s, sk, old, new);
	state_changed(sk, s, old, new);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/*
 * close() of a socket in CLOSE changes no state; it holds the lock, as does `ss -K`. A socket ended by the peer's last
 * segment was closed before; see proves_owner().
 */
static __always_inline void destroyer_note(struct sock_state *s, struct sock *sk)
{
	__u32 last = s->change >> 8;

	if (sk->sk_err != ECONNABORTED && last != TCP_LAST_ACK && last != TCP_CLOSING)
		owner_act(s, sk);
}

/* The state before CLOSE; CLOSE itself if that was before the trace, or the socket never left it. */
static __always_inline int state_before(const struct sock_state *s)
{
	return (s->change & 0xff) == TCP_CLOSE ? s->change >> 8 : TCP_CLOSE;
}

/* Fills a record with what was taken, or what is there now; false if it is not to be shown, or cannot. */
static __always_inline bool on_destroy(struct sock *sk, struct sock_state *s)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct info *final = NULL;
	struct owner owner;
	struct flow flow;

	if (!tp)
		return true;
	destroyer_note(s, sk);
	if (s->tool.taken)
		final = final_find(sk);
	if (final) {
		flow = final->head.flow;
	} else if (!s->tool.unwanted) {
		if (!s->tool.use && (tp->segs_in || tp->segs_out)) {
			s->tool.use = USE_CONNECTION;
			s->tool.uses = 1;
		}
		if (s->tool.use < USE_ATTEMPT && !all)
			return true;
		is_wanted(&flow, sk, tp, &s->tool);
	}
	owner_find(&owner, s, sk);
	if (s->tool.unwanted || !owner_matches(&owner))
		return false;
	struct info *e = event_reserve(sizeof(*e));
	if (!e)
		return true;
	__u64 now = bpf_ktime_get_boot_ns();
	if (final)
		bpf_probe_read_kernel(e, sizeof(*e), final);
	else
		fill_now(e, sk, tp, &s->tool, state_before(s), now);
	head_fill_at(&e->head, now, sk, &flow, &owner, s->tool.use);
	event_submit(e, sizeof(*e));
	return true;
}

static __always_inline void on_destroy_sock(struct sock *sk)
{
	if (!protocol_matches(sk))
		return;
	struct sock_state *s = state_make(sk);
	if (!s)
		return;
	if (!on_destroy(sk, s))
		count_filtered();
	state_done(s);
	if (config.missing.sk_storage)
		final_forget(sk);
}

DESTROY_PROGRAMS(destroy_sock, on_destroy_sock)

#define OWN_SET_STATE
#include "owner/owner.bpf.h"
