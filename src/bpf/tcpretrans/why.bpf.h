/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * --why: whether this host threw a segment away, in whichever network namespace, before it was sent again.
 *
 * What is thrown away is kept in a table, and found by the sequence numbers of the segment, not by its flow: address
 * translation changes the flow only, so a drop behind it is seen to be one that may be the segment's.
 *
 * A retransmission takes what it covers out of the table. So the next one of the same bytes finds only what became of
 * this one.
 */
#ifndef TCPTOOLS_WHY_BPF_H
#define TCPTOOLS_WHY_BPF_H

#include "kernel/reason.bpf.h"
#include "segment.bpf.h"

const volatile bool why = false;

/* Since when drops are seen (CLOCK_MONOTONIC); 0: not yet. User space sets it when all programs are attached. */
struct drops_seen {
	__u64 since_ns;
};
struct drops_seen drops_seen SEC(".data.drops_seen") = {};

/* When a segment was thrown away last that was longer than a block; 0: never. */
struct long_drop {
	__u64 ns;
};
struct long_drop long_drop SEC(".data.long_drop") = {};

enum drop_table { DROP_BUCKETS = 2048, DROP_WAYS = 16 };
enum { BLOCK_SHIFT = 16, BLOCK = 1 << BLOCK_SHIFT };
/* A segment begins anywhere in a block, and ends in the next one at the latest, unless it is longer than 64 KiB. */
enum { LOOK_BLOCKS = 3 };

/* A timer sends a segment again after 120 seconds at most (include/net/tcp.h: TCP_RTO_MAX). */
#define DROP_LASTS_NS 120000000000ULL

enum drop_verdict {
	DROP_NOT_ASKED,
	DROP_NONE,         /* this host did not throw it away */
	DROP_ALL,          /* it did */
	DROP_PART,         /* some of it */
	DROP_TRANSLATED,   /* something with its sequence numbers, and other addresses or ports */
	DROP_BEFORE_START, /* not that is known, and it was sent before this was seen */
	DROP_FORGOTTEN,    /* not that is known, and the table was too small */
	DROP_MISSED,       /* the same, and the program was not run for some; user space says so, as in the next one */
	DROP_COPY,         /* it is a copy that was thrown away */
};

/* Why and where. */
struct drop_cause {
	__u64 place; /* behind the call that threw it away */
	__s32 reason;
	__u32 netns;
};

/* What was thrown away, as its sender sees it. */
struct drop {
	__u8 from[16];
	__u8 to[16];
	__u16 from_port;
	__u16 to_port;
	__u32 seq;
	__u32 end;
	__u32 total_retrans; /* of the sender's socket at that time, if has_total */
	__u64 ns;            /* CLOCK_MONOTONIC; 0: a free slot */
	struct drop_cause cause;
	__u64 has_total;
};

