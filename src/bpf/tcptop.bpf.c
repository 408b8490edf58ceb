/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcptop: what each connection is like now, from an iterator at every interval, and once more when it ends. All counters
 * are sums since the connection was opened, or first seen: user space takes the differences, so nothing is lost or counted
 * twice where the iterator has to repeat a socket.
 */
#include "kernel/kernel.h"

struct session {
	__u64 start_ns; /* opened, or first seen; 0: neither */
	__u64 base_tx;  /* what was counted before that */
	__u64 base_rx;
	__u32 base_retrans;
	__u8 flags;
	__u8 pad[3];
};

#define TOOL_STATE struct session
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "bytes.bpf.h"
#include "times.bpf.h"

enum { ACTIVE_OPEN = 1, OPENED_BEFORE = 2, CLOSED = 4 };

/* Which record it is: head.event. */
enum event_kind { CONN_OPEN, CONN_CLOSED };
EXPORT_ENUM(event_kind);

/* The timer that is pending, which `ss -o` calls on (the first three), persist, keepalive. */
enum timer { TIMER_NONE, TIMER_RETRANSMIT, TIMER_LOSS_PROBE, TIMER_REORDER, TIMER_PERSIST, TIMER_KEEPALIVE };
EXPORT_ENUM(timer);

enum conn_flag {
	CONN_ACTIVE_OPEN = 1,
	CONN_OPENED_BEFORE = 1 << 1, /* before the trace: its counters are since it was first seen */
	CONN_ORPHAN = 1 << 2,
	CONN_KEEPALIVE = 1 << 3,
	CONN_NODELAY = 1 << 4,
	CONN_CORK = 1 << 5,
	CONN_UNACCEPTED = 1 << 6, /* no process has it, and none had */
};
EXPORT_ENUM(conn_flag);

struct conn {
	struct head head;
	__u64 sock;     /* its address: with start_ns, which session it is */
	__u64 start_ns; /* opened, or first seen */
	__u64 tx;       /* the application's bytes since then: acknowledged */
	__u64 rx;       /* received */
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 busy_us;
	__u64 rwnd_limited_us;
	__u64 sndbuf_limited_us;
	__u64 chrono_us; /* how long what limits it now has lasted; `chrono` says what */
	__u64 cgroup;    /* id of the v2 cgroup it was created in; 0: unknown */
	__u64 timer_us;  /* until the timer is due; 0: it is, or none is pending */
	__u32 retrans;   /* segments sent again since start_ns */
	__u32 total_retrans;
	__u32 rqueue;  /* received and not read */
	__u32 wqueue;  /* written and not acknowledged */
	__u32 notsent; /* of these, not sent yet */
	__u32 unacked; /* segments in flight */
	__u32 lost_out;
	__u32 retrans_out;
	__u32 snd_una;
	__u32 copied_seq;
	__u32 snd_wnd;
	__u32 rcv_wnd;
	__u32 snd_cwnd;
	__u32 snd_mss;
	__u32 rtt_us; /* 0: none measured */
	__u32 rttvar_us;
	__u32 min_rtt_us; /* ~0: none measured */
	__u32 rto_us;
	__u32 data_segs_out;
	__u32 data_segs_in;
	__u32 last_data_sent_ms;
	__u32 last_data_recv_ms;
	__u32 last_ack_recv_ms;
	__u32 rmem_alloc;
	__u32 rcvbuf;
	__u32 wmem_queued;
	__u32 sndbuf;
	__u32 drops;
	__u8 ca_name[16];
	__u8 state; /* CONN_CLOSED: before the close */
	__u8 ca_state;
	__u8 retransmits;
	__u8 probes;
	__u8 backoff;
	__u8 timer;
	__u8 chrono; /* enum tcp_chrono: 1 busy, 2 limited by the peer's window, 3 by the send buffer */
	__u8 flags;
};
EXPORT_TYPE(conn);

/* ---------------------------------------------------------------- the record */

static __always_inline __u64 jiffies_left(__u64 due)
{
	__s64 left = due - bpf_jiffies64();

	return left > 0 ? jiffies_us(left) : 0;
}

/* inet_sk_diag_fill() (net/ipv4/inet_diag.c). */
static __always_inline void timer_fill(struct conn *e, struct sock *sk, struct tcp_sock *tp)
{
	__u8 pending = tp->inet_conn.icsk_pending;
	__u64 due = 0;

	e->timer = TIMER_NONE;
	e->timer_us = 0;
	if (pending == ICSK_TIME_RETRANS)
		e->timer = TIMER_RETRANSMIT;
	else if (pending == ICSK_TIME_LOSS_PROBE)
		e->timer = TIMER_LOSS_PROBE;
	else if (pending == ICSK_TIME_REO_TIMEOUT)
		e->timer = TIMER_REORDER;
	else if (pending == ICSK_TIME_PROBE0)
		e->timer = TIMER_PERSIST;
	if (e->timer != TIMER_NONE) {
		e->timer_us = jiffies_left(retransmit_due(tp));
	} else if (keepalive_due(sk, &due)) {
		e->timer = TIMER_KEEPALIVE;
		e->timer_us = jiffies_left(due);
	}
}

