/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Configuration that user space sets before the programs are loaded (src/session/). They are constants to the verifier,
 * so what is not asked for is dead code (docs/principles.md 3).
 */
#ifndef TCPTOOLS_CONFIG_BPF_H
#define TCPTOOLS_CONFIG_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

/*
 * Features the running kernel lacks, found by trying (src/kernel/features.rs). The verifier knows these values and
 * skips the dead branches.
 */
struct missing_features {
	__u8 sk_storage;    /* per-socket storage, and the way from a file to its socket: since 5.11 */
	__u8 socket_cookie; /* since 5.12 */
	__u8 task_btf;      /* the current task as a typed pointer: since 5.11 */
	__u8 ring_buffer;   /* since 5.8; without it the commands use the fallback (src/fallback/) */
	__u8 socket_table;  /* what owner/table.bpf.h needs: the cookie, and locks in maps (since 5.16) */
	__u8 pad[3];
};

/*
 * Numbers of types in the kernel's BTF (src/kernel/btf/), because libbpf is given only a part of it; 0: unknown.
 */
struct type_ids {
	__u32 sock;
	__u32 tcp_sock;
	__u32 task_struct;
	__u32 iphdr;
	__u32 ipv6hdr;
	__u32 tcphdr;
	__u32 dst_entry;
	__u32 rtable;
	__u32 rt6_info;
	__u32 skb_shared_info;
	__u32 sk_buff;
	__u32 pad;
};

enum { MAX_RANGES = 64, MAX_CIDRS = 32, MAX_IDS = 32, MAX_COMMS = 16, MAX_NAMES = 64, NAME_WORDS = 16 };

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

/* A name of a cgroup, or how it begins: the bytes that must be equal, with its NUL for a whole name. */
struct cgroup_pattern {
	__u64 bytes[NAME_WORDS];
	__u64 mask[NAME_WORDS];
};

struct name_list {
	__u32 n;
	__u32 negate;
	struct cgroup_pattern name[MAX_NAMES];
};

struct port_set {
	__u32 negate;
	__u32 pad;
	__u8 bits[8192];
};

/*
 * The list filters, one line each: name, type of the list, and the test. The flag and the same test in user space
 * (src/fallback/) are a line of the table in src/cli/filter/mod.rs.
 */
#define FLOW_FILTERS(X)                                                               \
	X(lport, port_set, has_port(list, flow->lport))                               \
	X(rport, port_set, has_port(list, flow->rport))                               \
	X(port, port_set, has_port(list, flow->lport) || has_port(list, flow->rport)) \
	X(laddr, cidr_list, has_addr(list, flow->laddr, flow))                        \
	X(raddr, cidr_list, has_addr(list, flow->raddr, flow))                        \
	X(addr, cidr_list, has_addr(list, flow->laddr, flow) || has_addr(list, flow->raddr, flow))
#define SOCK_FILTERS(X)                                      \
	X(netns, id_list, has_id(list, netns_of(sk)))        \
	X(uid, range_list, has_number(list, sk->sk_uid.val)) \
	X(cgroup, id_list, has_cgroup(list, sk))             \
	X(unit, name_list, cgroup_named(sk, CGROUP_OF_UNIT)) \
	X(container, name_list, cgroup_named(sk, CGROUP_OF_CONTAINER))
#define OWNER_FILTERS(X)                                 \
	X(pid, range_list, has_number(list, owner->pid)) \
	X(comm, comm_list, has_comm(list, owner->comm))
#define ALL_FILTERS(X) FLOW_FILTERS(X) SOCK_FILTERS(X) OWNER_FILTERS(X)

struct filter {
#define X(name, type, has) struct type name;
	ALL_FILTERS(X)
#undef X
};

/* Which filters are set; unset ones are removed as dead code. */
struct filter_set {
#define X(name, type, has) __u8 name;
	ALL_FILTERS(X)
#undef X
	__u8 family; /* 4, 6, or 0 for both */
	__u8 flow;   /* any of FLOW_FILTERS, or family */
	__u8 mptcp;  /* show MPTCP's connection-level sockets too */
	__u8 zone;   /* an address among them has a zone */
	__u8 pad[3];
};

/*
 * The verifier drops dead branches, but the loads of these values stay in the program. So what every event reads lies
 * in one cache line, away from the lists.
 */
struct config {
	struct missing_features missing;
	struct filter_set set;
	__u32 wake_bytes; /* wake the reader when this much waits, a power of two; see events.bpf.h */
	__u32 pid_ns;     /* inode number of the PID namespace for filters and output; 0: the initial one */
	__u32 zero;       /* the key of single-element maps: on the stack it would touch one more page */
	__u32 stats;      /* --stats: count filtered events */
	__u32 reader;     /* PID of the command itself, in pid_ns: it does not own the sockets it iterates over */
	struct type_ids types;
	__u32 table_shift; /* 32 less the bits of an index of the table (owner/table.bpf.h) */
	__u32 pad;
	struct filter filter;
};
const volatile struct config config SEC(".rodata.config") __attribute__((aligned(64))) = {};

#endif
