/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose a listener's requests are, and the connections that wait for accept(). Part of active.bpf.h. */
#ifndef TCPTOOLS_ACTIVE_OWNER_BPF_H
#define TCPTOOLS_ACTIVE_OWNER_BPF_H

#include "tcp.bpf.h"

/* The number of the look, which user space counts up. What it has shown is marked with it. */
struct look {
	__u64 number;
};
EXPORT_TYPE(look);

struct look look SEC(".data.look") = {.number = 1};

/* By the listener's address, or by its namespace and port. No address is as low as the latter. */
struct listener_owner {
	struct owner owner;
	__u32 look;
	__u32 several; /* listeners of several processes have this port */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16 * 1024);
	__type(key, __u64);
	__type(value, struct listener_owner);
} listener_owners SEC(".maps");

static __always_inline __u64 port_key(__u32 netns, __u16 port)
{
	return (__u64)netns << 16 | port;
}

static __always_inline struct listener_owner *owner_of_listener(__u64 key)
{
	struct listener_owner *known = bpf_map_lookup_elem(&listener_owners, &key);

	return known && known->look == (__u32)look.number ? known : NULL;
}

/* The kernel visits a namespace's listeners before its connections (net/ipv4/tcp_ipv4.c: bpf_iter_tcp_seq_ops). */
static __noinline void listener_note(const struct owner *owner, __u64 address, __u64 port)
{
	struct listener_owner now = {.look = look.number};
	struct listener_owner *same = owner_of_listener(port);

	now.owner = *owner;
	bpf_map_update_elem(&listener_owners, &address, &now, BPF_ANY);
	now.several = same && (same->several || same->owner.pid != owner->pid || same->owner.source != owner->source);
	bpf_map_update_elem(&listener_owners, &port, &now, BPF_ANY);
}

static __always_inline void owner_from_listener(struct owner *owner, __u64 key)
{
	const struct listener_owner *listener = owner_of_listener(key);

	if (!listener || listener->several || listener->owner.source == PID_UNKNOWN)
		return;
	*owner = listener->owner;
	owner->source = PID_LISTENER;
}

#endif
