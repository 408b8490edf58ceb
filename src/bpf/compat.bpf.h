/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where kernels differ: one getter per difference, each with what changed and since when.
 * The running kernel's BTF decides, never its version: distributions backport these changes.
 */
#ifndef TCPTOOLS_COMPAT_BPF_H
#define TCPTOOLS_COMPAT_BPF_H

#include "config.bpf.h"
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/*
 * Without the helper only a cookie that somebody has asked for already is there; otherwise 0. A load is cheaper than
 * the helper, which is needed once per socket.
 */
static __always_inline __u64 cookie_of(struct sock *sk)
{
	if (config.lacks.socket_cookie)
		return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	__u64 cookie = sk->__sk_common.skc_cookie.counter;
	return cookie ?: bpf_get_socket_cookie(sk);
}

/* bpf_rdonly_cast(): since 6.2. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;

/*
 * The same pointer, to read only, for a way that leads over another pointer. Since 6.4 the verifier asks at each step
 * from a pointer that it trusts whether the next one can be trusted, too, and searches all names of the kernel's types
 * for the answer (kernel/bpf/btf.c: btf_nested_type_is_trusted), which was most of what loading took. The call is gone
 * when the program runs; of the test a constant stays, and a fault of the read is caught, as of any other step.
 */
#define READ_ONLY(ptr, type)                                                                  \
	(bpf_ksym_exists(bpf_rdonly_cast) ? (type *)bpf_rdonly_cast(ptr, bpf_core_type_id_kernel(type)) : (ptr))

/*
 * Tells a socket from every other one, former ones too: its cookie, or the number of its file's inode where a cookie
 * cannot be had; 0 of a socket without a file.
 */
static __always_inline __u64 key_of(struct sock *sk)
{
	if (config.lacks.socket_cookie)
		return BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
	return bpf_get_socket_cookie(sk);
}

/* Where sockets are kept by address, some programs have no typed pointer to them (state.bpf.h). */
static __always_inline __u32 netns_of(struct sock *sk)
{
	if (config.lacks.sk_storage)
		return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	return READ_ONLY(sk, struct sock)->__sk_common.skc_net.net->ns.inum;
}

static __always_inline struct task_struct *current_task(void)
{
	if (config.lacks.task_btf)
		return (struct task_struct *)bpf_get_current_task();
	return bpf_get_current_task_btf();
}

static __always_inline __u32 task_flags(struct task_struct *task)
{
	return config.lacks.task_btf ? BPF_CORE_READ(task, flags) : task->flags;
}

static __always_inline __u32 task_tgid(struct task_struct *task)
{
	return config.lacks.task_btf ? BPF_CORE_READ(task, tgid) : task->tgid;
}

static __always_inline struct task_struct *task_leader(struct task_struct *task)
{
	if (config.lacks.task_btf)
		return BPF_CORE_READ(task, group_leader);
	return READ_ONLY(task, struct task_struct)->group_leader;
}

/* The name of the thread group's leader, as two words. */
static __always_inline void task_comm(__u64 *to, struct task_struct *task)
{
	struct task_struct *leader = task_leader(task);

	if (config.lacks.task_btf) {
		bpf_probe_read_kernel(to, 16, leader->comm);
		return;
	}
	const __u64 *comm = (const __u64 *)leader->comm;
	to[0] = comm[0];
	to[1] = comm[1];
}

/* sock.sk_protocol: 16 bits since 5.6, a bitfield of 8 before. */
static __always_inline __u16 protocol_of(struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD(sk, sk_protocol);
}

/* sock.sk_type: a field of its own since 5.6, before it 16 bits of a word that sk_protocol shares. */
static __always_inline __u16 type_of(struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD(sk, sk_type);
}

/* sock.sk_userlocks: four bits beside others, and a byte of its own since 6.6. */
static __always_inline __u8 userlocks_of(struct sock *sk)
{
	return BPF_CORE_READ_BITFIELD(sk, sk_userlocks);
}

/*
 * proto.memory_allocated counts pages since 6.0, when per_cpu_fw_alloc came; before it units of 4096 bytes. Returns how
 * many of its units are a page, as a shift. sysctl_mem is in pages everywhere.
 */
static __always_inline __u32 memory_shift(__u32 page_shift)
{
	return bpf_core_field_exists(struct proto, per_cpu_fw_alloc) ? 0 : page_shift - 12;
}

/* tcp_sock.syn_fastopen_child: since 6.8. Before it a child of Fast Open cannot be told. */
static __always_inline bool is_fastopen_child(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->syn_fastopen_child) && BPF_CORE_READ_BITFIELD(tp, syn_fastopen_child);
}

/* tcp_sock.is_mptcp: since 5.6, only with CONFIG_MPTCP; a bitfield next to others in some releases. */
static __always_inline bool is_mptcp_subflow(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->is_mptcp) && BPF_CORE_READ_BITFIELD(tp, is_mptcp);
}

/* tcp_sock.total_rto: since 6.7. */
static __always_inline __u32 total_rto(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->total_rto) ? tp->total_rto : ~0U;
}

/* tcp_sock.chrono_type: a byte of its own since 6.12 or so, a bitfield of two bits before. */
static __always_inline __u8 chrono_type(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, chrono_type);
}

/* sock.sk_drop_counters: since 6.18; a socket that has them (UDP) counts there, one counter for either half of the nodes. */
struct numa_drop_counters___6_18 {
	atomic_t drops0;
	atomic_t drops1;
} __attribute__((preserve_access_index));

