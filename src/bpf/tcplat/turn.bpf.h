/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A turn of a connection: its record, its parts, and what is made of it. Part of tcplat.bpf.c. */
#ifndef TCPTOOLS_TURN_BPF_H
#define TCPTOOLS_TURN_BPF_H

#include "kernel/kernel.h"
#include "sample.bpf.h"
#include "times.bpf.h"

#define TIME_UNKNOWN (~0ULL)

enum role { ROLE_UNKNOWN, ROLE_SERVER, ROLE_CLIENT };

/* What the last calls of a connection did. */
enum phase { PHASE_NONE, PHASE_RECEIVING, PHASE_SENDING };

/* Times are CLOCK_BOOTTIME in ns. */
struct talk {
	struct sample sample;
	__u64 last_ns;       /* the last call of this phase */
	__u64 ready_ns;      /* since when data has been there that nobody has read; 0: none */
	__u64 open_ns;       /* a passive open of which nobody has read: its handshake; 0: others */
	__u64 accept_ns;     /* from then to its first call; 0: unknown, or told */
	__u64 first_read_ns; /* from then to its first data; the same */
	__u64 unread_ns;     /* the longest that data of the request waited; or TIME_UNKNOWN */
	__u64 bytes;         /* of the request so far */
	__u64 rx, tx;        /* that no turn has counted yet */
	__u32 calls;         /* of the request so far */
	__u32 retrans;       /* total_retrans when the request began */
	__u32 sent_ms;       /* the last send; 0: none yet */
	__u32 cwnd;          /* the congestion window, as the last call has seen it */
	__u32 restarts;      /* sends that began with a smaller window after a pause, and no turn has counted yet */
	__u8 role;
	__u8 phase;
	__u8 called;     /* a process has made a call on it */
	__u8 came_early; /* `ready_ns`: before the connection was accepted */
};

#define TOOL_STATE struct talk
#include "tcp.bpf.h"
#include "hist.bpf.h"

EXPORT_ENUM(role);

/* Where the largest part of a turn went. */
enum part { PART_APP, PART_READ, PART_NETWORK, PART_PEER };
EXPORT_ENUM(part);

struct turn {
	struct head head;
	__u64 turn_us;    /* server: last receive to first send; client: last send to first receive */
	__u64 unread_us;  /* the longest that data waited for its reader; or TIME_UNKNOWN */
	__u64 network_us; /* a client's: the part of the network; or TIME_UNKNOWN */
	__u64 accept_us;  /* these two: of a server's first turn; or TIME_UNKNOWN */
	__u64 first_read_us;
	__u64 request_bytes;
	__u64 answer_bytes; /* of its first call */
	__u32 request_calls;
	__u32 retrans;    /* segments that this end has sent again since the request began */
	__u32 srtt_us;    /* 0: none measured */
	__u32 min_rtt_us; /* ~0: none measured */
	__u32 restarts;
	__u8 role;
	__u8 part;
	__u8 pipelined;
	__u8 pad[1];
};
EXPORT_TYPE(turn);

/* Sums of turns. */
struct turn_sum {
	struct hist turns; /* us */
	__u64 part_us[4];  /* by enum part */
	__u64 unread_max_us;
	__u64 srtt_us; /* these two: of all turns that have one, and how many have */
	__u64 min_rtt_us;
	__u64 rtts;
	__u64 rx;
	__u64 tx;
	__u64 retrans;
	__u64 pipelined;
	__u64 restarts;
};
EXPORT_TYPE(turn_sum);

/* One entry until user space sets the size: an unused table takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct group_key);
	__type(value, struct turn_sum);
} turn_sums SEC(".maps");

/* Too large for the stack. */
static const struct turn_sum sum_empty = {};

enum mode { MODE_ROWS, MODE_HIST, MODE_SUMMARY };
EXPORT_ENUM(mode);
const volatile __u32 mode = MODE_ROWS;

/* What a histogram is of. */
enum measure { MEASURE_APP, MEASURE_WAIT, MEASURE_UNREAD };
EXPORT_ENUM(measure);

