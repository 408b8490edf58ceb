/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What needs no type of the kernel's: the configuration, the counters, flows, owners, and the filters that these
 * decide. So it serves the programs of kernels without type information, too (record.bpf.c).
 */
#ifndef TCPTOOLS_FILTER_BPF_H
#define TCPTOOLS_FILTER_BPF_H

#include "config.bpf.h"
#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* A struct used only behind a pointer from the ring buffer is not in the object's BTF; this puts it there. */
#define EXPORT_TYPE(type) const struct type *type##_exported __attribute__((unused))

/* ---------------------------------------------------------------- what userspace reads */

struct counters {
	__u64 lost;      /* events for which the ring buffer had no room */
	__u64 untracked; /* events of sockets for which no state could be kept: no memory, or a full table */
	__u64 uncounted; /* occurrences that a full table of counts or histograms had no room for */
	__u64 filtered;  /* events that a filter turned away; only with config.stats */
};

enum { PID_UNKNOWN, PID_SOCKET, PID_LISTENER, PID_SEED };

/* Who owns a socket: the process, never the task that happened to be on the CPU. */
struct owner {
	__u32 pid; /* thread group id; 0: a process that is not in the pid namespace of config */
	__u8 source;
	__u8 version; /* of what is kept with a socket: another one after each change */
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
	__u32 ifindex; /* the link of a link-local address (RFC 4007: its zone); 0: neither is one, or not known */
};

/* The head of every record that reaches userspace. */
struct head {
	__u64 boot_ns; /* CLOCK_BOOTTIME */
	__u64 cookie; /* 0: unknown */
	struct flow flow;
	__u32 netns; /* inode number of the network namespace; before the owner, whose name is compared in words */
	struct owner owner;
	__u32 uid;
	__u32 event; /* the tool's own enum */
};

struct counters counters SEC(".data.counters") = {};

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
 * Clears what follows the terminating zero: until 5.17 the kernel leaves the rest of a longer former name there
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

static __always_inline bool in_ranges(const volatile struct range_list *list, __u32 value)
{
	bool found = false;

	for (__u32 i = 0; i < MAX_RANGES && i < list->n; i++)
		found |= value >= list->range[i].lo && value <= list->range[i].hi;
	return found != !!list->negate;
}

static __always_inline bool in_ids(const volatile struct id_list *list, __u64 id)
{
	bool found = false;

	for (__u32 i = 0; i < MAX_IDS && i < list->n; i++)
		found |= list->id[i] == id;
	return found != !!list->negate;
}

static __always_inline bool in_cidrs(const volatile struct cidr_list *list, const __u8 *addr, const struct flow *flow)
{
	__u64 hi = *(__u64 *)addr, lo = *(__u64 *)(addr + 8);
	bool found = false;

	for (__u32 i = 0; i < MAX_CIDRS && i < list->n; i++)
		found |= list->cidr[i].family == flow->family && (hi & list->cidr[i].mask[0]) == list->cidr[i].addr[0] &&
			 (lo & list->cidr[i].mask[1]) == list->cidr[i].addr[1] &&
			 (!list->cidr[i].ifindex || list->cidr[i].ifindex == flow->ifindex);
	return found;
}

static __always_inline bool in_comms(const volatile struct comm_list *list, const __u8 *comm)
{
	__u64 a = *(__u64 *)comm, b = *(__u64 *)(comm + 8);
	bool found = false;

	for (__u32 i = 0; i < MAX_COMMS && i < list->n; i++)
		found |= list->comm[i][0] == a && list->comm[i][1] == b;
	return found != !!list->negate;
}

static __always_inline bool in_ports(const volatile struct port_set *ports, __u16 port)
{
	__u64 bit = port;

	/* Before 6.18 the verifier does not know that a byte-swapped port has 16 bits: the mask must stay. */
	barrier_var(bit);
	return ports->bits[bit >> 3 & (sizeof(ports->bits) - 1)] >> (bit & 7) & 1;
}

static __always_inline bool flow_wanted(const struct flow *flow)
{
	const volatile struct filter_set *set = &config.set;
	const volatile struct filter *f = &config.filter;

	if (!set->flow)
		return true;
	if (set->family && set->family != flow->family)
		return false;
	if (set->lport && in_ports(&f->lport, flow->lport) == !!f->lport.negate)
		return false;
	if (set->rport && in_ports(&f->rport, flow->rport) == !!f->rport.negate)
		return false;
	if (set->port && (in_ports(&f->port, flow->lport) || in_ports(&f->port, flow->rport)) == !!f->port.negate)
		return false;
	if (set->laddr && in_cidrs(&f->laddr, flow->laddr, flow) == !!f->laddr.negate)
		return false;
	if (set->raddr && in_cidrs(&f->raddr, flow->raddr, flow) == !!f->raddr.negate)
		return false;
	if (set->addr && (in_cidrs(&f->addr, flow->laddr, flow) || in_cidrs(&f->addr, flow->raddr, flow)) == !!f->addr.negate)
		return false;
	return true;
}

/* An unknown owner matches no pid and no comm, not even a negated one: nothing is claimed of it. */
static __always_inline bool owner_wanted(const struct owner *owner)
{
	const volatile struct filter_set *set = &config.set;
	const volatile struct filter *f = &config.filter;

	if ((set->pid || set->comm) && owner->source == PID_UNKNOWN)
		return false;
	if (set->pid && !in_ranges(&f->pid, owner->pid))
		return false;
	return !set->comm || in_comms(&f->comm, owner->comm);
}

#endif
