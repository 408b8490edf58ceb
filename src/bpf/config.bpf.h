/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What userspace sets before the programs are loaded (src/session.rs): constants to the verifier. */
#ifndef TCPTOOLS_CONFIG_BPF_H
#define TCPTOOLS_CONFIG_BPF_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>

/*
 * What the running kernel denies to tracing programs, found by trying (src/lacks.rs). The verifier knows these values
 * and never looks at the branch that is not taken.
 */
struct lacks {
	__u8 sk_storage;    /* per-socket storage, and the way from a file to its socket: since 5.11 */
	__u8 socket_cookie; /* since 5.12 */
	__u8 task_btf;      /* the current task as a typed pointer: since 5.11 */
	__u8 ring_buffer;   /* since 5.8; without it only tracepoints' records are read (src/record/) */
	__u8 pad[4];
};

enum { MAX_RANGES = 64, MAX_CIDRS = 32, MAX_IDS = 32, MAX_COMMS = 16 };

struct range {
	__u32 lo, hi; /* both inclusive */
};

struct range_list {
	__u32 n;
	__u32 negate;
	struct range range[MAX_RANGES];
};

struct cidr {
	__u64 addr[2]; /* as the address lies in memory, IPv4 as ::ffff:a.b.c.d, host bits clear */
	__u64 mask[2];
	__u32 family;  /* 4 or 6: ::/0 is not IPv4, although its mapped form would match */
	__u32 ifindex; /* the zone of a link-local address; 0: any */
};

struct cidr_list {
	__u32 n;
	__u32 negate;
	struct cidr cidr[MAX_CIDRS];
};

struct id_list {
	__u32 n;
	__u32 negate;
	__u64 id[MAX_IDS];
};

struct comm_list {
	__u32 n;
	__u32 negate;
	__u64 comm[MAX_COMMS][2];
};

struct port_set {
	__u32 negate;
	__u8 bits[8192];
};

/* Every shared filter. */
struct filter {
	struct range_list pid;
	struct range_list uid;
	struct comm_list comm;
	struct id_list netns;
	struct id_list cgroup;
	struct cidr_list laddr;
	struct cidr_list raddr;
	struct cidr_list addr; /* either end */
	struct port_set lport;
	struct port_set rport;
	struct port_set port; /* either end */
};

/* Which of them are set: for an unset one no program has code. */
struct filter_set {
	__u8 pid, uid, comm, netns, cgroup;
	__u8 laddr, raddr, addr, lport, rport, port;
	__u8 family; /* 4, 6, or 0 for both */
	__u8 flow;   /* any of the seven before */
	__u8 mptcp;  /* show MPTCP's connection-level sockets too */
	__u8 zone;   /* an address among them has a zone */
	__u8 pad;
};

/*
 * The verifier drops the branches that these values exclude, but the loads that ask for them stay in the program. So
 * what every event asks for lies in one cache line, away from the lists.
 */
struct config {
	struct lacks lacks;
	struct filter_set set;
	__u32 wake_bytes; /* wake the reader when so much waits, a power of two; below it, the reader's clock does */
	__u32 pid_ns;     /* inode number of the pid namespace whose ids are meant and shown; 0: the initial one */
	__u32 zero;       /* the key of a map of one element: on the stack it would touch one more page */
	__u32 stats;      /* --stats: count what the filters turn away */
	__u32 reader;     /* process id of the command itself, in pid_ns: it owns none of the sockets that it visits */
	__u32 pad;
	struct filter filter;
};
const volatile struct config config SEC(".rodata.config") __attribute__((aligned(64))) = {};

#endif
