/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the members of a group have in common: the key of every table of counts, sums or histograms by a process, a flow, a
 * cgroup or whatever the user names. src/aggregate/group.rs is the same in user space.
 */
#ifndef TCPTOOLS_GROUP_BPF_H
#define TCPTOOLS_GROUP_BPF_H

#include "tcp.bpf.h"

/* What is grouped by, as bits. */
enum group_bits {
	GROUP_PID = 1,
	GROUP_COMM = 1 << 1,
	GROUP_UID = 1 << 2,
	GROUP_CGROUP = 1 << 3,
	GROUP_NETNS = 1 << 4,
	GROUP_LADDR = 1 << 5,
	GROUP_LPORT = 1 << 6,
	GROUP_RADDR = 1 << 7,
	GROUP_RPORT = 1 << 8,
};
EXPORT_ENUM(group_bits);

/* What is not grouped by is zero, and so is what is not known. */
struct group_key {
	struct flow flow;
	__u32 netns;
	__u64 cgroup;
	__u8 comm[16];
	__u32 pid;
	__u32 uid;
	__u32 kind; /* the tool's own enum */
	__u32 pad;
};
EXPORT_TYPE(group_key);

const volatile __u32 group_by = 0;

/* Takes from a flow what is not grouped by. */
static __always_inline void group_cut(struct flow *flow)
{
	if (!(group_by & (GROUP_LADDR | GROUP_RADDR)))
		flow->family = flow->ifindex = 0;
	if (!(group_by & GROUP_LADDR))
		__builtin_memset(flow->laddr, 0, sizeof(flow->laddr));
	if (!(group_by & GROUP_RADDR))
		__builtin_memset(flow->raddr, 0, sizeof(flow->raddr));
	if (!(group_by & GROUP_LPORT))
		flow->lport = 0;
	if (!(group_by & GROUP_RPORT))
		flow->rport = 0;
}

/*
 * Group::new() of src/aggregate/group.rs, on this side, of a key that has the flow already: with a copy of it, the programs
 * would not fit on the stack.
 */
static __always_inline void group_fill(struct group_key *key, struct sock *sk, const struct owner *owner, __u32 kind)
{
	group_cut(&key->flow);
	/* A link belongs to its namespace. */
	key->netns = group_by & GROUP_NETNS || key->flow.ifindex ? netns_of(sk) : 0;
	key->uid = group_by & GROUP_UID ? sk->sk_uid.val : 0;
	key->cgroup = group_by & GROUP_CGROUP ? cgroup_noted(sk) : 0;
	bool known = owner->source != PID_UNKNOWN;
	if (known && group_by & GROUP_COMM)
		__builtin_memcpy(key->comm, owner->comm, sizeof(key->comm));
	else
		__builtin_memset(key->comm, 0, sizeof(key->comm));
	/* Where the socket does not tell its cgroup, its process may. */
	bool by_process = group_by & GROUP_PID || (group_by & GROUP_CGROUP && !key->cgroup);
	key->pid = known && by_process ? owner->pid : 0;
	key->kind = kind;
	key->pad = 0;
}

#endif
