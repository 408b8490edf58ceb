/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For kernels without type information (BTF): the classic tracepoints' records, and nothing else of the kernel. What
 * they mean for a command is userspace's business (src/record/).
 *
 * Every program exists twice. `<event>_ring` is for a ring buffer and the boot-time clock, which came together (5.8);
 * `<event>_perf` for a perf buffer and the monotonic clock. A constant could not choose: before 5.5 the verifier does
 * not know the values of constants, and refuses helpers that its kernel lacks in branches that are never taken.
 */
#include "events.bpf.h"
#include "record.bpf.h"
#include "record_socket.bpf.h"

EXPORT_TYPE(seen);
EXPORT_TYPE(seen_end);
EXPORT_TYPE(seen_limit);
EXPORT_TYPE(seen_segment);
EXPORT_TYPE(seen_read);
EXPORT_TYPE(seen_reset);

/* ---------------------------------------------------------------- reading a record */

/*
 * A byte of an array of the record. Addresses lie at odd offsets, where the verifier allows no wider load, and a helper
 * that reads memory gives zeros under lockdown. The barriers keep the offset within the load: the compiler would add it
 * to the context's address once for all bytes, and such an address the verifier refuses.
 */
#define BYTE(ctx, array, index)              \
	({                                   \
		typeof(ctx) c_ = (ctx);      \
		barrier_var(c_);             \
		__u8 b_ = c_->array[index];  \
		barrier_var(b_);             \
		b_;                          \
	})

#define COPY4(to, at, ctx, array, from)                      \
	do {                                                 \
		(to)[(at) + 0] = BYTE(ctx, array, (from) + 0); \
		(to)[(at) + 1] = BYTE(ctx, array, (from) + 1); \
		(to)[(at) + 2] = BYTE(ctx, array, (from) + 2); \
		(to)[(at) + 3] = BYTE(ctx, array, (from) + 3); \
	} while (0)

#define COPY16(to, ctx, array, from)                  \
	do {                                          \
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
		COPY16((e)->flow.laddr, ctx, saddr_v6, 0);    \
		COPY16((e)->flow.raddr, ctx, daddr_v6, 0);    \
		family_set(&(e)->flow);                    \
	} while (0)

/* One end, from a struct sockaddr_in or sockaddr_in6 in a record: family, port in network order, then the address. */
#define END(addr, port, ctx, array)                                           \
	do {                                                                  \
		(port) = BYTE(ctx, array, 2) << 8 | BYTE(ctx, array, 3);      \
		if (BYTE(ctx, array, 0) == AF_INET6) {                        \
			COPY16(addr, ctx, array, 8);                          \
		} else {                                                      \
			(addr)[10] = (addr)[11] = 0xff;                       \
			COPY4(addr, 12, ctx, array, 4);                       \
		}                                                             \
	} while (0)

#define ENDS(e, ctx)                                               \
	do {                                                       \
		END((e)->flow.laddr, (e)->flow.lport, ctx, saddr); \
		END((e)->flow.raddr, (e)->flow.rport, ctx, daddr); \
		family_set(&(e)->flow);                            \
	} while (0)

static __always_inline bool protocol_seen(__u16 protocol)
{
	return protocol == IPPROTO_TCP || (config.set.mptcp && protocol == IPPROTO_MPTCP);
}

/* ---------------------------------------------------------------- what called */

/* Note the calls where records have room for them. */
const volatile bool calls = false;

/*
 * Whether a socket is destroyed by the very call that closed it tells whether a process still had it (tcplife's
 * record mode). The lower halves of the addresses do: they are compared, and not looked up.
 */
static __always_inline void calls_note(struct seen_end *e, void *ctx)
{
	__u64 stack[CALLS] = {};

	if (!calls)
		return;
	bpf_get_stack(ctx, stack, sizeof(stack), 0);
	for (int i = 0; i < CALLS; i++)
		e->calls[i] = stack[i];
}

/* ---------------------------------------------------------------- the records */

/* One for all programs: it is larger than the rest of them. */
static __noinline bool flow_passes(const struct flow *flow)
{
	/* A zone is not in the record, and a socket is read later. */
	return config.set.zone || flow_wanted(flow);
}

