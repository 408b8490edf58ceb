/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpreset: one record per RST that was sent or received. */
#include "kernel/kernel.h"

struct connection {
	__u64 start_ns; /* entry into ESTABLISHED, or first sight of a session opened before the trace; 0: never */
	__u64 close_ns;
	__u8 active_open;
	__u8 partial;        /* open before the trace */
	__u8 close_state;    /* the state that it left for CLOSE */
	__u8 maybe_spurious; /* tcp_receive_reset may have fired without an RST */
	__u32 pad;
};

#define TOOL_STATE struct connection
#include "tcp.bpf.h"
#include "bytes.bpf.h"
#include "idle.bpf.h"
#include "kernel/packet.bpf.h"
#include "request.bpf.h"
#include "stack.bpf.h"

/* Which record it is: head.event. */
enum event_kind { RESET_SENT, RESET_RECEIVED };
EXPORT_ENUM(event_kind);

struct reset {
	struct head head;
	__u64 age_ns; /* since ESTABLISHED, up to the close */
	__u64 close_ns;
	__u64 tx_bytes;
	__u64 rx_bytes;
	__s32 reason; /* enum sk_rst_reason; -1: unknown to this kernel */
	__u8 state;   /* before the close; 0: no socket */
	__u8 session; /* was established: age and bytes are valid */
	__u8 partial;
	__u8 trigger;        /* TCP flags of the packet that triggered the RST, 0: none */
	__u8 maybe_spurious; /* received: retracted if a reset is sent right afterwards */
	__u8 retracts;       /* sent: the previous record of this socket was no RST */
	__u8 active;         /* the session was opened from here */
	__u8 listener;       /* what the next two, and `aborts`, are of */
	__u8 aborts;         /* a listener whose accept queue is full resets (net.ipv4.tcp_abort_on_overflow) */
	__u8 hint;           /* src/commands/tcpreset/hints.rs */
	__u8 pad[2];
	__u32 accept_queue;
	__u32 accept_queue_max;
	__u32 idle_jiffies; /* of a session: since the last data, in either direction; ~0: there was none */
	__u32 pad2;
	__u64 stack[STACK_DEPTH];
};
EXPORT_TYPE(reset);

const volatile bool has_reason = false; /* tcp_send_reset has its third argument (6.10) */

/* ---------------------------------------------------------------- the session */

static __always_inline void connection_begin_late(struct connection *conn, struct tcp_sock *tp, int state)
{
	if (conn->start_ns || !tp || state == TCP_CLOSE || state == TCP_LISTEN || state == TCP_SYN_SENT ||
	    state == TCP_SYN_RECV)
		return;
	conn->start_ns = bpf_ktime_get_boot_ns();
	conn->partial = 1;
	conn->active_open = opened_here(tp, state);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	if (old == new || !protocol_matches(sk) || never_matches(sk, new))
		return 0;
	struct sock_state *s = state_make(sk);
	if (!s)
		return 0;
	if (new == TCP_SYN_SENT || new == TCP_LISTEN || old == TCP_LISTEN) {
		__builtin_memset(&s->tool, 0, sizeof(s->tool));
		s->tool.active_open = new == TCP_SYN_SENT;
	} else if (new == TCP_ESTABLISHED) {
		s->tool.start_ns = bpf_ktime_get_boot_ns();
	} else {
		connection_begin_late(&s->tool, tcp_of(sk), old);
	}
	if (new == TCP_CLOSE) {
		s->tool.close_ns = bpf_ktime_get_boot_ns();
		s->tool.close_state = old;
	}
	owner_on_state_change(s, sk, old, new);
	if (new == TCP_CLOSE)
		state_end(s, sk);
	return 0;
}

#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s) connection_begin_late(&(s)->tool, tp, (sk)->__sk_common.skc_state)
#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- the record */

static __always_inline struct reset *reset_reserve(void)
{
	struct reset *e = event_reserve(SIZE_WITH_STACK(struct reset));

	if (e)
		__builtin_memset(&e->age_ns, 0, __builtin_offsetof(struct reset, stack) - sizeof(e->head));
	return e;
}

static __always_inline void listener_fill(struct reset *e, struct sock *sk)
{
	struct overflow now = overflow_of(sk);

	e->listener = 1;
	e->accept_queue = now.accept_queue;
	e->accept_queue_max = now.accept_queue_max;
	e->aborts = now.aborts;
}

