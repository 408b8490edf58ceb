/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* sockbuf: one record per packet or allocation that a socket buffer or a memory limit refused. Any protocol. */
#include "kernel/kernel.h"

struct asked {
	bool asked; /* a record without an owner was sent: send the owner when found */
	__u8 pad[7];
};

#define TOOL_STATE struct asked
#include "tcp.bpf.h"

/* head.event, and an index into EVENTS of sockbuf.rs: the tracepoints. */
enum event_kind { RCVQUEUE_FULL, EXCEED_BUF_LIMIT, UDP_FAIL_QUEUE };
EXPORT_ENUM(event_kind);

struct overflow {
	struct head head;
	__u64 key;       /* joins it with the record of its owner */
	__s64 allocated; /* memory of the protocol on the whole host, in pages << shift */
	__s64 mem[3];    /* tcp_mem, udp_mem, ...: pages */
	__u32 rmem_alloc;
	__u32 rcvbuf;
	__u32 wmem_queued;
	__u32 wmem_alloc;
	__u32 sndbuf;
	__u32 truesize; /* of the packet; 0: not known */
	__u32 minimum;  /* bytes that the socket is granted even under pressure: tcp_rmem[0], udp_rmem_min, ... */
	__u32 drops;
	__u16 family;
	__u16 sock_type;
	__u16 protocol;
	__u8 pressure; /* the protocol is under memory pressure */
	__u8 shift;
	__u8 sending;
	__u8 rcvbuf_locked;   /* SO_RCVBUF was set */
	__u8 filter_deferred; /* --pid or --comm cannot be applied before the owner is looked up */
	__u8 pad[5];
	__u8 proto_name[32];
};
EXPORT_TYPE(overflow);

/* Whether userspace looks up owners: it cannot with --no-scan. */
const volatile bool lookup = false;
const volatile __u32 page_shift = 12;

/* ---------------------------------------------------------------- whose and which */

static __always_inline void any_flow_of(struct flow *flow, struct sock *sk)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	if (!is_inet(sk))
		return;
	flow_of(flow, sk, NULL);
	/* A raw socket's skc_num is its protocol. */
	if (type_of(sk) == SOCK_RAW)
		flow->lport = flow->rport = 0;
}

/* Filters on addresses or ports match only sockets that have them. */
static __always_inline bool any_flow_matches(const struct flow *flow)
{
	if (config.set.flow && !flow->family)
		return false;
	return flow_matches(flow);
}

/*
 * TCP charges memory under the socket's lock, so the current process may be the owner. UDP and the other protocols,
 * including MPTCP connections, receive in softirq without the lock: there only the recorded owner or a scan of all
 * files counts.
 */
static __always_inline struct sock_state *state_of(struct sock *sk)
{
	struct sock_state *s = state_make(sk);
	if (s && protocol_of(sk) == IPPROTO_TCP)
		owner_learn(s, sk);
	return s;
}

/* ---------------------------------------------------------------- the record */

static __always_inline void overflow_fill(struct overflow *e, struct sock *sk)
{
	__builtin_memset(&e->key, 0, sizeof(*e) - sizeof(e->head));
	e->rmem_alloc = sk->sk_backlog.rmem_alloc.counter;
	e->rcvbuf = sk->sk_rcvbuf;
	e->wmem_queued = sk->sk_wmem_queued;
	e->wmem_alloc = sk->sk_wmem_alloc.refs.counter;
	e->sndbuf = sk->sk_sndbuf;
	e->drops = sock_drops(sk);
	e->family = sk->__sk_common.skc_family;
	e->sock_type = type_of(sk);
	e->protocol = protocol_of(sk);
	e->rcvbuf_locked = !!(userlocks_of(sk) & SOCK_RCVBUF_LOCK);
	bpf_probe_read_kernel(e->proto_name, sizeof(e->proto_name), READ_ONLY(sk, sock)->__sk_common.skc_prot->name);
}

/* Reserves and fills a record, if the filters let it pass. */
static __always_inline struct overflow *overflow_begin(struct sock *sk, __u32 event)
{
	struct flow flow;

	any_flow_of(&flow, sk);
	if (!any_flow_matches(&flow) || !sock_matches(sk)) {
		count_filtered();
		return NULL;
	}
	struct sock_state *s = state_of(sk);
	if (!s)
		return NULL;
	struct owner owner;
	owner_find(&owner, s, sk);
	bool unknown = owner.source == PID_UNKNOWN;
	bool matches_owner = owner_matches(&owner);
	if (!matches_owner && !(unknown && lookup)) {
		count_filtered();
		return NULL;
	}
	struct overflow *e = event_reserve(sizeof(*e));
	if (!e)
		return NULL;
	head_fill(&e->head, sk, &flow, &owner, event);
	overflow_fill(e, sk);
	e->key = key_of(sk);
	e->filter_deferred = !matches_owner;
	if (unknown)
		s->tool.asked = true;
	return e;
}

