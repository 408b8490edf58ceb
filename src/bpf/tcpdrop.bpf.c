/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcpdrop: one record per TCP segment that this host throws away. */
#include "tcp.bpf.h"
#include "kernel/reason.bpf.h"
#include "segment.bpf.h"
#include "stack.bpf.h"
EXPORT_ENUM(segment_way);

struct dropped {
	struct head head;
	__u64 place;  /* behind the call that threw it away */
	__s32 reason; /* enum skb_drop_reason; -1: unknown to this kernel */
	__u32 seq;
	__u32 len; /* payload, bytes */
	__u32 segs;
	__u32 ifindex;
	__u16 tcp_flags;
	__u8 way;   /* enum segment_way */
	__u8 state; /* of the socket; 0: none is known */
	__u8 ifname[16] __attribute__((aligned(8)));
	__u64 stack[STACK_DEPTH];
};
EXPORT_TYPE(dropped);

#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- the record */

/* The interface by which it came, or by which it would have left. */
static __always_inline void interface_fill(struct dropped *e, struct sk_buff *skb)
{
	__u32 from = e->way == SEGMENT_RECEIVED ? skb->skb_iif : 0;
	__u32 at = device_netns(skb) ? device_of(skb)->ifindex : 0;

	e->ifindex = from ?: at;
	__u64 *name = (__u64 *)e->ifname;
	if (at && at == e->ifindex) {
		const __u64 *known = (const void *)device_of(skb)->name;
		name[0] = known[0];
		name[1] = known[1];
	} else {
		name[0] = name[1] = 0;
	}
}

static __always_inline void drop_fill(struct dropped *e, struct sk_buff *skb, const struct segment *seg, __u64 place,
				      int reason)
{
	e->place = place;
	e->reason = reason;
	e->seq = seg->seq;
	e->len = seg->len;
	e->segs = segments_of(skb);
	e->tcp_flags = seg->flags;
	e->way = seg->way;
	interface_fill(e, skb);
}

/* ---------------------------------------------------------------- whose */

/*
 * True, but the compiler does not know: it would ask the record's pointer again, and before 5.13 or so the verifier takes
 * one that was found not to be NULL for one that may be.
 */
static __always_inline bool was_reserved(void)
{
	bool yes = true;

	barrier_var(yes);
	return yes;
}

/*
 * It has passed the filters on its flow. Uses the recorded owner: neither a listener is locked here nor a socket whose
 * reader is elsewhere. The cookie is there since the socket has its state.
 */
static __always_inline bool drop_of_socket(struct dropped **to, struct sock *sk, const struct sock_state *s,
					   const struct segment *seg)
{
	struct owner owner;

	bool passes = sock_matches(sk);
	if (passes) {
		owner_find(&owner, s, sk);
		passes = owner_matches(&owner);
	}
	if (!passes) {
		count_filtered();
		return false;
	}
	int state = sk->__sk_common.skc_state;
	if (state == TCP_LISTEN && owner.source != PID_UNKNOWN)
		owner.source = PID_LISTENER;
	struct dropped *e = event_reserve(SIZE_WITH_STACK(struct dropped));
	*to = e;
	if (!e)
		return false;
	head_fill_seen(&e->head, bpf_ktime_get_boot_ns(), sk, &seg->flow, &owner, 0);
	e->state = state;
	return was_reserved();
}

/* `sk`: what all sockets have in common, or NULL. */
static __always_inline bool drop_without_socket(struct dropped **to, struct sock *sk, struct sk_buff *skb,
						const struct segment *seg)
{
	__u32 netns = sk ? netns_of(sk) : segment_netns(skb);

	if (!homeless_matches(&seg->flow, netns)) {
		count_filtered();
		return false;
	}
	struct dropped *e = event_reserve(SIZE_WITH_STACK(struct dropped));
	*to = e;
	if (!e)
		return false;
	homeless_fill(&e->head, &seg->flow, netns, 0, 0);
	e->state = 0;
	if (sk) {
		e->head.cookie = sk->__sk_common.skc_cookie.counter;
		e->state = sk->__sk_common.skc_state;
	}
	return was_reserved();
}

/* ---------------------------------------------------------------- the tracepoint */

/*
 * The reason is decided upon first, from registers alone, and then the protocol: the kernel may throw away very much that
 * is none of TCP's.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(segment_dropped, struct sk_buff *skb, void *location)
{
	int reason = has_reason ? (int)ctx[2] : -1;
	struct sock *sk = has_rx_sk ? (struct sock *)ctx[3] : NULL;
	struct segment seg;
	struct dropped *e;
	bool reserved;

	if (is_hidden(reason) || !segment_read(&seg, skb))
		return 0;
	if (!flow_matches(&seg.flow)) { /* before its socket is looked for */
		count_filtered();
		return 0;
	}
	if (sk) {
		if (is_foreign(sk)) /* a copy, for a raw or packet socket */
			return 0;
		reserved = is_full_tcp(sk) ? drop_of_socket(&e, sk, state_find(sk), &seg) :
					     drop_without_socket(&e, sk, skb, &seg);
	} else {
		sk = segment_sock(&seg, skb);
		reserved = sk && is_full_tcp(sk) ?
				   drop_of_socket(&e, sk, state_peek(sk), &seg) :
				   drop_without_socket(&e, sk && !is_foreign(sk) ? sk : NULL, skb, &seg);
	}
	if (!reserved)
		return 0;
	drop_fill(e, skb, &seg, (__u64)location, reason);
	STACK_TAKE(ctx, e);
	event_submit(e, SIZE_WITH_STACK(struct dropped));
	return 0;
}
