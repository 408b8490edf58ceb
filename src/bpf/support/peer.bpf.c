/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * --peer: notes both ends of each connection of this host, with their owners. Loaded beside a command's own programs,
 * which do not know of it: without the flag nothing of this exists, and a filter that hides one end does not hide it
 * from the rows of the other.
 *
 * An end is noted when it is established, under its numbers (peer.bpf.h); when its owner changes, it is replaced. At
 * CLOSE it moves to a table that drops the oldest, for rows that are read later. What has no room among those that are
 * open is counted, and goes there at once.
 */
#include "kernel/kernel.h"

struct connection {
	__u32 snd; /* struct numbers */
	__u32 rcv;
	__u32 noted;
	__u32 pad;
};

#define TOOL_STATE struct connection
#include "tcp.bpf.h"
#include "owner/nested.bpf.h"
#include "bytes.bpf.h"
#include "peer.bpf.h"

enum { MAX_PAST = 16 * 1024 };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); /* user space sets the size of this and the next one */
	__type(key, struct numbers);
	__type(value, struct end);
} ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct place);
	__type(value, struct placed);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PAST);
	__type(key, struct numbers);
	__type(value, struct end);
} past_ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PAST);
	__type(key, struct place);
	__type(value, struct placed);
} past_places SEC(".maps");

/* ---------------------------------------------------------------- the tables */

static __always_inline struct numbers numbers_kept(const struct sock_state *s)
{
	return (struct numbers){.snd = s->tool.snd, .rcv = s->tool.rcv};
}

static __always_inline void place_fill(struct place *place, const struct end *end)
{
	place->flow = end->flow;
	place->netns = end->netns;
}

/*
 * Both counters start with the first byte of data and grow with what they are taken from, but for a SYN of our own, which
 * bytes_acked includes (net/ipv4/tcp_input.c: tcp_snd_una_update, tcp_rcv_nxt_update).
 */
static __always_inline struct numbers numbers_of(struct tcp_sock *tp, bool active)
{
	struct numbers numbers = {
		.snd = tp->snd_una - (__u32)tp->bytes_acked + active,
		.rcv = tp->rcv_nxt - (__u32)tp->bytes_received,
	};

	return numbers;
}

/* Moves it to what is past. What another connection has put in its place stays. */
static __always_inline void end_retire(struct sock_state *s)
{
	struct numbers numbers = numbers_kept(s);
	struct place place;

	s->tool.noted = 0;
	struct end *end = bpf_map_lookup_elem(&ends, &numbers);
	if (!end)
		return;
	place_fill(&place, end);
	/* First there, then no more here: user space looks in this order the other way round. */
	bpf_map_update_elem(&past_ends, &numbers, end, BPF_ANY);
	bpf_map_delete_elem(&ends, &numbers);
	struct placed *placed = bpf_map_lookup_elem(&places, &place);
	if (!placed || placed->numbers.snd != numbers.snd || placed->numbers.rcv != numbers.rcv)
		return;
	bpf_map_update_elem(&past_places, &place, placed, BPF_ANY);
	bpf_map_delete_elem(&places, &place);
}

static __always_inline void end_note(struct sock_state *s, struct sock *sk, struct tcp_sock *tp, bool active)
{
	struct placed placed = {.numbers = numbers_of(tp, active), .cookie = cookie_of(sk)};
	struct end end;
	struct place place;

	end.cookie = placed.cookie;
	end.netns = netns_of(sk);
	flow_of(&end.flow, sk, tp);
	owner_find(&end.owner, s, sk);
	place_fill(&place, &end);
	if (bpf_map_update_elem(&ends, &placed.numbers, &end, BPF_ANY)) {
		__sync_fetch_and_add(&counters.uncounted, 1);
		bpf_map_update_elem(&past_ends, &placed.numbers, &end, BPF_ANY);
	}
	if (bpf_map_update_elem(&places, &place, &placed, BPF_ANY))
		bpf_map_update_elem(&past_places, &place, &placed, BPF_ANY);
	s->tool.snd = placed.numbers.snd;
	s->tool.rcv = placed.numbers.rcv;
	s->tool.noted = 1;
}