/* Of the blocks of sequence numbers that differ in the upper bits only. */
struct drop_bucket {
	struct bpf_spin_lock lock;
	__u32 oldest;       /* of `drop`; kept here, so that the verifier has no number to follow each value of */
	__u64 forgotten_ns; /* when the last one of those that found no room any more was thrown away */
	struct drop drop[DROP_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* user space sets the size if asked for */
	__type(key, __u32);
	__type(value, struct drop_bucket);
} drops SEC(".maps");

static __always_inline struct drop_bucket *bucket_of(__u32 block)
{
	__u32 key = block & (DROP_BUCKETS - 1);

	return bpf_map_lookup_elem(&drops, &key);
}

/* 0: they are of one flow. Without branches, as next_to(): under the lock, the verifier follows every combination. */
static __always_inline __u64 other_flow(const struct drop *a, const struct drop *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
	__u32 ports = *(const __u32 *)&a->from_port ^ *(const __u32 *)&b->from_port;

	return (x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | ports;
}

/* ---------------------------------------------------------------- what is thrown away */

/* Whether a segment follows one that was thrown away in the same way: then both are one. */
static __always_inline bool next_to(const struct drop *known, const struct drop *next)
{
	const struct drop_cause *a = &known->cause, *b = &next->cause;
	__u64 cause = (a->place ^ b->place) | (a->reason ^ b->reason) | (a->netns ^ b->netns);
	__u64 total = (known->has_total ^ next->has_total) | (known->total_retrans ^ next->total_retrans);

	return !((known->end ^ next->seq) | cause | total | other_flow(known, next)) && known->ns;
}

/* `drop` lies in one block, or ends in the next. */
static __noinline int drop_keep(const struct drop *drop)
{
	struct drop_bucket *bucket = drop ? bucket_of(drop->seq >> BLOCK_SHIFT) : NULL;
	__u64 oldest_ns;

	if (!bucket)
		return 0;
	bpf_spin_lock(&bucket->lock);
	bucket->oldest = 0;
	oldest_ns = bucket->drop[0].ns;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < DROP_WAYS; i++) {
		struct drop *known = &bucket->drop[i];
		if (next_to(known, drop)) {
			known->end = drop->end;
			known->ns = drop->ns;
			bpf_spin_unlock(&bucket->lock);
			return 0;
		}
		if (known->ns < oldest_ns) {
			oldest_ns = known->ns;
			bucket->oldest = i;
		}
	}
	if (oldest_ns)
		bucket->forgotten_ns = oldest_ns;
	__u32 oldest = *(volatile __u32 *)&bucket->oldest;
	barrier_var(oldest); /* or the compiler leaves out the mask, which the verifier needs */
	bucket->drop[oldest & (DROP_WAYS - 1)] = *drop;
	bpf_spin_unlock(&bucket->lock);
	return 0;
}

/* The socket that sent it, while it still is in its namespace. */
static __always_inline void sender_note(struct drop *drop, const struct segment *seg, struct sk_buff *skb)
{
	struct sock *sk = seg->way == SEGMENT_SENT ? skb->sk : NULL;

	drop->has_total = sk && is_full_tcp(sk) && sk->__sk_common.skc_num == drop->from_port;
	drop->total_retrans = drop->has_total ? READ_AT(sk, tcp_sock, total_retrans) : 0;
}

static __always_inline void drop_note(const struct segment *seg, struct sk_buff *skb, __u64 place, int reason)
{
	bool sent = seg->way == SEGMENT_SENT;
	__u32 end = seg->seq + seg->len + (seg->flags >> 1 & 1) + (seg->flags & 1); /* SYN and FIN count as one each */
	struct drop drop = {.seq = seg->seq, .cause = {.place = place, .reason = reason}};

	if (end == seg->seq) /* an acknowledgement only, or an RST: never sent again */
		return;
	drop.cause.netns = segment_netns(skb);
	__builtin_memcpy(drop.from, sent ? seg->flow.laddr : seg->flow.raddr, 16);
	__builtin_memcpy(drop.to, sent ? seg->flow.raddr : seg->flow.laddr, 16);
	drop.from_port = sent ? seg->flow.lport : seg->flow.rport;
	drop.to_port = sent ? seg->flow.rport : seg->flow.lport;
	drop.ns = bpf_ktime_get_ns();
	sender_note(&drop, seg, skb);
	drop.end = end;
	if (end - drop.seq > BLOCK) {
		drop.end = drop.seq + BLOCK;
		long_drop.ns = drop.ns;
	}
	drop_keep(&drop);
}

SEC("?tp_btf/kfree_skb")
int BPF_PROG(note_drop, struct sk_buff *skb, void *location)
{
	int reason = has_reason ? (int)ctx[2] : -1;
	struct sock *sk = has_rx_sk ? (struct sock *)ctx[3] : NULL;
	struct segment seg;

	if (is_hidden(reason) || !(segment_read(&seg, skb) || segment_in_tunnel(&seg, skb)))
		return 0;
	if (sk && is_foreign(sk)) /* a copy, for a raw or packet socket */
		return 0;
	drop_note(&seg, skb, (__u64)location, reason);
	return 0;
}

/* ---------------------------------------------------------------- what is sent again */

struct look {
	struct drop of;  /* its flow, seq and end, and total_retrans before it was sent again */
	__u64 before_ns; /* what is later became of the retransmission itself */
	__u64 now_ns;
	__u64 counted; /* it was sent again */
};

/* What a program needs at the end takes the place of what it needs before: its stack and those of its functions are full. */
union key_or_look {
	struct group_key key;
	struct look look;
};

struct drop_found {
	struct drop_cause cause; /* of the first one, or of one that may be its */
	__u32 bytes;
	__u8 translated;
	__u8 forgotten;
	__u8 pad[2];
};

/* Whether what was at `ns`, 0 if it never was, may be why something is sent again now. */
static __always_inline bool is_recent(__u64 ns, __u64 now_ns)
{
	return ns && now_ns - ns <= DROP_LASTS_NS;
}

static __always_inline bool is_earlier(const struct drop *known, const struct look *look)
{
	if (known->has_total && look->of.has_total)
		return (__s32)(look->of.total_retrans - known->total_retrans) >= 0;
	return known->ns < look->before_ns;
}

/* Takes out what is sent again. What lies between two rests has to be given up. */
static __always_inline void drop_cut(struct drop_bucket *bucket, struct drop *known, __u32 seq, __u32 end)
{
	bool head = (__s32)(known->seq - seq) < 0;
	bool tail = (__s32)(known->end - end) > 0;

	if (head && tail)
		bucket->forgotten_ns = known->ns;
	if (head)
		known->end = seq;
	else if (tail)
		known->seq = end;
	else
		known->ns = 0;
}

/*
 * A global function, whose instructions the verifier goes through once, and not for each state of its callers: before
 * 6.4 these never were alike, and the callers too large (1,000,000 instructions). Its arguments need 5.13: only the
 * programs of --why call it.
 */
int bucket_look(struct drop_found *found, const struct look *look, __u32 block);
__noinline int bucket_look(struct drop_found *found, const struct look *look, __u32 block)
{
	struct drop_bucket *bucket = look && found ? bucket_of(block) : NULL;

	if (!bucket)
		return 0;
	__u32 seq = look->of.seq, end = look->of.end;
	bpf_spin_lock(&bucket->lock);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < DROP_WAYS; i++) {
		struct drop *known = &bucket->drop[i];
		/* Whether they overlap: the end lies behind `seq`, by less than both are long. */
		__u32 behind = known->end - seq, both = known->end - known->seq + (end - seq);
		if (behind - 1 >= both - 1 || !is_recent(known->ns, look->now_ns) || !is_earlier(known, look))
			continue;
		bool is_its = !other_flow(known, &look->of);
		if (is_its ? !found->bytes : !(found->bytes | found->translated))
			found->cause = known->cause;
		if (!is_its) {
			found->translated = 1;
			continue;
		}
		__s32 from = known->seq - seq, to = behind, len = end - seq;
		found->bytes += (to < len ? to : len) - (from > 0 ? from : 0);
		if (look->counted)
			drop_cut(bucket, known, seq, end);
	}
	__u64 forgotten_ns = bucket->forgotten_ns;
	bpf_spin_unlock(&bucket->lock);
	if (is_recent(forgotten_ns, look->now_ns))
		found->forgotten = 1;
	return 0;
}