/* Time and bytes, of a socket that has them. */
static __always_inline void session_fill(struct reset *e, struct sock *sk, struct connection *conn)
{
	struct tcp_sock *tp = tcp_of(sk);
	int state = sk->__sk_common.skc_state;

	e->state = state == TCP_CLOSE && conn->close_state ? conn->close_state : state;
	e->close_ns = conn->close_ns;
	if (state == TCP_LISTEN)
		listener_fill(e, sk);
	if (!tp || !conn->start_ns || state == TCP_LISTEN)
		return;
	e->session = 1;
	e->active = conn->active_open;
	e->partial = conn->partial;
	e->age_ns = (conn->close_ns ? conn->close_ns : e->head.boot_ns) - conn->start_ns;
	e->idle_jiffies = idle_jiffies(tp);
	app_bytes(&e->tx_bytes, &e->rx_bytes, sk, tp, e->state, conn->active_open);
}

/* ---------------------------------------------------------------- received */

/*
 * Data that arrives after shutdown() or close() also ends in tcp_reset(), without an RST: then tcp_send_reset for the
 * same socket follows in the same call. It cannot follow a real RST: a reset is never answered, and a closed socket
 * sends none (net/ipv4/tcp_input.c: tcp_rcv_state_process; tcp_ipv4.c: tcp_v4_send_reset; tcp.c: __tcp_close).
 */
static __always_inline bool is_maybe_spurious(struct sock *sk)
{
	int state = sk->__sk_common.skc_state;

	return (sk->sk_shutdown & RCV_SHUTDOWN) && state != TCP_ESTABLISHED && state != TCP_SYN_SENT;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(receive_reset, struct sock *sk)
{
	struct sock_state *s = state_find(sk);
	struct sock_state unknown = {};
	struct owner owner;
	struct flow flow;

	bool maybe_spurious = is_maybe_spurious(sk);
	if (s) {
		owner_learn(s, sk);
		s->tool.maybe_spurious = maybe_spurious;
	} else {
		s = &unknown;
	}
	flow_of(&flow, sk, NULL);
	if (!passes_filters(sk, &flow, s, &owner))
		return 0;
	struct reset *e = reset_reserve();
	if (!e)
		return 0;
	head_fill(&e->head, sk, &flow, &owner, RESET_RECEIVED);
	session_fill(e, sk, &s->tool);
	e->reason = -1;
	e->maybe_spurious = maybe_spurious;
	STACK_TAKE(ctx, e);
	event_submit(e, SIZE_WITH_STACK(struct reset));
	return 0;
}

/* ---------------------------------------------------------------- sent */

static __always_inline void reset_without_socket(void *ctx, struct sk_buff *skb, __u32 netns, __u64 cookie, __u8 state,
						 int reason)
{
	struct flow flow;
	__u8 flags = 0;

	if (!packet_flow(&flow, &flags, skb))
		return;
	if (!homeless_matches(&flow, netns)) {
		count_filtered();
		return;
	}
	struct reset *e = reset_reserve();
	if (!e)
		return;
	homeless_fill(&e->head, &flow, netns, cookie, RESET_SENT);
	e->reason = reason;
	e->state = state;
	e->trigger = flags;
	STACK_TAKE(ctx, e);
	event_submit(e, SIZE_WITH_STACK(struct reset));
}

/*
 * Uses the recorded owner: a listener is not locked here, nor is a child that has just received the packet, and `ss -K`
 * locks sockets that it does not own.
 */
static __always_inline void reset_from_socket(void *ctx, struct sock *sk, struct sk_buff *skb, int reason)
{
	struct sock_state *s = state_find(sk);
	struct sock_state unknown = {};
	struct flow flow;
	__u8 flags = 0;

	if (!s)
		s = &unknown;
	struct owner owner;
	bool listener = sk->__sk_common.skc_state == TCP_LISTEN;
	if (!skb || !packet_flow(&flow, &flags, skb) || !listener)
		flow_of(&flow, sk, NULL);
	if (!passes_filters(sk, &flow, s, &owner))
		return;
	if (listener && owner.source != PID_UNKNOWN)
		owner.source = PID_LISTENER;
	struct reset *e = reset_reserve();
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, RESET_SENT);
	session_fill(e, sk, &s->tool);
	e->reason = reason;
	e->trigger = flags;
	e->retracts = skb && s->tool.maybe_spurious;
	STACK_TAKE(ctx, e);
	event_submit(e, SIZE_WITH_STACK(struct reset));
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(send_reset, struct sock *sk, struct sk_buff *skb)
{
	int reason = has_reason ? (int)ctx[2] : -1;

	if (!sk) {
		/* The device is still known here (net/ipv4/tcp_ipv4.c: tcp_v4_rcv clears it only for a socket). */
		if (skb)
			reset_without_socket(ctx, skb, BPF_CORE_READ(skb, dev, nd_net.net, ns.inum), 0, 0, reason);
		return 0;
	}
	int state = sk->__sk_common.skc_state;
	if (state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV)
		reset_from_socket(ctx, sk, skb, reason);
	else if (skb) /* only sock_common may be read */
		reset_without_socket(ctx, skb, netns_of(sk), cookie_of(sk), state, reason);
	return 0;
}
