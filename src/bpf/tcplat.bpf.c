/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcplat: where the time of a request goes: one record per turn of a connection, or sums and histograms of turns.
 *
 * A turn ends a request: at a server, which was opened passively, with the first send after a receive; at a client, which
 * was opened actively, with the first receive after a send. Calls are timed when they return (net/socket.c:
 * sock_sendmsg_nosec, sock_recvmsg_nosec), and data when the kernel tells the socket's reader of it (sk_data_ready).
 */
#include "tcplat/turn.bpf.h"
#include "bytes.bpf.h"
#define OWN_SET_STATE
#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- which sockets */

/* The length of a call is reported of every family: a raw socket may have TCP's number. */
static __always_inline bool is_tcp(struct sock *sk)
{
	return is_inet(sk) && protocol_of(sk) == IPPROTO_TCP && type_of(sk) == SOCK_STREAM;
}

/*
 * opened_here() of bytes.bpf.h, of a socket that is not locked: an acknowledgement that comes meanwhile leaves a
 * difference that is neither, or another snd_una; then the next call tells.
 */
static __always_inline __u8 role_of(struct sock *sk, struct tcp_sock *tp)
{
	__u32 una = tp->snd_una;
	__u64 payload = tp->bytes_sent - tp->bytes_retrans;
	__u64 acked = tp->bytes_acked + (__u32)(tp->snd_nxt - una);
	__u64 fin = is_closing(sk->__sk_common.skc_state) && tp->snd_nxt == tp->write_seq;

	barrier();
	if (tp->snd_una != una)
		return ROLE_UNKNOWN;
	if (acked - payload == fin)
		return ROLE_SERVER;
	return acked - payload == fin + 1 ? ROLE_CLIENT : ROLE_UNKNOWN;
}

/* The state of a socket that a call moved data on, unless the filters reject it; the owner is looked at with a turn. */
static __always_inline struct sock_state *state_of_call(struct sock *sk, int ret)
{
	struct flow flow;

	if (config.set.flow) {
		flow_of(&flow, sk, NULL);
		if (!flow_matches(&flow)) {
			count_filtered();
			return NULL;
		}
	}
	if (!sock_matches(sk)) {
		count_filtered();
		return NULL;
	}
	return ret > 0 ? state_make(sk) : state_find(sk);
}

/* ---------------------------------------------------------------- calls */

/* A new use of the socket; a child has its listener's state. */
static __always_inline void talk_begin(struct talk *talk, __u8 role)
{
	__builtin_memset(talk, 0, sizeof(*talk));
	talk->role = role;
}

static __always_inline void request_begin(struct talk *talk, struct tcp_sock *tp, __u8 phase)
{
	talk->phase = phase;
	talk->bytes = 0;
	talk->calls = 0;
	talk->retrans = tp->total_retrans;
	talk->unread_ns = TIME_UNKNOWN;
}

/*
 * The first call on a connection that was accepted tells that it was, at the latest. Not one that has waited for data:
 * that the connection was accepted before the data came, which was then still to come.
 */
static __always_inline void note_call(struct talk *talk, __u64 now, bool waited)
{
	if (talk->called || !talk->open_ns)
		return;
	talk->called = 1;
	if (!waited)
		talk->accept_ns = now - talk->open_ns;
}

/* Bytes that can be read: the end of the other end's data counts as one in rcv_nxt. */
static __always_inline bool has_unread(struct sock *sk, struct tcp_sock *tp)
{
	return (__s32)(tp->rcv_nxt - tp->copied_seq - fin_received(sk)) > 0;
}

/*
 * A send after a pause that was longer than the retransmission timeout begins with the initial window
 * (net/ipv4/tcp_output.c: tcp_cwnd_restart), before data is queued. Counted if the window had grown to twice as much,
 * and this send needs more than what is left. Window and pause are those that earlier calls have seen.
 */
static __always_inline void note_restart(struct talk *talk, struct tcp_sock *tp, __u64 now, __u64 bytes)
{
	__u32 now_ms = now / 1000000;
	__u32 pause_ms = now_ms - talk->sent_ms;
	__u32 before = talk->cwnd;
	__u32 cwnd = tp->snd_cwnd;

	if (talk->sent_ms && pause_ms * 1000ULL > jiffies_us(tp->inet_conn.icsk_rto) && cwnd <= before / 2 &&
	    bytes > (__u64)cwnd * tp->mss_cache && ca_state_of(tp) == TCP_CA_OPEN)
		talk->restarts++;
	talk->sent_ms = now_ms;
	talk->cwnd = cwnd;
}

static __always_inline void on_send(struct sock *sk, struct sock_state *s, struct tcp_sock *tp, int ret)
{
	struct talk *talk = &s->tool;
	__u64 now = bpf_ktime_get_boot_ns();

	note_call(talk, now, false);
	if (ret <= 0)
		return;
	if (!talk->role)
		talk->role = role_of(sk, tp);
	talk->tx += ret;
	note_restart(talk, tp, now, ret);
	if (talk->phase == PHASE_RECEIVING && talk->role == ROLE_SERVER) {
		struct answer answer = {
			.now = now,
			.unread_ns = talk->unread_ns,
			.bytes = ret,
			.pipelined = has_unread(sk, tp),
		};
		turn_end(sk, s, tp, &answer);
	}
	if (talk->phase != PHASE_SENDING)
		request_begin(talk, tp, PHASE_SENDING);
	talk->bytes += ret;
	talk->calls++;
	talk->last_ns = now;
}

/*
 * Whether what a client reads answers something before its last send: it came before that, or sooner after it than half
 * of the shortest round trip. Below a millisecond the length of the calls themselves counts.
 */
