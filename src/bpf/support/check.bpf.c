/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Minimal programs with the requirements of the commands, for `tcptools check`, loaded one by one. */
#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, int);
} storage SEC(".maps");

/* May this process trace at all? */
SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(trace, struct sock *sk, int old, int new)
{
	return 0;
}

/* Rows. */
SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(ring_buffer, struct sock *sk, int old, int new)
{
	void *event = bpf_ringbuf_reserve(&ring, 8, 0);

	if (event)
		bpf_ringbuf_discard(event, 0);
	return 0;
}

/* State and owner of each socket. */
SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(socket_storage, struct sock *sk, int old, int new)
{
	bpf_sk_storage_get(&storage, sk, 0, 0);
	return 0;
}

/* All sockets that are followed, at once. */
SEC("?iter/bpf_sk_storage_map")
int map_elements(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return 0;
}

/* Owners of sockets that exist already. */
SEC("?iter/task_file")
int open_files(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;

	if (file)
		bpf_sock_from_file(file);
	return 0;
}
