/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that needs no kernel types: configuration, counters, flows, owners and their filters. So the fallback
 * programs can use it too (fallback.bpf.c).
 */
#ifndef TCPTOOLS_FILTER_BPF_H
#define TCPTOOLS_FILTER_BPF_H

#include "config.bpf.h"
#include "kernel/kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Puts a struct into the object's BTF that is otherwise used only through pointers into the ring buffer. */
#define EXPORT_TYPE(type) const struct type *type##_exported __attribute__((unused))
/* Likewise for an enum; Rust takes its values from there (src/abi/enums.rs). */
#define EXPORT_ENUM(name) const enum name *name##_exported __attribute__((unused))

/* ---------------------------------------------------------------- what userspace reads */

struct counters {
	__u64 lost;      /* events that did not fit into the ring buffer */
	__u64 untracked; /* events of sockets without state: out of memory, or the table was full */
	__u64 uncounted; /* occurrences that did not fit into a table of counts or histograms */
	__u64 filtered;  /* filtered events; only with config.stats */
	__u64 stored; /* TCP sockets that found no slot in the table (owner/table.bpf.h), and have their state elsewhere */
	__u32 asks; /* whether the next loss is to wake the reader (src/session/loss.rs) */
	__u32 pad;
};

enum pid_source { PID_UNKNOWN, PID_SOCKET, PID_LISTENER, PID_SCAN };

/* The process that owns a socket, never the task that happened to be on the CPU. */
struct owner {
	__u32 pid; /* thread group id; 0: a process that is not in the pid namespace of config */
	__u8 source;
	__u8 version; /* of the owner in socket state: changes with each update */
	__u8 pad[2];
	__u8 comm[16]; /* of the thread group's leader, as `ps -p` shows it */
};

struct flow {
	__u8 laddr[16]; /* network order, IPv4 as ::ffff:a.b.c.d */
	__u8 raddr[16];
	__u16 lport; /* host order */
	__u16 rport;
	__u8 family; /* 4 or 6; an IPv4-mapped address is 4 */
	__u8 pad[3];
	__u32 ifindex; /* the link of a link-local address (its zone, RFC 4007); 0: no link-local address, or unknown */
};

/* The head of every record that reaches userspace. */
struct head {
	__u64 boot_ns; /* CLOCK_BOOTTIME */
	__u64 cookie;  /* 0: unknown */
	__u64 cgroup;  /* id of the v2 cgroup that the socket was created in; 0: unknown */
	struct flow flow;
	__u32 netns; /* inode number of the network namespace; before the owner, whose name is compared in words */
	struct owner owner;
	__u32 uid;
	__u16 event; /* the tool's own enum */
	__u16 known; /* which fields have a value: src/abi/known.rs */
};

/* Programs with BTF know every field; other records are made in user space. */
#define KNOWN_ALL 0xffff

struct counters counters SEC(".data.counters") = {.asks = 1};

/* ---------------------------------------------------------------- flows and names */

static __always_inline bool is_v4_mapped(const __u8 *addr)
{
	return *(__u64 *)addr == 0 && *(__u32 *)(addr + 8) == bpf_htonl(0xffff);
}

static __always_inline bool is_link_local(const __u8 *addr)
{
	return (*(__u16 *)addr & bpf_htons(0xffc0)) == bpf_htons(0xfe80);
}

static __always_inline bool has_zone(const struct flow *flow)
{
	return is_link_local(flow->laddr) || is_link_local(flow->raddr);
}

static __always_inline void map_v4(__u8 *to, __be32 addr)
{
	__u64 *word = (__u64 *)to;

	word[0] = 0;
	word[1] = bpf_htonl(0xffff) | (__u64)addr << 32;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "map_v4 assumes little endian"
#endif
}

/*
 * Clears the bytes after the terminating NUL, where kernels until 5.17 leave the rest of a longer former name
 * (fs/exec.c: __set_task_comm), and names are compared as two words.
 */
static __always_inline void comm_tidy(__u64 *word)
{
	__u64 zero = (word[0] - 0x0101010101010101) & ~word[0] & 0x8080808080808080;

	if (zero) {
		word[0] &= (zero & -zero) - 1;
		word[1] = 0;
		return;
	}
	zero = (word[1] - 0x0101010101010101) & ~word[1] & 0x8080808080808080;
	if (zero)
		word[1] &= (zero & -zero) - 1;
}

/* ---------------------------------------------------------------- filters: all decide in the kernel, before a record is reserved */

static __always_inline bool has_number(const volatile struct range_list *list, __u32 value)
{
	bool found = false;

	for (__u32 i = 0; i < MAX_RANGES && i < list->n; i++)
		found |= value >= list->range[i].lo && value <= list->range[i].hi;
	return found;
}

static __always_inline bool has_id(const volatile struct id_list *list, __u64 id)
{
	bool found = false;

	for (__u32 i = 0; i < MAX_IDS && i < list->n; i++)
		found |= list->id[i] == id;
	return found;
}

static __always_inline bool has_addr(const volatile struct cidr_list *list, const __u8 *addr, const struct flow *flow)
{
	__u64 hi = *(__u64 *)addr, lo = *(__u64 *)(addr + 8);
	bool found = false;

	for (__u32 i = 0; i < MAX_CIDRS && i < list->n; i++)
		found |= list->cidr[i].family == flow->family &&
			 (hi & list->cidr[i].mask[0]) == list->cidr[i].addr[0] &&
			 (lo & list->cidr[i].mask[1]) == list->cidr[i].addr[1] &&
			 (!list->cidr[i].ifindex || list->cidr[i].ifindex == flow->ifindex);
	return found;
}

static __always_inline bool has_comm(const volatile struct comm_list *list, const __u8 *comm)
{
	__u64 a = *(__u64 *)comm, b = *(__u64 *)(comm + 8);
	bool found = false;

	for (__u32 i = 0; i < MAX_COMMS && i < list->n; i++)
		found |= list->comm[i][0] == a && list->comm[i][1] == b;
	return found;
}

static __always_inline bool has_port(const volatile struct port_set *list, __u16 port)
{
	__u64 bit = port;

	/* Keep the mask: before 6.18 the verifier does not know that a byte-swapped port has 16 bits. */
	barrier_var(bit);
	return list->bits[bit >> 3 & (sizeof(list->bits) - 1)] >> (bit & 7) & 1;
}

/* Returns from the calling function if this filter is set and rejects the event. */
#define REJECT(name, type, has)                                         \
	if (config.set.name) {                                          \
		const volatile struct type *list = &config.filter.name; \
		if ((has) == !!list->negate)                            \
			return false;                                   \
	}

static __always_inline bool flow_matches(const struct flow *flow)
{
	if (!config.set.flow)
		return true;
	if (config.set.family && config.set.family != flow->family)
		return false;
	FLOW_FILTERS(REJECT)
	return true;
}

/* An unknown owner matches no PID and no COMM filter, not even a negated one. */
static __always_inline bool owner_matches(const struct owner *owner)
{
#define X(name, type, has) || config.set.name
	if ((false OWNER_FILTERS(X)) && owner->source == PID_UNKNOWN)
		return false;
#undef X
	OWNER_FILTERS(REJECT)
	return true;
}

#endif
