/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cgroup filter, for the commands' own programs and for the fallback programs (fallback.bpf.c). */
#ifndef TCPTOOLS_CGROUP_BPF_H
#define TCPTOOLS_CGROUP_BPF_H

#include "kernel/compat.bpf.h"
#include "filter.bpf.h"

enum { MAX_CGROUP_DEPTH = 64 };

/*
 * Matches the socket's cgroup (that of its creator) and its ancestors. A cgroup nested too deep to check matches
 * neither a list nor a negated list.
 */
static __always_inline bool has_cgroup(const volatile struct id_list *list, struct sock *sk)
{
	struct cgroup *cgroup = sock_cgroup(sk);

	for (int depth = 0; depth < MAX_CGROUP_DEPTH && cgroup; depth++) {
		if (has_id(list, cgroup_id(cgroup)))
			return true;
		cgroup = BPF_CORE_READ(cgroup, self.parent, cgroup);
	}
	return cgroup && list->negate;
}

#endif