/*
 * First the counter, then what tells whether a FIN is in it: the kernel changes them in this order, so a socket that is
 * read without its lock may seem to have sent a byte less for a moment, and never one more.
 */
static __always_inline void counters_fill(struct conn *e, struct sock *sk, struct tcp_sock *tp, int state,
					  const struct session *session)
{
	__u64 tx, rx;

	app_bytes(&tx, &rx, sk, tp, state, session->flags & ACTIVE_OPEN);
	e->tx = tx > session->base_tx ? tx - session->base_tx : 0;
	e->rx = rx > session->base_rx ? rx - session->base_rx : 0;
	e->bytes_sent = tp->bytes_sent;
	e->bytes_retrans = tp->bytes_retrans;
	e->bytes_acked = tp->bytes_acked;
	e->bytes_received = tp->bytes_received;
	e->total_retrans = tp->total_retrans;
	e->retrans = tp->total_retrans > session->base_retrans ? tp->total_retrans - session->base_retrans : 0;
	e->data_segs_out = tp->data_segs_out;
	e->data_segs_in = tp->data_segs_in;
}

static __always_inline void queues_fill(struct conn *e, struct sock *sk, struct tcp_sock *tp)
{
	__s32 unread = tp->rcv_nxt - tp->copied_seq;
	__s32 notsent = tp->write_seq - tp->snd_nxt;

	e->rqueue = unread > 0 ? unread : 0; /* after a FIN that was read it is -1 */
	e->wqueue = tp->write_seq - tp->snd_una;
	e->notsent = notsent > 0 ? notsent : 0;
	e->unacked = tp->packets_out;
	e->lost_out = tp->lost_out;
	e->retrans_out = tp->retrans_out;
	e->snd_una = tp->snd_una;
	e->copied_seq = tp->copied_seq;
	e->snd_wnd = tp->snd_wnd;
	e->rcv_wnd = tp->rcv_wnd;
	e->snd_cwnd = tp->snd_cwnd;
	e->snd_mss = tp->mss_cache;
	e->rmem_alloc = sk->sk_backlog.rmem_alloc.counter;
	e->rcvbuf = sk->sk_rcvbuf;
	e->wmem_queued = sk->sk_wmem_queued;
	e->sndbuf = sk->sk_sndbuf;
	e->drops = sk->sk_drops.counter;
}

static __always_inline void times_fill(struct conn *e, struct tcp_sock *tp)
{
	__u32 now = bpf_jiffies64();

	e->rwnd_limited_us = chrono_us(tp, CHRONO_RWND_LIMITED, now);
	e->sndbuf_limited_us = chrono_us(tp, CHRONO_SNDBUF_LIMITED, now);
	e->busy_us = chrono_us(tp, CHRONO_BUSY, now) + e->rwnd_limited_us + e->sndbuf_limited_us;
	e->chrono = chrono_type(tp);
	e->chrono_us = e->chrono ? jiffies_us((__u32)(now - tp->chrono_start)) : 0;
	e->rtt_us = tp->srtt_us >> 3;
	e->rttvar_us = tp->mdev_us >> 2;
	e->min_rtt_us = tp->rtt_min.s[0].v;
	e->rto_us = jiffies_us(tp->inet_conn.icsk_rto);
	e->last_data_sent_ms = jiffies_us((__u32)(now - tp->lsndtime)) / 1000;
	e->last_data_recv_ms = jiffies_us((__u32)(now - tp->inet_conn.icsk_ack.lrcvtime)) / 1000;
	e->last_ack_recv_ms = jiffies_us((__u32)(now - tp->rcv_tstamp)) / 1000;
}

static __always_inline __u8 flags_of(struct sock *sk, struct tcp_sock *tp, const struct session *session)
{
	__u8 nonagle = BPF_CORE_READ_BITFIELD(tp, nonagle);
	__u8 flags = 0;

	if (session->flags & ACTIVE_OPEN)
		flags |= CONN_ACTIVE_OPEN;
	if (session->flags & OPENED_BEFORE)
		flags |= CONN_OPENED_BEFORE;
	if (is_orphan(sk))
		flags |= CONN_ORPHAN;
	else if (!sk->sk_socket)
		flags |= CONN_UNACCEPTED;
	if (sk->__sk_common.skc_flags & (1UL << SOCK_KEEPOPEN))
		flags |= CONN_KEEPALIVE;
	if (nonagle & TCP_NAGLE_OFF)
		flags |= CONN_NODELAY;
	if (nonagle & TCP_NAGLE_CORK)
		flags |= CONN_CORK;
	return flags;
}