/* ---------------------------------------------------------------- the three tracepoints */

/* __sock_queue_rcv_skb() in net/core/sock.c: raw, ping, packet, CAN, Bluetooth, vsock; not TCP, not UDP. */
SEC("tp_btf/sock_rcvqueue_full")
int BPF_PROG(rcvqueue_full, struct sock *sk, struct sk_buff *skb)
{
	struct overflow *e = overflow_begin(sk, RCVQUEUE_FULL);

	if (!e)
		return 0;
	e->truesize = skb->truesize;
	event_submit(e, sizeof(*e));
	return 0;
}

/*
 * __udp_queue_rcv_skb() in net/ipv4/udp.c and its IPv6 twin. -ENOMEM: the socket's buffer is full. -ENOBUFS: the memory
 * of all sockets is exhausted, which sock_exceed_buf_limit has reported already.
 */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_fail, int rc, struct sock *sk)
{
	if (rc != -ENOMEM)
		return 0;
	struct overflow *e = overflow_begin(sk, UDP_FAIL_QUEUE);
	if (e)
		event_submit(e, sizeof(*e));
	return 0;
}

/*
 * Whether the protocol is under memory pressure. UDP has no such flag: above the pressure limit it grants only the
 * minimum.
 */
static __always_inline bool is_under_pressure(struct proto *prot)
{
	unsigned long *flag = prot->memory_pressure;
	unsigned long pressure = 1;

	if (flag)
		bpf_probe_read_kernel(&pressure, sizeof(pressure), flag);
	return pressure;
}

/* sk_get_rmem0(), sk_get_wmem0() of include/net/sock.h */
static __always_inline __u32 minimum_of(struct sock *sk, struct proto *prot, bool sending)
{
	__u32 offset = sending ? prot->sysctl_wmem_offset : prot->sysctl_rmem_offset;
	void *at = sending ? prot->sysctl_wmem : prot->sysctl_rmem;
	__u32 bytes = 0;

	if (offset)
		at = (void *)READ_ONLY(sk, sock)->__sk_common.skc_net.net + offset;
	bpf_probe_read_kernel(&bytes, sizeof(bytes), at);
	return bytes;
}

SEC("tp_btf/sock_exceed_buf_limit")
int BPF_PROG(exceed_buf_limit, struct sock *sk, struct proto *prot, long allocated, int kind)
{
	struct overflow *e = overflow_begin(sk, EXCEED_BUF_LIMIT);

	if (!e)
		return 0;
	e->sending = kind == SK_MEM_SEND;
	e->allocated = allocated;
	e->shift = memory_shift(page_shift);
	bpf_probe_read_kernel(e->mem, sizeof(e->mem), prot->sysctl_mem);
	e->pressure = is_under_pressure(prot);
	e->minimum = minimum_of(sk, prot, e->sending);
	event_submit(e, sizeof(*e));
	return 0;
}

/* ---------------------------------------------------------------- owners, also those asked for later */

static __always_inline bool may_overflow(struct sock *sk)
{
	unsigned short family = sk->__sk_common.skc_family;

	return family != AF_UNIX && family != AF_NETLINK;
}

static __always_inline void answer(struct seq_file *seq, struct sock *sk, struct sock_state *s)
{
	struct head head = {};

	if (!s->tool.asked)
		return;
	head.cookie = key_of(sk);               /* that of struct overflow */
	head.boot_ns = bpf_ktime_get_boot_ns(); /* answers the records before it, also those that are not read yet */
	owner_find(&head.owner, s, sk);
	head.event = owner_matches(&head.owner);
	/* What finds no room is discarded, and the socket is visited again (kernel/bpf/bpf_iter.c: bpf_seq_read). */
	if (!bpf_seq_write(seq, &head, sizeof(head)))
		s->tool.asked = false;
}

#define SOCK_OWNED(sk) may_overflow(sk)
#define SOCK_SCAN(sk, tp, s) answer(ctx->meta->seq, sk, s)
#include "owner/owner.bpf.h"
