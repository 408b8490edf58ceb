/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kernel differences: one getter each, with what changed and in which release. The running kernel's BTF decides, not
 * its version, because distributions backport these changes (docs/principles.md 4).
 */
#ifndef TCPTOOLS_COMPAT_BPF_H
#define TCPTOOLS_COMPAT_BPF_H

#include "config.bpf.h"
#include "kernel/kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/*
 * The helper is needed once per socket; later a load is cheaper. Without the helper the cookie is 0 unless something
 * has requested it before.
 */
static __always_inline __u64 cookie_of(struct sock *sk)
{
	if (config.missing.socket_cookie)
		return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	__u64 cookie = sk->__sk_common.skc_cookie.counter;
	return cookie ?: bpf_get_socket_cookie(sk);
}

/*
 * The same pointer, read-only, for chains of pointers: bpf_rdonly_cast(), since 6.2. Since 6.4 the verifier checks at
 * each step from a trusted pointer whether the next one is trusted, by a search through all type names of the kernel
 * (kernel/bpf/btf.c: btf_nested_type_is_trusted); that dominated the load time. The call costs nothing at run time,
 * and faults of the reads are caught.
 */
#define READ_ONLY(ptr, type) ((struct type *)(CAN_CAST(type) ? bpf_rdonly_cast(ptr, config.types.type) : (void *)(ptr)))
#define CAN_CAST(type) (bpf_ksym_exists(bpf_rdonly_cast) && config.types.type)

/* A field of what lies at an address, which may be gone: a load whose fault is caught, where it can be one. */
#define READ_AT(address, type, field)                                                                     \
	(CAN_CAST(type) ? ((struct type *)bpf_rdonly_cast((void *)(address), config.types.type))->field : \
			  BPF_CORE_READ((struct type *)(address), field))

/*
 * A unique ID of a socket, never reused: its cookie, or its file's inode number if there is no cookie; 0 if it has no
 * file.
 */
static __always_inline __u64 key_of(struct sock *sk)
{
	if (config.missing.socket_cookie)
		return BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
	return bpf_get_socket_cookie(sk);
}

/* Iterators may have no typed pointer to the socket, but a copy (owner/each.bpf.h). */
static __always_inline __u32 netns_of(struct sock *sk)
{
	if (!bpf_ksym_exists(bpf_rdonly_cast))
		return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	return READ_ONLY(sk, sock)->__sk_common.skc_net.net->ns.inum;
}

static __always_inline struct task_struct *current_task(void)
{
	if (config.missing.task_btf)
		return (struct task_struct *)bpf_get_current_task();
	return bpf_get_current_task_btf();
}

static __always_inline __u32 task_flags(struct task_struct *task)
{
	return config.missing.task_btf ? BPF_CORE_READ(task, flags) : task->flags;
}

static __always_inline __u32 task_tgid(struct task_struct *task)
{
	return config.missing.task_btf ? BPF_CORE_READ(task, tgid) : task->tgid;
}

static __always_inline struct task_struct *task_leader(struct task_struct *task)
{
	if (config.missing.task_btf)
		return BPF_CORE_READ(task, group_leader);
	return READ_ONLY(task, task_struct)->group_leader;
}

/* The name of the thread group's leader, as two words. */
static __always_inline void task_comm(__u64 *to, struct task_struct *task)
{
	struct task_struct *leader = task_leader(task);

	if (config.missing.task_btf) {
		bpf_probe_read_kernel(to, 16, leader->comm);
		return;
	}
	const __u64 *comm = (const __u64 *)leader->comm;
	to[0] = comm[0];
	to[1] = comm[1];
}

/*
 * The name of the congestion control. tp may be a copy (owner/each.bpf.h). Records have it at a multiple of four bytes,
 * and some are on the stack, where the verifier wants words aligned.
 */
static __always_inline void ca_name_of(__u8 *to, struct tcp_sock *tp)
{
	if (!CAN_CAST(tcp_sock)) {
		bpf_probe_read_kernel(to, 16, tp->inet_conn.icsk_ca_ops->name);
		return;
	}
	const __u64 *name = (const __u64 *)READ_ONLY(tp, tcp_sock)->inet_conn.icsk_ca_ops->name;
	__u64 first = name[0], second = name[1];
	__u32 *word = (__u32 *)to;
	word[0] = first;
	word[1] = first >> 32;
	word[2] = second;
	word[3] = second >> 32;
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
 * proto.memory_allocated counts pages since 6.0, when per_cpu_fw_alloc came; before that, units of 4096 bytes. Returns
 * the units per page, as a shift. sysctl_mem is in pages everywhere.
 */
static __always_inline __u32 memory_shift(__u32 page_shift)
{
	return bpf_core_field_exists(struct proto, per_cpu_fw_alloc) ? 0 : page_shift - 12;
}

/* tcp_sock.syn_fastopen_child: since 6.8. Before that, Fast Open children cannot be recognised. */
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

/* sock.sk_drop_counters: since 6.18; sockets that have them (UDP) count there, in one counter per half of the nodes. */
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

/* sysctl_tcp_syncookies: the same. */
static __always_inline __u8 syncookies_of(struct sock *sk)
{
	__u8 value = 0;

	bpf_core_read(&value, sizeof(value), &sk->__sk_common.skc_net.net->ipv4.sysctl_tcp_syncookies);
	return value;
}

/* sock_common.skc_v6_*: only with CONFIG_IPV6. */
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
	__u64 val = BPF_CORE_READ(tagged, val);
	/* A socket of a process with a class or priority of cgroup v1 (net_cls, net_prio) has these instead. */
	return val & 1 ? NULL : (struct cgroup *)(val & ~3ULL);
}