const volatile __u64 min_us = 0;

/* Sums are by the server's end: of a client that of the other end. The keys have both ends, and one is left out here. */
const volatile bool by_server = false;

/* ---------------------------------------------------------------- a turn, and its parts */

struct times {
	__u64 turn_us;
	__u64 unread_us;  /* or TIME_UNKNOWN */
	__u64 part_us[4]; /* by enum part */
	__u8 part;
	__u8 pad[7];
};

/*
 * A server's turn is the application's; that its data was read late comes before it. Of a client's, what its data
 * waited unread is its own. The network takes the shortest round trip of late, not the average: an acknowledgement may
 * ride on the answer, and then the time of the other end is in the sample (delayed acknowledgements take up to 40 ms).
 * If a segment of the request was lost, all is the network's.
 */
static __always_inline void times_find(struct times *times, const struct talk *talk, __u64 unread_ns, __u32 retrans,
				       __u32 min_rtt_us, __u64 now)
{
	__u64 turn = now > talk->last_ns ? (now - talk->last_ns) / 1000 : 0;
	__u64 unread = unread_ns == TIME_UNKNOWN ? 0 : unread_ns / 1000;

	__builtin_memset(times, 0, sizeof(*times));
	times->turn_us = turn;
	times->unread_us = unread_ns == TIME_UNKNOWN ? TIME_UNKNOWN : unread;
	if (talk->role == ROLE_SERVER) {
		times->part_us[PART_APP] = turn;
		times->part_us[PART_READ] = unread;
		times->part = unread > turn ? PART_READ : PART_APP;
		return;
	}
	__u64 away = turn - unread;
	__u64 network = retrans || min_rtt_us > away ? away : min_rtt_us;
	__u64 peer = away - network;
	times->part_us[PART_READ] = unread;
	times->part_us[PART_NETWORK] = network;
	times->part_us[PART_PEER] = peer;
	if (unread > network && unread > peer)
		times->part = PART_READ;
	else
		times->part = peer > network ? PART_PEER : PART_NETWORK;
}

static __always_inline __u64 known_us(__u64 ns)
{
	return ns ? ns / 1000 : TIME_UNKNOWN;
}

/* The client's end of a flow is another one for each connection. */
static __always_inline void flow_of_server(struct flow *flow, __u8 role)
{
	if (role == ROLE_SERVER) {
		__builtin_memset(flow->raddr, 0, sizeof(flow->raddr));
		flow->rport = 0;
	} else {
		__builtin_memset(flow->laddr, 0, sizeof(flow->laddr));
		flow->lport = 0;
	}
}

static __always_inline struct turn_sum *sum_of(struct group_key *key, struct sock *sk, const struct owner *owner,
					       __u8 role)
{
	group_fill(key, sk, owner, role);
	if (by_server)
		flow_of_server(&key->flow, role);
	struct turn_sum *sum = bpf_map_lookup_elem(&turn_sums, key);
	if (!sum) {
		bpf_map_update_elem(&turn_sums, key, &sum_empty, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&turn_sums, key);
	}
	return sum;
}

static __always_inline void bytes_add(struct turn_sum *sum, __u64 rx, __u64 tx)
{
	__sync_fetch_and_add(&sum->rx, rx);
	__sync_fetch_and_add(&sum->tx, tx);
}

static __always_inline void turn_add(struct turn_sum *sum, const struct talk *talk, const struct times *times,
				     struct tcp_sock *tp, __u32 retrans, bool pipelined)
{
	hist_count(&sum->turns, times->turn_us);
	for (int i = 0; i < 4; i++)
		__sync_fetch_and_add(&sum->part_us[i], times->part_us[i]);
	if (times->unread_us != TIME_UNKNOWN && times->unread_us > sum->unread_max_us)
		sum->unread_max_us = times->unread_us;
	if (tp->srtt_us) {
		__sync_fetch_and_add(&sum->srtt_us, tp->srtt_us >> 3);
		__sync_fetch_and_add(&sum->min_rtt_us, tp->rtt_min.s[0].v);
		__sync_fetch_and_add(&sum->rtts, 1);
	}
	__sync_fetch_and_add(&sum->retrans, retrans);
	__sync_fetch_and_add(&sum->pipelined, pipelined);
	__sync_fetch_and_add(&sum->restarts, talk->restarts);
}