/* Also what begins in the block before. */
static __always_inline void blocks_look(struct drop_found *found, const struct look *look)
{
	__u32 block = (look->of.seq >> BLOCK_SHIFT) - 1;
	__u32 blocks = (((look->of.end - 1) >> BLOCK_SHIFT) - block) & (~0U >> BLOCK_SHIFT);

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < LOOK_BLOCKS && i <= blocks; i++)
		bucket_look(found, look, block + i);
	if (blocks >= LOOK_BLOCKS || is_recent(long_drop.ns, look->now_ns))
		found->forgotten = 1;
}

static __always_inline enum drop_verdict verdict_of(const struct retrans *e, __u32 bytes)
{
	if (e->drop_bytes)
		return e->drop_bytes >= bytes ? DROP_ALL : DROP_PART;
	if (e->translated)
		return DROP_TRANSLATED;
	if (e->before_start)
		return DROP_BEFORE_START;
	return e->forgotten ? DROP_FORGOTTEN : DROP_NONE;
}

/* `look` has what decides whether a drop is an earlier one. */
static __noinline int why_fill(struct retrans *e, struct look *look)
{
	if (!e || !look)
		return 0;
	__u32 bytes = e->len + (e->tcp_flags >> 1 & 1) + (e->tcp_flags & 1); /* SYN and FIN count as one each */

	__builtin_memcpy(look->of.from, e->head.flow.laddr, 16);
	__builtin_memcpy(look->of.to, e->head.flow.raddr, 16);
	look->of.from_port = e->head.flow.lport;
	look->of.to_port = e->head.flow.rport;
	look->of.seq = e->seq;
	look->of.end = e->seq + bytes;
	look->counted = e->counted;
	struct drop_found found = {};
	blocks_look(&found, look);
	e->drop_place = found.cause.place;
	e->drop_reason = found.cause.reason;
	e->drop_netns = found.cause.netns;
	e->drop_bytes = found.bytes;
	e->translated = found.translated;
	e->forgotten = found.forgotten;
	e->verdict = verdict_of(e, bytes);
	return 0;
}

static __always_inline __u64 sent_mark(struct tcp_sock *tp)
{
	return 1ULL << 32 | tp->snd_nxt;
}

/* Whether it may have been sent before this was seen: by a socket that was there, or of which nothing is known. */
static __always_inline bool is_from_before(__u32 seq, struct sock_state *s, struct tcp_sock *tp)
{
	if (!s)
		return true;
	if (s->tool.begun)
		return false;
	if (!s->tool.sent_before)
		s->tool.sent_before = sent_mark(tp);
	return (__s32)(seq - (__u32)s->tool.sent_before) < 0;
}

/*
 * The kernel looks at its clock before it sends a segment again, but for one that was too large for its path
 * (net/ipv4/tcp_ipv4.c: tcp_v4_mtu_reduced).
 */
static __always_inline void why_segment(struct retrans *e, struct sock_state *s, struct tcp_sock *tp, struct look *look)
{
	__builtin_memset(look, 0, sizeof(*look));
	look->now_ns = bpf_ktime_get_ns();
	look->before_ns = e->kind == KIND_OTHER ? look->now_ns : tp->tcp_clock_cache;
	look->of.has_total = 1;
	look->of.total_retrans = tp->total_retrans - (e->counted ? e->segs : 0);
	e->before_start = is_from_before(e->seq, s, tp);
	why_fill(e, look);
}

static __always_inline void why_synack(struct retrans *e, struct request_sock *req, struct look *look)
{
	__builtin_memset(look, 0, sizeof(*look));
	look->now_ns = bpf_ktime_get_ns();
	look->before_ns = look->now_ns; /* sent with softirqs off: what became of it comes later */
	__u64 first_ns = BPF_CORE_READ((struct tcp_request_sock *)req, snt_synack) * 1000;
	e->before_start = !drops_seen.since_ns || first_ns < drops_seen.since_ns;
	why_fill(e, look);
}

#endif
