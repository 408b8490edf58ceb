/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For kernels without BTF: sends the records of classic tracepoints. User space turns them into the records of each
 * command (src/fallback/).
 *
 * Every program exists twice: `<event>_ring` for a ring buffer and the boot-time clock (both since 5.8), `<event>_perf`
 * for a perf buffer and the monotonic clock. A constant cannot select: before 5.5 the verifier does not track
 * constants, and rejects missing helpers even in dead branches.
 */
#include "events.bpf.h"
#include "fallback/fallback.bpf.h"
#include "fallback/fallback_socket.bpf.h"

EXPORT_TYPE(trace_event);
EXPORT_TYPE(close_event);
EXPORT_TYPE(limit_event);
EXPORT_TYPE(segment_event);
EXPORT_TYPE(read_event);
EXPORT_TYPE(reset_event);

/* ---------------------------------------------------------------- reading a record */

/*
 * Reads one byte of an array of the record. Addresses lie at odd offsets, where the verifier rejects wider loads, and
 * helpers that read memory return zeros under lockdown. The barriers keep the offset in the load: the compiler would
 * otherwise add it to the context pointer, which the verifier rejects.
 */
#define BYTE(ctx, array, index)             \
	({                                  \
		typeof(ctx) c_ = (ctx);     \
		barrier_var(c_);            \
		__u8 b_ = c_->array[index]; \
		barrier_var(b_);            \
		b_;                         \
	})

#define COPY4(to, at, ctx, array, from)                        \
	do {                                                   \
		(to)[(at) + 0] = BYTE(ctx, array, (from) + 0); \
		(to)[(at) + 1] = BYTE(ctx, array, (from) + 1); \
		(to)[(at) + 2] = BYTE(ctx, array, (from) + 2); \
		(to)[(at) + 3] = BYTE(ctx, array, (from) + 3); \
	} while (0)

#define COPY16(to, ctx, array, from)                    \
	do {                                            \
		COPY4(to, 0, ctx, array, (from) + 0);   \
		COPY4(to, 4, ctx, array, (from) + 4);   \
		COPY4(to, 8, ctx, array, (from) + 8);   \
		COPY4(to, 12, ctx, array, (from) + 12); \
	} while (0)

static __always_inline void family_set(struct flow *flow)
{
	flow->family = is_v4_mapped(flow->raddr) ? 4 : 6;
}

/* A record with ports in host order and addresses in 16 bytes, IPv4 mapped. */
#define FLOW(e, ctx)                                       \
	do {                                               \
		(e)->flow.lport = (ctx)->sport;            \
		(e)->flow.rport = (ctx)->dport;            \
		COPY16((e)->flow.laddr, ctx, saddr_v6, 0); \
		COPY16((e)->flow.raddr, ctx, daddr_v6, 0); \
		family_set(&(e)->flow);                    \
	} while (0)

/* One end, from a struct sockaddr_in or sockaddr_in6 in a record: family, port in network order, then the address. */
#define END(addr, port, ctx, array)                                      \
	do {                                                             \
		(port) = BYTE(ctx, array, 2) << 8 | BYTE(ctx, array, 3); \
		if (BYTE(ctx, array, 0) == AF_INET6) {                   \
			COPY16(addr, ctx, array, 8);                     \
		} else {                                                 \
			(addr)[10] = (addr)[11] = 0xff;                  \
			COPY4(addr, 12, ctx, array, 4);                  \
		}                                                        \
	} while (0)

#define ENDS(e, ctx)                                               \
	do {                                                       \
		END((e)->flow.laddr, (e)->flow.lport, ctx, saddr); \
		END((e)->flow.raddr, (e)->flow.rport, ctx, daddr); \
		family_set(&(e)->flow);                            \
	} while (0)

static __always_inline bool protocol_traced(__u16 protocol)
{
	return protocol == IPPROTO_TCP || (config.set.mptcp && protocol == IPPROTO_MPTCP);
}