/*
 * Userspace decides what is shown; this only keeps from it what never will be. A socket's first changes come before
 * its ports are known (a child's until 6.14), and a listener's tell whose its children are.
 */
static __always_inline bool state_wanted(const struct flow *flow)
{
	if (!flow->rport || (!flow->lport && (config.set.lport || config.set.port)))
		return true;
	return flow_passes(flow);
}

static __always_inline bool read_inet_sock_set_state(struct seen_end *end, struct record_inet_sock_set_state *ctx)
{
	struct seen *e = &end->seen;

	e->kind = SEEN_STATE;
	e->protocol = ctx->protocol;
	e->skaddr = (__u64)ctx->skaddr;
	e->old_state = ctx->oldstate;
	e->state = ctx->newstate;
	FLOW(e, ctx);
	if (e->old_state == e->state || !protocol_seen(e->protocol) || !state_wanted(&e->flow))
		return false;
	if (e->state == TCP_CLOSE)
		close_note(end);
	if (e->old_state == TCP_FIN_WAIT2 && e->state == TCP_CLOSE)
		calls_note(end, ctx);
	return true;
}

static __always_inline bool read_tcp_retransmit_skb(struct seen_segment *segment, struct record_tcp_retransmit_skb *ctx)
{
	struct seen *e = &segment->seen;

	e->kind = SEEN_RETRANSMIT;
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

static __always_inline bool read_tcp_retransmit_synack(struct seen_segment *segment,
						       struct record_tcp_retransmit_synack *ctx)
{
	struct seen *e = &segment->seen;

	e->kind = SEEN_SYNACK;
	e->skaddr = (__u64)ctx->skaddr;
	FLOW(e, ctx);
	if (!flow_passes(&e->flow))
		return false;
	synack_note(segment, (struct request_sock *)ctx->req);
	return true;
}

/* What sits out TIME_WAIT, or waits for the end of a handshake, is no socket that anybody has. */
static __always_inline bool read_tcp_send_reset(struct seen_reset *reset, struct record_tcp_send_reset *ctx)
{
	struct seen *e = &reset->seen;

	e->kind = SEEN_SEND_RESET;
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

#define READ_SOCK_EVENT(event, what)                                                                       \
	static __always_inline bool read_##event(struct seen *e, struct record_##event *ctx)              \
	{                                                                                                  \
		e->kind = what;                                                                            \
		e->skaddr = (__u64)ctx->skaddr;                                                            \
		if (bpf_core_field_exists(ctx->sock_cookie))                                               \
			e->cookie = ctx->sock_cookie;                                                      \
		FLOW(e, ctx);                                                                              \
		return true;                                                                               \
	}
READ_SOCK_EVENT(tcp_receive_reset, SEEN_RECEIVE_RESET)
READ_SOCK_EVENT(tcp_rcv_space_adjust, SEEN_READ)
READ_SOCK_EVENT(tcp_destroy_sock, SEEN_DESTROY)

static __always_inline bool read_reset(struct seen_reset *e, struct record_tcp_receive_reset *ctx)
{
	read_tcp_receive_reset(&e->seen, ctx);
	reset_note(e, NULL);
	return true;
}

static __always_inline bool read_read(struct seen_read *e, struct record_tcp_rcv_space_adjust *ctx)
{
	read_tcp_rcv_space_adjust(&e->seen, ctx);
	read_note(e);
	return true;
}

static __always_inline bool read_destruction(struct seen_end *end, struct record_tcp_destroy_sock *ctx)
{
	calls_note(end, ctx);
	return read_tcp_destroy_sock(&end->seen, ctx);
}

static __always_inline bool read_tcp_probe(struct seen *e, struct record_tcp_probe *ctx)
{
	e->kind = SEEN_PROBE;
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

static __always_inline bool read_sock_exceed_buf_limit(struct seen_limit *e, struct record_sock_exceed_buf_limit *ctx)
{
	struct record_sock_exceed_buf_limit___pointer *old = (void *)ctx;

	e->seen.kind = SEEN_EXCEED_BUF_LIMIT;
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

static __always_inline bool read_sock_rcvqueue_full(struct seen_limit *e, struct record_sock_rcvqueue_full *ctx)
{
	e->seen.kind = SEEN_RCVQUEUE_FULL;
	e->rmem_alloc = ctx->rmem_alloc;
	e->truesize = ctx->truesize;
	e->rcvbuf = ctx->sk_rcvbuf;
	return true;
}

static __always_inline bool read_udp_fail_queue_rcv_skb(struct seen_limit *e, struct record_udp_fail_queue_rcv_skb *ctx)
{
	e->seen.kind = SEEN_UDP_FAIL;
	e->seen.err = ctx->rc;
	if (bpf_core_field_exists(ctx->lport))
		e->seen.flow.lport = ctx->lport;
	if (bpf_core_field_exists(ctx->dport))
		e->seen.flow.lport = ctx->dport;
	if (bpf_core_field_exists(ctx->family))
		e->family = ctx->family;
	return e->seen.err == -ENOMEM;
}

/* ---------------------------------------------------------------- the programs */

static __always_inline void task_note(struct seen *e)
{
	__u64 id = bpf_get_current_pid_tgid();

	e->tgid = id >> 32;
	e->tid = id;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	comm_tidy((__u64 *)e->comm);
}

#define PROGRAMS_OF(type, read, category, event)                                                            \
	SEC("?tracepoint/" #category "/" #event)                                                           \
	int event##_ring(struct record_##event *ctx)                                                       \
	{                                                                                                  \
		struct type e = {};                                                                        \
                                                                                                           \
		((struct seen *)&e)->at_ns = bpf_ktime_get_boot_ns();                                      \
		if (!read(&e, ctx))                                                                        \
			return 0;                                                                          \
		task_note((struct seen *)&e);                                                              \
		sock_note((struct seen *)&e);                                                              \
		struct type *event = event_reserve(sizeof(e));                                             \
		if (!event)                                                                                \
			return 0;                                                                          \
		*event = e;                                                                                \
		((struct seen *)event)->lost = counters.lost;                                              \
		event_submit(event, sizeof(e));                                                            \
		return 0;                                                                                  \
	}                                                                                                  \
	SEC("?tracepoint/" #category "/" #event)                                                           \
	int event##_perf(struct record_##event *ctx)                                                       \
	{                                                                                                  \
		struct type e = {};                                                                        \
                                                                                                           \
		((struct seen *)&e)->at_ns = bpf_ktime_get_ns();                                           \
		if (!read(&e, ctx))                                                                        \
			return 0;                                                                          \
		task_note((struct seen *)&e);                                                              \
		sock_note((struct seen *)&e);                                                              \
		((struct seen *)&e)->lost = counters.lost;                                                 \
		if (bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &e, sizeof(e)))                 \
			__sync_fetch_and_add(&counters.lost, 1);                                           \
		return 0;                                                                                  \
	}

PROGRAMS_OF(seen_end, read_inet_sock_set_state, sock, inet_sock_set_state)
PROGRAMS_OF(seen_segment, read_tcp_retransmit_skb, tcp, tcp_retransmit_skb)
PROGRAMS_OF(seen_segment, read_tcp_retransmit_synack, tcp, tcp_retransmit_synack)
PROGRAMS_OF(seen_reset, read_tcp_send_reset, tcp, tcp_send_reset)
PROGRAMS_OF(seen_reset, read_reset, tcp, tcp_receive_reset)
PROGRAMS_OF(seen_end, read_destruction, tcp, tcp_destroy_sock)
PROGRAMS_OF(seen_read, read_read, tcp, tcp_rcv_space_adjust)
PROGRAMS_OF(seen, read_tcp_probe, tcp, tcp_probe)
PROGRAMS_OF(seen_limit, read_sock_exceed_buf_limit, sock, sock_exceed_buf_limit)
PROGRAMS_OF(seen_limit, read_sock_rcvqueue_full, sock, sock_rcvqueue_full)
PROGRAMS_OF(seen_limit, read_udp_fail_queue_rcv_skb, udp, udp_fail_queue_rcv_skb)
