/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The paths of the cgroups that sockets were created in, for rows and for the filters by name.
 *
 * A socket keeps its cgroup, and a cgroup its name and its ancestors, when its directory is long gone
 * (kernel/cgroup/cgroup.c: css_free_rwork_fn). So the path is read from the socket itself, once per cgroup, and needs
 * neither a mounted hierarchy nor a look while the container lives. User space reads it by its id when it first shows
 * a row of it (src/kernel/cgroups/).
 */
#ifndef TCPTOOLS_CGROUP_PATH_BPF_H
#define TCPTOOLS_CGROUP_PATH_BPF_H

#include "kernel/compat.bpf.h"
#include "filter.bpf.h"

enum {
	MAX_CGROUP_NAME = 256, /* NAME_MAX and its NUL */
	MAX_CGROUP_NAMES = 1024,
	MAX_CGROUP_LEVELS = 16,
	MAX_CGROUPS = 1024,
	NESTING = 4, /* a task, a softirq, an interrupt, an NMI */
};

/* Which of the filters by name match it, or a cgroup above it. */
enum cgroup_matches { CGROUP_OF_UNIT = 1, CGROUP_OF_CONTAINER = 2, CGROUP_SEEN = 4 };

struct cgroup_path {
	__u16 len;    /* of `names` */
	__u8 cut;     /* the outermost names are missing */
	__u8 matches; /* enum cgroup_matches */
	__u8 pad[4];
	__u8 names[MAX_CGROUP_NAMES]; /* from the innermost outwards, each with its NUL */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u64);
	__type(value, struct cgroup_path);
} cgroup_paths SEC(".maps");

struct cgroup_scratch {
	struct cgroup_path path;
	__u8 rest[MAX_CGROUP_NAME]; /* any name fits behind any other: the verifier need not know more */
	__u64 name[NAME_WORDS];     /* one, filled up with zeros */
	__u64 next;                 /* the address of the cgroup whose name follows; 0 behind the root */
	__u32 busy;
	__u32 pad;
};

/* One per level of interruption, as the interrupted program is in the middle of its own. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NESTING);
	__type(key, __u32);
	__type(value, struct cgroup_scratch);
} cgroup_scratches SEC(".maps");

static __always_inline struct cgroup_scratch *cgroup_scratch(__u32 *slot)
{
	for (*slot = 0; *slot < NESTING; ++*slot) {
		__u32 key = *slot;
		struct cgroup_scratch *scratch = bpf_map_lookup_elem(&cgroup_scratches, &key);
		if (scratch && !scratch->busy)
			return scratch;
	}
	return NULL;
}

static __always_inline __u64 has_name(const volatile struct name_list *list, const __u64 *name)
{
	__u64 found = 0;

	for (__u32 i = 0; i < MAX_NAMES && i < list->n; i++) {
		__u64 differ = 0;
		for (__u32 word = 0; word < NAME_WORDS; word++)
			differ |= (name[word] & list->name[i].mask[word]) ^ list->name[i].bytes[word];
		/* !differ, without a branch that doubles what the verifier has to follow */
		__u64 equal = ~differ & (differ - 1);
		barrier_var(equal);
		found |= equal >> 63;
	}
	return found;
}

/*
 * Which filters match the name in a scratch alone. A global function, like the two that follow: it is verified once, and
 * not for each level of each call. Names longer than any unit's or container's are compared by their beginning.
 */
__noinline int name_matches(__u32 slot)
{
	struct cgroup_scratch *scratch = bpf_map_lookup_elem(&cgroup_scratches, &slot);
	__u64 matches = 0;

	if (!scratch)
		return 0;
	if (config.set.unit)
		matches |= has_name(&config.filter.unit, scratch->name) * CGROUP_OF_UNIT;
	if (config.set.container)
		matches |= has_name(&config.filter.container, scratch->name) * CGROUP_OF_CONTAINER;
	return matches;
}

/*
 * The cgroup seen last on a CPU that is in the table: a row of the same one needs no lookup. Only a note can take another
 * out of the table, so what was seen is valid until the next one. In one word, as other events may interrupt: the id,
 * and how many were noted, times a number of 64 bits.
 */
enum { SEEN_PLACES = 64 };

struct seen {
	__u64 notes;
	__u64 pad[7];
	struct {
		volatile __u64 word;
		__u64 pad[7];
	} last[SEEN_PLACES];
};
struct seen seen SEC(".data.sockets") __attribute__((aligned(64))) = {};

static __always_inline __u64 seen_word(__u64 id)
{
	return id + *(volatile __u64 *)&seen.notes * 0x9e3779b97f4a7c15;
}

static __always_inline volatile __u64 *seen_here(void)
{
	return &seen.last[bpf_get_smp_processor_id() & (SEEN_PLACES - 1)].word;
}