/* ---------------------------------------------------------------- what called */

/* Record return addresses in events that have room for them. */
const volatile bool calls = false;

/*
 * A socket destroyed by the call that closed it was no longer open in a process (tcplife's fallback). The lower halves
 * of the addresses suffice: they are only compared.
 */
static __always_inline void calls_note(struct close_event *e, void *ctx)
{
	__u64 stack[CALLS] = {};

	if (!calls)
		return;
	bpf_get_stack(ctx, stack, sizeof(stack), 0);
	for (int i = 0; i < CALLS; i++)
		e->calls[i] = stack[i];
}

/* ---------------------------------------------------------------- the records */

/* Not inlined: it is larger than the rest of each program. */
static __noinline bool flow_passes(const struct flow *flow)
{
	/* A zone is not in the record, and a socket is read later. */
	return config.set.zone || flow_matches(flow);
}

/*
 * Drops only events that can never be shown; user space applies the filters. The first changes of a socket precede its
 * ports (those of a child until 6.14), and changes of listeners are needed for the owners of their children.
 */
static __always_inline bool state_matches(const struct flow *flow)
{
	if (!flow->rport || (!flow->lport && (config.set.lport || config.set.port)))
		return true;
	return flow_passes(flow);
}

static __always_inline bool read_inet_sock_set_state(struct close_event *end, struct record_inet_sock_set_state *ctx)
{
	struct trace_event *e = &end->trace;

	e->kind = TRACE_STATE;
	e->protocol = ctx->protocol;
	e->skaddr = (__u64)ctx->skaddr;
	e->old_state = ctx->oldstate;
	e->state = ctx->newstate;
	FLOW(e, ctx);
	if (e->old_state == e->state || !protocol_traced(e->protocol) || !state_matches(&e->flow))
		return false;
	if (e->state == TCP_CLOSE)
		close_note(end);
	if (e->old_state == TCP_FIN_WAIT2 && e->state == TCP_CLOSE)
		calls_note(end, ctx);
	return true;
}

static __always_inline bool read_tcp_retransmit_skb(struct segment_event *segment,
						    struct record_tcp_retransmit_skb *ctx)
{
	struct trace_event *e = &segment->trace;

	e->kind = TRACE_RETRANSMIT;
	e->skaddr = (__u64)ctx->skaddr;
	if (bpf_core_field_exists(ctx->state))
		e->state = ctx->state;
	if (bpf_core_field_exists(ctx->err))
		e->err = ctx->err;
	FLOW(e, ctx);
	if (!flow_passes(&e->flow))
		return false;
	segment_note(segment, (struct sk_buff *)ctx->skbaddr);
	return true;
}

static __always_inline bool read_tcp_retransmit_synack(struct segment_event *segment,
						       struct record_tcp_retransmit_synack *ctx)
{
	struct trace_event *e = &segment->trace;

	e->kind = TRACE_SYNACK;
	e->skaddr = (__u64)ctx->skaddr;
	FLOW(e, ctx);
	if (!flow_passes(&e->flow))
		return false;
	synack_note(segment, (struct request_sock *)ctx->req);
	return true;
}

/* TIME_WAIT and request sockets have no owner. */
static __always_inline bool read_tcp_send_reset(struct reset_event *reset, struct record_tcp_send_reset *ctx)
{
	struct trace_event *e = &reset->trace;

	e->kind = TRACE_SEND_RESET;
	e->reason = -1;
	if (bpf_core_field_exists(ctx->state))
		e->state = ctx->state;
	if (bpf_core_field_exists(ctx->reason))
		e->reason = ctx->reason;
	if (e->state != TCP_TIME_WAIT && e->state != TCP_NEW_SYN_RECV)
		e->skaddr = (__u64)ctx->skaddr;
	if (bpf_core_field_exists(ctx->sport)) {
		FLOW(e, ctx);
	} else {
		ENDS(e, ctx);
	}
	reset_note(reset, (struct sk_buff *)ctx->skbaddr);
	return true;
}

