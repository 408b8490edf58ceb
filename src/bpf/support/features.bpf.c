/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One program per optional kernel feature: the kernel has it if the program loads (src/kernel/features.rs). */
#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} storage SEC(".maps");

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(sk_storage, struct sock *sk)
{
	bpf_sk_storage_get(&storage, sk, 0, 0);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_cookie, struct sock *sk)
{
	bpf_get_socket_cookie(sk);
	return 0;
}

/* A table with a lock in each element, as owner/table.bpf.h has it. */
struct element {
	struct bpf_spin_lock lock;
	__u32 word;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct element);
} table SEC(".maps");

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(map_lock)
{
	__u32 zero = 0;
	struct element *element = bpf_map_lookup_elem(&table, &zero);

	if (!element)
		return 0;
	bpf_spin_lock(&element->lock);
	element->word++;
	bpf_spin_unlock(&element->lock);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(task_btf)
{
	bpf_get_current_task_btf();
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int map_elements(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return 0;
}

SEC("iter/task_file")
int sock_from_file(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;

	if (file)
		bpf_sock_from_file(file);
	return 0;
}