/* Adds the next name to the path in a scratch, and returns whether there is another one. */
__noinline int cgroup_level(__u32 slot)
{
	struct cgroup_scratch *scratch = bpf_map_lookup_elem(&cgroup_scratches, &slot);

	if (!bpf_core_type_exists(struct cgroup) || !scratch)
		return 0;
	struct cgroup *cgroup = (struct cgroup *)scratch->next;
	const char *name = BPF_CORE_READ(cgroup, kn, name);
	struct cgroup *parent = BPF_CORE_READ(cgroup, self.parent, cgroup);
	__u64 len = scratch->path.len;

	if (config.set.unit || config.set.container) {
		__builtin_memset(scratch->name, 0, sizeof(scratch->name));
		bpf_probe_read_kernel_str(scratch->name, sizeof(scratch->name), name);
		scratch->path.matches |= name_matches(slot);
	}
	if (len <= MAX_CGROUP_NAMES - MAX_CGROUP_NAME && parent) { /* the root has no name */
		barrier_var(len);                                  /* keeps the mask, which the verifier needs */
		len &= MAX_CGROUP_NAMES - 1;
		long n = bpf_probe_read_kernel_str(scratch->path.names + len, MAX_CGROUP_NAME, name);
		if (n > 0)
			scratch->path.len = len + (__u32)n;
	} else if (parent) {
		scratch->path.cut = 1;
	}
	scratch->next = (__u64)parent;
	return !!parent;
}

/* Notes the path of a cgroup unless it is known, and returns what matches it; 0 where there is no room. */
__noinline int cgroup_note(__u64 id, __u64 address)
{
	if (!bpf_core_type_exists(struct cgroup)) /* without CONFIG_CGROUPS */
		return 0;
	__u64 word = seen_word(id); /* before the lookup */
	struct cgroup_path *known;
	__u32 slot;

	if (!id)
		return 0;
	known = bpf_map_lookup_elem(&cgroup_paths, &id);
	if (known) {
		*seen_here() = word;
		return known->matches;
	}
	struct cgroup_scratch *scratch = cgroup_scratch(&slot);
	if (!scratch)
		return 0;
	scratch->busy = 1;
	barrier();
	scratch->next = address;
	scratch->path.len = 0;
	scratch->path.cut = 0;
	scratch->path.matches = CGROUP_SEEN;
	for (int level = 0; level < MAX_CGROUP_LEVELS && cgroup_level(slot); level++)
		;
	scratch->path.cut |= !!scratch->next;
	__u64 matches = scratch->path.matches;
	bpf_map_update_elem(&cgroup_paths, &id, &scratch->path, BPF_ANY);
	__sync_fetch_and_add(&seen.notes, 1); /* after the update: what was seen before it may be gone */
	barrier();
	scratch->busy = 0;
	return matches;
}

/* The id of the socket's cgroup; 0: unknown. */
static __always_inline __u64 cgroup_id_of(struct sock *sk)
{
	struct cgroup *cgroup;

	if (CAN_CAST(sock) && bpf_core_field_exists(sk->sk_cgrp_data) &&
	    bpf_core_field_exists(struct sock_cgroup_data, cgroup)) {
		cgroup = READ_ONLY(sk, sock)->sk_cgrp_data.cgroup;
		return cgroup ? cgroup->kn->id : 0;
	}
	cgroup = sock_cgroup(sk);
	return cgroup ? cgroup_id(cgroup) : 0;
}

/* cgroup_note() for a socket's cgroup: takes no pointer that the verifier knows, as a global function may not. */
static __always_inline int cgroup_note_of(struct sock *sk, __u64 id)
{
	return cgroup_note(id, (__u64)sock_cgroup(sk));
}

/* The id of the socket's cgroup, whose path user space can read from now on. */
static __always_inline __u64 cgroup_noted(struct sock *sk)
{
	__u64 id = cgroup_id_of(sk);

	if (*seen_here() != seen_word(id))
		cgroup_note_of(sk, id);
	return id;
}

/* Whether a filter by name matches. Where the cgroup is not known, neither a list nor a negated list does. */
static __always_inline bool cgroup_named(struct sock *sk, enum cgroup_matches filter)
{
	const volatile struct name_list *list =
		filter == CGROUP_OF_UNIT ? &config.filter.unit : &config.filter.container;
	__u64 id = cgroup_id_of(sk);
	int matches = 0;

	if (id) {
		struct cgroup_path *path = bpf_map_lookup_elem(&cgroup_paths, &id);
		matches = path ? path->matches : cgroup_note_of(sk, id);
	}
	return matches ? matches & filter : !!list->negate;
}

#endif