/* Its owner is another one. Replaced as a whole: whoever reads it sees the old one or the new one. */
static __always_inline void end_renew(struct sock_state *s, struct sock *sk)
{
	struct numbers numbers = numbers_kept(s);
	struct end *noted = bpf_map_lookup_elem(&ends, &numbers);
	struct end end;

	if (!noted)
		return;
	end = *noted;
	end.cookie = cookie_of(sk); /* until 5.12 a socket may have got one since */
	owner_find(&end.owner, s, sk);
	bpf_map_update_elem(&ends, &numbers, &end, BPF_ANY);
}

/* ---------------------------------------------------------------- from ESTABLISHED to CLOSE */

static __always_inline bool is_connected(int state)
{
	return state != TCP_CLOSE && state != TCP_LISTEN && state != TCP_SYN_SENT && state != TCP_SYN_RECV &&
	       state != TCP_NEW_SYN_RECV;
}

/* The others change neither the numbers nor who has it. */
static __always_inline bool is_followed(int old, int new)
{
	return new == TCP_CLOSE || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK || new == TCP_SYN_SENT ||
	       new == TCP_LISTEN || new == TCP_ESTABLISHED || (old == TCP_LISTEN && new == TCP_SYN_RECV);
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !is_followed(old, new) || protocol_of(sk) != IPPROTO_TCP)
		return;
	struct sock_state *s = new == TCP_CLOSE ? state_find(sk) : state_make(sk);
	if (!s || !claim_change(s, old, new))
		return;
	if (new == TCP_SYN_SENT || new == TCP_LISTEN || new == TCP_SYN_RECV)
		s->tool.noted = 0; /* a new use, or the copy of a listener */
	if (new != TCP_ESTABLISHED)
		owner_on_state_change(s, sk, old, new);
	struct tcp_sock *tp = tcp_of(sk);
	if (!tp)
		return;
	bool opens = new == TCP_ESTABLISHED;
	if (opens || (!s->tool.noted && is_connected(old)))
		end_note(s, sk, tp, opens ? old == TCP_SYN_SENT : opened_here(tp, old));
	else if (s->tool.noted)
		end_renew(s, sk);
	if (new != TCP_CLOSE)
		return;
	if (s->tool.noted)
		end_retire(s);
	state_end(s, sk);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* Whoever reads has the socket: an accepted one is its listener's until then. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(note_reader, struct sock *sk)
{
	struct sock_state *s = state_find(sk);

	if (s && owner_is_current(s))
		return 0;
	if (protocol_of(sk) != IPPROTO_TCP)
		return 0;
	if (!s) /* it was there already, and no process had accepted it */
		s = state_make(sk);
	struct tcp_sock *tp = tcp_of(sk);
	if (!s || !tp)
		return 0;
	int state = sk->__sk_common.skc_state;
	__u8 version = s->owner.version;
	owner_act(s, sk);
	if (s->tool.noted && s->owner.version != version)
		end_renew(s, sk);
	else if (!s->tool.noted && is_connected(state))
		end_note(s, sk, tp, opened_here(tp, state));
	return 0;
}

/* ---------------------------------------------------------------- connections that are there already */

/*
 * The iterator holds no lock. What changes under its eyes is noted later, by an event of the socket; what is read between
 * the two halves of one change has numbers that are nobody's, and no other end.
 */
static __always_inline void end_scan(struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	int state = sk->__sk_common.skc_state;

	if (!tp || !is_connected(state) || s->tool.noted)
		return;
	struct numbers before = numbers_of(tp, opened_here(tp, state));
	barrier();
	bool active = opened_here(tp, state);
	struct numbers after = numbers_of(tp, active);
	if (before.snd == after.snd && before.rcv == after.rcv)
		end_note(s, sk, tp, active);
}

#define OWN_SET_STATE
#define OWN_READER
#define SOCK_SCAN(sk, tp, s) end_scan(sk, tp, s)
#include "owner/owner.bpf.h"