#define READ_SOCK_EVENT(event, what)                                                                \
	static __always_inline bool read_##event(struct trace_event *e, struct record_##event *ctx) \
	{                                                                                           \
		e->kind = what;                                                                     \
		e->skaddr = (__u64)ctx->skaddr;                                                     \
		if (bpf_core_field_exists(ctx->sock_cookie))                                        \
			e->cookie = ctx->sock_cookie;                                               \
		FLOW(e, ctx);                                                                       \
		return true;                                                                        \
	}
READ_SOCK_EVENT(tcp_receive_reset, TRACE_RECEIVE_RESET)
READ_SOCK_EVENT(tcp_rcv_space_adjust, TRACE_READ)
READ_SOCK_EVENT(tcp_destroy_sock, TRACE_DESTROY)

static __always_inline bool read_reset(struct reset_event *e, struct record_tcp_receive_reset *ctx)
{
	read_tcp_receive_reset(&e->trace, ctx);
	reset_note(e, NULL);
	return true;
}

static __always_inline bool read_read(struct read_event *e, struct record_tcp_rcv_space_adjust *ctx)
{
	read_tcp_rcv_space_adjust(&e->trace, ctx);
	read_note(e);
	return true;
}

static __always_inline bool read_destruction(struct close_event *end, struct record_tcp_destroy_sock *ctx)
{
	calls_note(end, ctx);
	return read_tcp_destroy_sock(&end->trace, ctx);
}

static __always_inline bool read_tcp_probe(struct trace_event *e, struct record_tcp_probe *ctx)
{
	e->kind = TRACE_PROBE;
	ENDS(e, ctx);
	if (!flow_passes(&e->flow))
		return false;
	if (bpf_core_field_exists(ctx->skaddr))
		e->skaddr = (__u64)ctx->skaddr;
	e->cookie = ctx->sock_cookie;
	e->data_len = ctx->data_len;
	e->snd_nxt = ctx->snd_nxt;
	e->snd_una = ctx->snd_una;
	e->snd_cwnd = ctx->snd_cwnd;
	e->ssthresh = ctx->ssthresh;
	e->snd_wnd = ctx->snd_wnd;
	e->srtt_us = ctx->srtt;
	e->rcv_wnd = ctx->rcv_wnd;
	return true;
}

static __always_inline bool read_sock_exceed_buf_limit(struct limit_event *e, struct record_sock_exceed_buf_limit *ctx)
{
	struct record_sock_exceed_buf_limit___pointer *old = (void *)ctx;

	e->trace.kind = TRACE_EXCEED_BUF_LIMIT;
	COPY16(e->name, ctx, name, 0);
	COPY16(e->name + 16, ctx, name, 16);
	e->allocated = ctx->allocated;
	e->rmem_alloc = ctx->rmem_alloc;
	e->minimum = ctx->sysctl_rmem;
	if (bpf_core_field_exists(ctx->kind)) {
		e->sending = ctx->kind == SK_MEM_SEND;
		e->wmem_alloc = ctx->wmem_alloc;
		e->wmem_queued = ctx->wmem_queued;
		if (e->sending)
			e->minimum = ctx->sysctl_wmem;
	}
	if (bpf_core_field_exists(old->sysctl_mem)) {
		bpf_probe_read_kernel(e->mem, sizeof(e->mem), old->sysctl_mem);
	} else {
		e->mem[0] = ctx->sysctl_mem[0];
		e->mem[1] = ctx->sysctl_mem[1];
		e->mem[2] = ctx->sysctl_mem[2];
	}
	return true;
}