/* `key` has the flow already. */
static __always_inline void hist_turn(struct group_key *key, struct sock *sk, const struct owner *owner,
				      const struct times *times, __u8 role)
{
	group_fill(key, sk, owner, role == ROLE_SERVER ? MEASURE_APP : MEASURE_WAIT);
	hist_add(key, times->turn_us);
	if (times->unread_us == TIME_UNKNOWN)
		return;
	key->kind = MEASURE_UNREAD;
	hist_add(key, times->unread_us);
}

static __always_inline void turn_fill(struct turn *e, const struct talk *talk, const struct times *times,
				      struct tcp_sock *tp)
{
	e->turn_us = times->turn_us;
	e->unread_us = times->unread_us;
	e->network_us = talk->role == ROLE_CLIENT ? times->part_us[PART_NETWORK] : TIME_UNKNOWN;
	e->accept_us = known_us(talk->accept_ns);
	e->first_read_us = known_us(talk->first_read_ns);
	e->request_bytes = talk->bytes;
	e->request_calls = talk->calls;
	e->srtt_us = tp->srtt_us >> 3;
	e->min_rtt_us = tp->rtt_min.s[0].v;
	e->restarts = talk->restarts;
	e->role = talk->role;
	e->part = times->part;
	__builtin_memset(e->pad, 0, sizeof(e->pad));
}

/* What ends a turn: the first call of the answer. */
struct answer {
	__u64 now;
	__u64 unread_ns;
	__u32 bytes;
	bool pipelined;
	__u8 pad[3];
};

/* A function, whose stack is not added to that of what is below state_make(). */
static __noinline int on_turn(struct sock *sk, struct sock_state *s, struct tcp_sock *tp, const struct answer *answer)
{
	struct talk *talk = &s->tool;
	struct group_key key;
	struct flow *flow = &key.flow;
	struct times times;
	struct owner owner;

	__u32 retrans = tp->total_retrans - talk->retrans;
	times_find(&times, talk, answer->unread_ns, retrans, tp->rtt_min.s[0].v, answer->now);
	if (times.turn_us < min_us && (times.unread_us == TIME_UNKNOWN || times.unread_us < min_us)) {
		count_filtered();
		return nothing();
	}
	flow_of(flow, sk, tp);
	if (!passes_filters(sk, flow, s, &owner))
		return nothing();
	if (!sample_due(&talk->sample, answer->now, 0)) {
		count_filtered();
		return nothing();
	}
	if (mode == MODE_HIST) {
		hist_turn(&key, sk, &owner, &times, talk->role);
		return nothing();
	}
	if (mode == MODE_SUMMARY) {
		struct turn_sum *sum = sum_of(&key, sk, &owner, talk->role);
		if (!sum) {
			loss_count(&counters.uncounted, 1);
			return nothing();
		}
		turn_add(sum, talk, &times, tp, retrans, answer->pipelined);
		bytes_add(sum, talk->rx, talk->tx);
		return nothing();
	}
	struct turn *e = event_reserve(sizeof(*e));
	if (!e)
		return nothing();
	head_fill_at(&e->head, answer->now, sk, flow, &owner, 0);
	turn_fill(e, talk, &times, tp);
	e->answer_bytes = answer->bytes;
	e->retrans = retrans;
	e->pipelined = answer->pipelined;
	event_submit(e, sizeof(*e));
	return nothing();
}

static __always_inline void turn_end(struct sock *sk, struct sock_state *s, struct tcp_sock *tp,
				     const struct answer *answer)
{
	CALL(on_turn(sk, s, tp, answer));
	s->tool.rx = s->tool.tx = 0;
	s->tool.accept_ns = s->tool.first_read_ns = 0;
	s->tool.restarts = 0;
}

#endif