struct sock___6_18 {
	struct numa_drop_counters___6_18 *sk_drop_counters;
} __attribute__((preserve_access_index));

static __always_inline __u32 sock_drops(struct sock *sk)
{
	struct sock___6_18 *new = (void *)sk;

	if (bpf_core_field_exists(new->sk_drop_counters)) {
		struct numa_drop_counters___6_18 *split = BPF_CORE_READ(new, sk_drop_counters);
		if (split)
			return BPF_CORE_READ(split, drops0.counter) + BPF_CORE_READ(split, drops1.counter);
	}
	return sk->sk_drops.counter;
}

/* sysctl_tcp_moderate_rcvbuf: a byte since 5.13 or so, an int before; little endian keeps it in the first byte. */
static __always_inline bool rcvbuf_is_moderated(struct sock *sk)
{
	__u8 on = 0;

	bpf_core_read(&on, sizeof(on), &sk->__sk_common.skc_net.net->ipv4.sysctl_tcp_moderate_rcvbuf);
	return on;
}

/* sock_common.skc_v6_*: only with CONFIG_IPV6. Without it there are no sockets of that family. */
static __always_inline bool has_ipv6(void)
{
	return bpf_core_field_exists(struct sock_common, skc_v6_daddr);
}

/*
 * sk_cgrp_data: only with CONFIG_SOCK_CGROUP_DATA, or empty without it (5.4). Its .cgroup: since 5.15; before it a tagged
 * word, `val`, whose pointer form had its low bits clear.
 */
struct sock_cgroup_data___tagged {
	__u64 val;
} __attribute__((preserve_access_index));

static __always_inline struct cgroup *sock_cgroup(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_cgrp_data))
		return NULL;
	if (bpf_core_field_exists(struct sock_cgroup_data, cgroup))
		return BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	struct sock_cgroup_data___tagged *tagged = (void *)__builtin_preserve_access_index(&sk->sk_cgrp_data);
	if (!bpf_core_field_exists(tagged->val))
		return NULL;
	return (struct cgroup *)(BPF_CORE_READ(tagged, val) & ~3ULL);
}

/*
 * kernfs_node.id: a number since 5.5, that of the directory's inode; before it a union, of which the lower half is that.
 */
struct kernfs_node___5_4 {
	union {
		__u64 id;
	} id;
} __attribute__((preserve_access_index));

static __always_inline __u64 cgroup_id(struct cgroup *cgroup)
{
	struct kernfs_node *kn = BPF_CORE_READ(cgroup, kn);

	if (bpf_core_field_exists(kn->id))
		return BPF_CORE_READ(kn, id);
	return (__u32)BPF_CORE_READ((struct kernfs_node___5_4 *)kn, id.id);
}

/* mptcp_sock.bytes_acked, bytes_received: since 6.5. Before it a parent's bytes are unknown. */
static __always_inline bool mptcp_bytes(struct sock *sk, __u64 *acked, __u64 *received)
{
	struct mptcp_sock *msk = (void *)sk;

	if (!bpf_core_field_exists(msk->bytes_acked))
		return false;
	*acked = BPF_CORE_READ(msk, bytes_acked);
	*received = BPF_CORE_READ(msk, bytes_received);
	return true;
}

/*
 * For a full socket of a TCP tracepoint; NULL of MPTCP's own. A cast is no call, as bpf_skc_to_tcp_sock() is one; but
 * elsewhere a protocol of 6 need not be TCP's.
 */
static __always_inline struct tcp_sock *tcp_of(struct sock *sk)
{
	if (!bpf_ksym_exists(bpf_rdonly_cast))
		return bpf_skc_to_tcp_sock(sk);
	if (protocol_of(sk) != IPPROTO_TCP)
		return NULL;
	return bpf_rdonly_cast(sk, bpf_core_type_id_kernel(struct tcp_sock));
}

/* tcp_skb_cb.tcp_flags: 8 bits wide before 6.17, 16 since. */
static __always_inline __u16 skb_tcp_flags(struct tcp_skb_cb *cb)
{
	return BPF_CORE_READ_BITFIELD_PROBED(cb, tcp_flags);
}

/* inet_connection_sock.icsk_ca_state: a bitfield of 6 bits until 5.8, of 5 since. */
static __always_inline __u8 ca_state_of(struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;

	return BPF_CORE_READ_BITFIELD(icsk, icsk_ca_state);
}

/* The address of the MPTCP socket that a subflow belongs to, which a file has; 0 of any other socket. Since 5.6. */
static __always_inline __u64 mptcp_of_subflow(struct tcp_sock *tp)
{
	if (!bpf_core_type_exists(struct mptcp_subflow_context) || !is_mptcp_subflow(tp))
		return 0;
	struct mptcp_subflow_context *subflow = (void *)BPF_CORE_READ(tp, inet_conn.icsk_ulp_data);
	return (__u64)BPF_CORE_READ(subflow, conn);
}

/* Whether everything that was written is acknowledged, and so the DATA_FIN, which bytes_acked counts as one. */
static __always_inline bool mptcp_fin_acked(struct sock *sk)
{
	struct mptcp_sock *msk = (void *)sk;

	return BPF_CORE_READ(msk, bytes_acked) && BPF_CORE_READ(msk, snd_una) == BPF_CORE_READ(msk, write_seq);
}

#endif
