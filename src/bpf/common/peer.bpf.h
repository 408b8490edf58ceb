/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ends of connections, as they are looked up by user space (src/kernel/peers.rs).
 *
 * The two ends of a connection agree on two numbers that no others have: where the sequence numbers of each direction
 * begin (RFC 9293, 3.4: ISS and IRS). What one end sends from is what the other receives from, whatever addresses, ports
 * and namespaces are in between; only what rewrites sequence numbers (SYNPROXY, connection tracking helpers) breaks that.
 */
#ifndef TCPTOOLS_PEER_BPF_H
#define TCPTOOLS_PEER_BPF_H

#include "filter.bpf.h"

/* The sequence numbers of the first byte of data: ISS + 1 and IRS + 1. The other end has them the other way round. */
struct numbers {
	__u32 snd;
	__u32 rcv;
};

/* One end, by its numbers. */
struct end {
	__u64 cookie; /* of its socket; 0: unknown */
	struct flow flow;
	__u32 netns;
	struct owner owner;
};

/* Where a row finds its own end. */
struct place {
	struct flow flow;
	__u32 netns;
};

/* What is there: the last connection between these addresses. */
struct placed {
	struct numbers numbers;
	__u64 cookie;
};

#endif
