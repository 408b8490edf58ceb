/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The filter on cgroups, for the commands' own programs and for those of records (record.bpf.c).
 */
#ifndef TCPTOOLS_CGROUP_BPF_H
#define TCPTOOLS_CGROUP_BPF_H

#include "compat.bpf.h"

enum { MAX_CGROUP_DEPTH = 64 };

/*
 * In the socket's cgroup or below it: the socket belongs to the cgroup that its creator was in. Of one that lies too deep
 * to see its root nothing is claimed, not even that it is outside.
 */
static __always_inline bool in_cgroups(const volatile struct id_list *list, struct sock *sk)
{
	struct cgroup *cgroup = sock_cgroup(sk);

	for (int depth = 0; depth < MAX_CGROUP_DEPTH && cgroup; depth++) {
		__u64 id = cgroup_id(cgroup);
		bool found = false;

		for (__u32 i = 0; i < MAX_IDS && i < list->n; i++)
			found |= list->id[i] == id;
		if (found)
			return !list->negate;
		cgroup = BPF_CORE_READ(cgroup, self.parent, cgroup);
	}
	return !cgroup && list->negate;
}

#endif
