/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts in the kernel: one map entry per flow, process, cgroup or whatever is counted by, instead of a record per event.
 * Read by src/aggregate/counts.rs.
 *
 * The table is bounded; the excess is counted in counters.uncounted, which the reader reports.
 */
#ifndef TCPTOOLS_COUNT_BPF_H
#define TCPTOOLS_COUNT_BPF_H

#include "tcp.bpf.h"

/* What is counted by, as bits: src/aggregate/group.rs. */
enum count_bits {
	COUNT_PID = 1,
	COUNT_COMM = 1 << 1,
	COUNT_UID = 1 << 2,
	COUNT_CGROUP = 1 << 3,
	COUNT_NETNS = 1 << 4,
	COUNT_LADDR = 1 << 5,
	COUNT_LPORT = 1 << 6,
	COUNT_RADDR = 1 << 7,
	COUNT_RPORT = 1 << 8,
};
EXPORT_ENUM(count_bits);

/* What is not counted by is zero, and so is what is not known. */
struct count_key {
	struct flow flow;
	__u32 netns;
	__u64 cgroup;
	__u8 comm[16];
	__u32 pid;
	__u32 uid;
	__u32 kind; /* the tool's own enum */
	__u32 pad;
};
EXPORT_TYPE(count_key);

const volatile __u32 count_by = 0;

/* One entry until user space sets the size: an unused table takes no memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct count_key);
	__type(value, __u64);
} counts SEC(".maps");

/*
 * Group::new() of src/aggregate/group.rs, on this side, of a key that has the flow already: with a copy of it, the programs
 * would not fit on the stack.
 */
static __always_inline void count_key_fill(struct count_key *key, struct sock *sk, const struct owner *owner, __u32 kind)
{
	if (!(count_by & (COUNT_LADDR | COUNT_RADDR)))
		key->flow.family = key->flow.ifindex = 0;
	if (!(count_by & COUNT_LADDR))
		__builtin_memset(key->flow.laddr, 0, sizeof(key->flow.laddr));
	if (!(count_by & COUNT_RADDR))
		__builtin_memset(key->flow.raddr, 0, sizeof(key->flow.raddr));
	if (!(count_by & COUNT_LPORT))
		key->flow.lport = 0;
	if (!(count_by & COUNT_RPORT))
		key->flow.rport = 0;
	/* A link belongs to its namespace. */
	key->netns = count_by & COUNT_NETNS || key->flow.ifindex ? netns_of(sk) : 0;
	key->uid = count_by & COUNT_UID ? sk->sk_uid.val : 0;
	key->cgroup = count_by & COUNT_CGROUP ? cgroup_noted(sk) : 0;
	bool known = owner->source != PID_UNKNOWN;
	if (known && count_by & COUNT_COMM)
		__builtin_memcpy(key->comm, owner->comm, sizeof(key->comm));
	else
		__builtin_memset(key->comm, 0, sizeof(key->comm));
	/* Where the socket does not tell its cgroup, its process may. */
	bool by_process = count_by & COUNT_PID || (count_by & COUNT_CGROUP && !key->cgroup);
	key->pid = known && by_process ? owner->pid : 0;
	key->kind = kind;
	key->pad = 0;
}

/* `key` has the flow; `n`: occurrences. */
static __always_inline void count_add(struct count_key *key, struct sock *sk, const struct owner *owner, __u32 kind,
				      __u64 n)
{
	count_key_fill(key, sk, owner, kind);
	__u64 *count = bpf_map_lookup_elem(&counts, key);
	if (!count) {
		if (!bpf_map_update_elem(&counts, key, &n, BPF_NOEXIST))
			return;
		count = bpf_map_lookup_elem(&counts, key); /* another CPU was first, or the table is full */
	}
	if (count)
		__sync_fetch_and_add(count, n);
	else
		loss_count(&counters.uncounted, n);
}

#endif