static __always_inline bool is_early(const struct talk *talk, struct tcp_sock *tp, __u64 ready)
{
	__u32 min_rtt_us = tp->rtt_min.s[0].v;

	if (!ready)
		return false;
	if (ready < talk->last_ns)
		return talk->last_ns - ready > 1000000;
	return min_rtt_us != ~0U && min_rtt_us >= 1000 && (ready - talk->last_ns) / 500 < min_rtt_us;
}

static __always_inline void on_data(struct sock *sk, struct sock_state *s, struct tcp_sock *tp, int ret, __u64 now)
{
	struct talk *talk = &s->tool;
	__u64 ready = talk->ready_ns;
	__u64 unread = !ready ? TIME_UNKNOWN : now > ready ? now - ready : 0;

	talk->ready_ns = 0;
	talk->came_early = 0;
	barrier();
	if (has_unread(sk, tp)) /* what came before this moment is not told again */
		talk->ready_ns = now;
	if (talk->open_ns) {
		talk->first_read_ns = now - talk->open_ns;
		talk->open_ns = 0;
	}
	if (!talk->role)
		talk->role = role_of(sk, tp);
	talk->cwnd = tp->snd_cwnd;
	talk->rx += ret;
	if (talk->phase == PHASE_SENDING && talk->role == ROLE_CLIENT) {
		struct answer answer = {.now = now, .bytes = ret, .pipelined = is_early(talk, tp, ready)};
		__u64 turn = now > talk->last_ns ? now - talk->last_ns : 0;
		/* On this host the answer may come while the call that sent the request returns. */
		answer.unread_ns = unread == TIME_UNKNOWN || unread <= turn ? unread : turn;
		turn_end(sk, s, tp, &answer);
	}
	if (talk->phase != PHASE_RECEIVING)
		request_begin(talk, tp, PHASE_RECEIVING);
	talk->bytes += ret;
	talk->calls++;
	talk->last_ns = now;
	if (unread != TIME_UNKNOWN && (talk->unread_ns == TIME_UNKNOWN || unread > talk->unread_ns))
		talk->unread_ns = unread;
}

/* The other end has sent all: for a server the request ends here, and a client will get no answer. */
static __always_inline void on_eof(struct talk *talk, __u64 now)
{
	talk->ready_ns = 0;
	if (talk->phase == PHASE_RECEIVING)
		talk->last_ns = now;
	else
		talk->phase = PHASE_NONE;
}

static __always_inline void on_receive(struct sock *sk, struct sock_state *s, struct tcp_sock *tp, int ret)
{
	struct talk *talk = &s->tool;
	__u64 now = bpf_ktime_get_boot_ns();

	note_call(talk, now, ret >= 0 && !talk->came_early);
	if (ret > 0)
		on_data(sk, s, tp, ret, now);
	else if (!ret && sk->sk_shutdown & RCV_SHUTDOWN)
		on_eof(talk, now);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(send_length, struct sock *sk, int ret)
{
	struct tcp_sock *tp;
	struct sock_state *s;

	if (is_tcp(sk) && (s = state_of_call(sk, ret)) && (tp = tcp_of(sk)))
		on_send(sk, s, tp, ret);
	return 0;
}

/* What is only looked at is still to be read, and an entry of the error queue is no data of the other end. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(recv_length, struct sock *sk, int ret, int flags)
{
	struct tcp_sock *tp;
	struct sock_state *s;

	if (flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	if (is_tcp(sk) && (s = state_of_call(sk, ret)) && (tp = tcp_of(sk)))
		on_receive(sk, s, tp, ret);
	return 0;
}

/* ---------------------------------------------------------------- data that comes, and the life of a connection */

/* In softirq, mostly; of a listener, when a connection is to be accepted (net/ipv4/tcp_minisocks.c: tcp_child_process). */
SEC("tp_btf/sk_data_ready")
int BPF_PROG(data_ready, struct sock *sk)
{
	if (!is_tcp(sk) || sk->__sk_common.skc_state == TCP_LISTEN)
		return 0;
	struct sock_state *s = state_find(sk);
	if (!s || s->tool.ready_ns)
		return 0;
	s->tool.ready_ns = bpf_ktime_get_boot_ns();
	s->tool.came_early = !sk->sk_socket;
	return 0;
}

/* Bytes of the last answer that came after its first call. */
static __always_inline void on_close(struct sock *sk, struct sock_state *s)
{
	struct talk *talk = &s->tool;
	struct group_key key;
	struct owner owner;

	if (mode != MODE_SUMMARY || min_us || !talk->role || !(talk->rx | talk->tx))
		return;
	flow_of(&key.flow, sk, tcp_of(sk));
	if (!passes_filters(sk, &key.flow, s, &owner))
		return;
	struct turn_sum *sum = sum_of(&key, sk, &owner, talk->role);
	if (sum)
		bytes_add(sum, talk->rx, talk->tx);
	talk->rx = talk->tx = 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	struct sock_state *s;

	if (old == new || !protocol_matches(sk) || never_matches(sk, new) || !(s = state_make(sk)))
		return 0;
	owner_on_state_change(s, sk, old, new);
	if (new == TCP_SYN_SENT)
		talk_begin(&s->tool, ROLE_CLIENT);
	else if (old == TCP_LISTEN && new == TCP_SYN_RECV)
		talk_begin(&s->tool, ROLE_SERVER);
	else if (new == TCP_ESTABLISHED && s->tool.role == ROLE_SERVER)
		s->tool.open_ns = bpf_ktime_get_boot_ns();
	else if (new == TCP_CLOSE)
		on_close(sk, s);
	if (new == TCP_CLOSE)
		state_end(s, sk);
	return 0;
}