static __always_inline bool read_sock_rcvqueue_full(struct limit_event *e, struct record_sock_rcvqueue_full *ctx)
{
	e->trace.kind = TRACE_RCVQUEUE_FULL;
	e->rmem_alloc = ctx->rmem_alloc;
	e->truesize = ctx->truesize;
	e->rcvbuf = ctx->sk_rcvbuf;
	return true;
}

static __always_inline bool read_udp_fail_queue_rcv_skb(struct limit_event *e,
							struct record_udp_fail_queue_rcv_skb *ctx)
{
	e->trace.kind = TRACE_UDP_FAIL;
	e->trace.err = ctx->rc;
	if (bpf_core_field_exists(ctx->lport))
		e->trace.flow.lport = ctx->lport;
	if (bpf_core_field_exists(ctx->dport))
		e->trace.flow.lport = ctx->dport;
	if (bpf_core_field_exists(ctx->family))
		e->family = ctx->family;
	return e->trace.err == -ENOMEM;
}

/* ---------------------------------------------------------------- the programs */

static __always_inline void task_note(struct trace_event *e)
{
	__u64 id = bpf_get_current_pid_tgid();

	e->tgid = id >> 32;
	e->tid = id;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	comm_tidy((__u64 *)e->comm);
}

#define PROGRAMS_OF(type, read, category, event)                                           \
	SEC("?tracepoint/" #category "/" #event)                                           \
	int event##_ring(struct record_##event *ctx)                                       \
	{                                                                                  \
		struct type e = {};                                                        \
                                                                                           \
		((struct trace_event *)&e)->at_ns = bpf_ktime_get_boot_ns();               \
		if (!read(&e, ctx))                                                        \
			return 0;                                                          \
		task_note((struct trace_event *)&e);                                       \
		sock_note((struct trace_event *)&e);                                       \
		struct type *event = event_reserve(sizeof(e));                             \
		if (!event)                                                                \
			return 0;                                                          \
		*event = e;                                                                \
		((struct trace_event *)event)->lost = counters.lost;                       \
		event_submit(event, sizeof(e));                                            \
		return 0;                                                                  \
	}                                                                                  \
	SEC("?tracepoint/" #category "/" #event)                                           \
	int event##_perf(struct record_##event *ctx)                                       \
	{                                                                                  \
		struct type e = {};                                                        \
                                                                                           \
		((struct trace_event *)&e)->at_ns = bpf_ktime_get_ns();                    \
		if (!read(&e, ctx))                                                        \
			return 0;                                                          \
		task_note((struct trace_event *)&e);                                       \
		sock_note((struct trace_event *)&e);                                       \
		((struct trace_event *)&e)->lost = counters.lost;                          \
		if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e))) \
			__sync_fetch_and_add(&counters.lost, 1);                           \
		return 0;                                                                  \
	}

PROGRAMS_OF(close_event, read_inet_sock_set_state, sock, inet_sock_set_state)
PROGRAMS_OF(segment_event, read_tcp_retransmit_skb, tcp, tcp_retransmit_skb)
PROGRAMS_OF(segment_event, read_tcp_retransmit_synack, tcp, tcp_retransmit_synack)
PROGRAMS_OF(reset_event, read_tcp_send_reset, tcp, tcp_send_reset)
PROGRAMS_OF(reset_event, read_reset, tcp, tcp_receive_reset)
PROGRAMS_OF(close_event, read_destruction, tcp, tcp_destroy_sock)
PROGRAMS_OF(read_event, read_read, tcp, tcp_rcv_space_adjust)
PROGRAMS_OF(trace_event, read_tcp_probe, tcp, tcp_probe)
PROGRAMS_OF(limit_event, read_sock_exceed_buf_limit, sock, sock_exceed_buf_limit)
PROGRAMS_OF(limit_event, read_sock_rcvqueue_full, sock, sock_rcvqueue_full)
PROGRAMS_OF(limit_event, read_udp_fail_queue_rcv_skb, udp, udp_fail_queue_rcv_skb)