static __always_inline void conn_fill(struct conn *e, struct sock *sk, struct tcp_sock *tp, int state,
				      const struct session *session)
{
	e->start_ns = session->start_ns;
	struct cgroup *cgroup = sock_cgroup(sk);
	e->cgroup = cgroup ? cgroup_id(cgroup) : 0;
	counters_fill(e, sk, tp, state, session);
	queues_fill(e, sk, tp);
	times_fill(e, tp);
	timer_fill(e, sk, tp);
	e->state = state;
	e->ca_state = ca_state_of(tp);
	e->retransmits = tp->inet_conn.icsk_retransmits;
	e->probes = tp->inet_conn.icsk_probes_out;
	e->backoff = tp->inet_conn.icsk_backoff;
	e->flags = flags_of(sk, tp, session);
	bpf_probe_read_kernel(e->ca_name, sizeof(e->ca_name), tp->inet_conn.icsk_ca_ops->name);
}

/* ---------------------------------------------------------------- following a session */

/* A session that was open before the trace: what it has done so far does not count. */
static __always_inline void session_begin_late(struct session *session, struct sock *sk, struct tcp_sock *tp, int state)
{
	session->flags = OPENED_BEFORE;
	if (state == TCP_SYN_SENT || opened_here(tp, state))
		session->flags |= ACTIVE_OPEN;
	app_bytes(&session->base_tx, &session->base_rx, sk, tp, state, session->flags & ACTIVE_OPEN);
	session->base_retrans = tp->total_retrans;
	session->start_ns = bpf_ktime_get_boot_ns();
}

static __always_inline void session_begin(struct session *session, struct tcp_sock *tp, int state)
{
	__builtin_memset(session, 0, sizeof(*session)); /* a child has its listener's */
	if (state == TCP_SYN_SENT && tp) {
		session->flags = ACTIVE_OPEN;
		/* Of an earlier connection, where tcp_disconnect() does not clear them. */
		session->base_tx = tp->bytes_acked;
		session->base_rx = tp->bytes_received;
		session->base_retrans = tp->total_retrans;
	}
	session->start_ns = bpf_ktime_get_boot_ns();
}

static __always_inline void on_close(struct sock *sk, struct sock_state *s, struct tcp_sock *tp, int old)
{
	struct owner owner;
	struct flow flow;

	if (!s->tool.start_ns)
		session_begin_late(&s->tool, sk, tp, old);
	struct session session = s->tool;
	s->tool.flags |= CLOSED;
	flow_of(&flow, sk, tp);
	if (!passes_filters(sk, &flow, s, &owner))
		return;
	struct conn *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, CONN_CLOSED);
	e->sock = (__u64)sk;
	conn_fill(e, sk, tp, old, &session);
	event_submit(e, sizeof(*e));
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !protocol_matches(sk))
		return;
	if (old == TCP_LISTEN && new == TCP_CLOSE) {
		mark_change(sk, old, new);
		return;
	}
	struct tcp_sock *tp = tcp_of(sk);
	struct sock_state *s = state_make(sk);
	if (!tp || !s || !claim_change(s, old, new))
		return;
	owner_on_state_change(s, sk, old, new);
	if (new == TCP_SYN_SENT || (old == TCP_LISTEN && new == TCP_SYN_RECV) ||
	    (old == TCP_CLOSE && new == TCP_ESTABLISHED))
		session_begin(&s->tool, tp, new);
	else if (new == TCP_CLOSE)
		on_close(sk, s, tp, old);
	else if (new == TCP_LISTEN)
		s->tool.start_ns = 0;
	else if (!s->tool.start_ns)
		session_begin_late(&s->tool, sk, tp, old);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- sessions that are there already */

static __always_inline bool is_session(int state)
{
	return state != TCP_CLOSE && state != TCP_LISTEN;
}

static __always_inline void sock_scan(struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	int state = sk->__sk_common.skc_state;

	if (tp && !s->tool.start_ns && is_session(state))
		session_begin_late(&s->tool, sk, tp, state);
}

#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s) sock_scan(sk, tp, s)
#include "owner/owner.bpf.h"

/*
 * At the start, in each network namespace: files do not lead to the sockets that nobody has accepted yet, nor to those
 * that were closed with data to send.
 */
SEC("iter/tcp")
int find_sessions(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp = common ? bpf_skc_to_tcp_sock(common) : NULL;

	if (!tp || !is_session(common->skc_state))
		return 0;
	struct sock *sk = (struct sock *)tp;
	struct sock_state *s = state_make(sk);
	if (s)
		sock_scan(sk, tp, s);
	return 0;
}

SEEN_RECORD(conn)

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	int state = sk->__sk_common.skc_state;
	struct session session = s->tool;
	struct owner owner;
	struct flow flow;

	if (!tp || !is_session(state) || !session.start_ns || session.flags & CLOSED)
		return;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!matches(sk, &flow, &owner))
		return;
	struct conn *e = conn_seen();
	if (!e)
		return;
	head_fill_seen(&e->head, bpf_ktime_get_boot_ns(), sk, &flow, &owner, CONN_OPEN);
	e->sock = address_seen();
	conn_fill(e, sk, tp, state, &session);
	seen_write(seq, e, sizeof(*e));
}
EACH_SOCKET(open_sessions, show_open)