/*
 * kernfs_node.id: the directory's inode number since 5.5; before that a union, with the inode number in the lower half.
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
 * For full sockets in TCP tracepoints; NULL for MPTCP sockets. Cheaper than bpf_skc_to_tcp_sock(), but valid only
 * there: elsewhere protocol 6 need not mean TCP.
 */
static __always_inline struct tcp_sock *tcp_of(struct sock *sk)
{
	if (!CAN_CAST(tcp_sock))
		return bpf_skc_to_tcp_sock(sk);
	if (protocol_of(sk) != IPPROTO_TCP)
		return NULL;
	return bpf_rdonly_cast(sk, config.types.tcp_sock);
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

/*
 * When the retransmission timer is due, in jiffies: icsk_timeout until 6.17, then the timer itself, which moved to struct
 * sock in 7.0 or so; as inet_diag has it (net/ipv4/inet_diag.c: inet_sk_diag_fill).
 */
struct sock___7_0 {
	struct timer_list tcp_retransmit_timer;
} __attribute__((preserve_access_index));

static __always_inline __u64 retransmit_due(struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;
	struct sock___7_0 *sk = (void *)tp;

	if (bpf_core_field_exists(icsk->icsk_timeout))
		return BPF_CORE_READ(icsk, icsk_timeout);
	if (bpf_core_field_exists(icsk->icsk_retransmit_timer))
		return BPF_CORE_READ(icsk, icsk_retransmit_timer.expires);
	if (bpf_core_field_exists(sk->tcp_retransmit_timer))
		return BPF_CORE_READ(sk, tcp_retransmit_timer.expires);
	return 0;
}

/*
 * When the keepalive timer is due, in jiffies; false: it is not pending. sk_timer until 6.18, icsk_keepalive_timer then.
 */
struct inet_connection_sock___7_0 {
	struct timer_list icsk_keepalive_timer;
} __attribute__((preserve_access_index));

static __always_inline bool keepalive_due(struct sock *sk, __u64 *due)
{
	struct inet_connection_sock___7_0 *icsk = (void *)sk;

	if (bpf_core_field_exists(icsk->icsk_keepalive_timer)) {
		*due = BPF_CORE_READ(icsk, icsk_keepalive_timer.expires);
		return BPF_CORE_READ(icsk, icsk_keepalive_timer.entry.pprev);
	}
	if (!bpf_core_field_exists(sk->sk_timer))
		return false;
	*due = BPF_CORE_READ(sk, sk_timer.expires);
	return BPF_CORE_READ(sk, sk_timer.entry.pprev);
}

/* tcp_sock.tcp_usec_ts: timestamps in microseconds, since 6.7. */
struct tcp_sock___6_7 {
	__u8 tcp_usec_ts : 1;
	__u8 : 7; /* the others' */
} __attribute__((preserve_access_index));

static __always_inline bool has_usec_stamps(struct tcp_sock *tp)
{
	struct tcp_sock___6_7 *new = (void *)tp;

	return bpf_core_field_exists(new->tcp_usec_ts) && BPF_CORE_READ_BITFIELD(new, tcp_usec_ts);
}

/* inet_timewait_sock.tw_entry_stamp: since 6.14, in ms of CLOCK_MONOTONIC. How long ago; 0: not known. */
struct inet_timewait_sock___6_14 {
	__u32 tw_entry_stamp;
} __attribute__((preserve_access_index));

static __always_inline __u64 timewait_age_ns(struct inet_timewait_sock *tw)
{
	struct inet_timewait_sock___6_14 *new = (void *)tw;

	if (!bpf_core_field_exists(new->tw_entry_stamp))
		return 0;
	__u32 stamp = BPF_CORE_READ(new, tw_entry_stamp);
	return stamp ? (__u64)(__u32)((__u32)(bpf_ktime_get_ns() / 1000000) - stamp) * 1000000 : 0;
}

/* The address of the MPTCP socket (which has the file) of a subflow; 0 for other sockets. Since 5.6. */
static __always_inline __u64 mptcp_of_subflow(struct tcp_sock *tp)
{
	if (!bpf_core_type_exists(struct mptcp_subflow_context) || !is_mptcp_subflow(tp))
		return 0;
	struct mptcp_subflow_context *subflow = (void *)BPF_CORE_READ(tp, inet_conn.icsk_ulp_data);
	return (__u64)BPF_CORE_READ(subflow, conn);
}

/* Whether everything written is acknowledged, including the DATA_FIN, which bytes_acked counts as one byte. */
static __always_inline bool mptcp_fin_acked(struct sock *sk)
{
	struct mptcp_sock *msk = (void *)sk;

	return BPF_CORE_READ(msk, bytes_acked) && BPF_CORE_READ(msk, snd_una) == BPF_CORE_READ(msk, write_seq);
}

#endif
