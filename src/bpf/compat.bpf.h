/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where kernels differ: one getter per difference, each with what changed and since when.
 * The running kernel's BTF decides, never its version: distributions backport these changes.
 */
#ifndef TCPTOOLS_COMPAT_BPF_H
#define TCPTOOLS_COMPAT_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* tcp_sock.is_mptcp: since 5.6, only with CONFIG_MPTCP; a bitfield next to others in some releases. */
static __always_inline bool is_mptcp_subflow(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->is_mptcp) && BPF_CORE_READ_BITFIELD(tp, is_mptcp);
}

/* sk_cgrp_data.cgroup: since 5.15; before it a tagged word, `val`, whose pointer form had its low bits clear. */
struct sock_cgroup_data___tagged {
	__u64 val;
} __attribute__((preserve_access_index));

static __always_inline struct cgroup *sock_cgroup(struct sock *sk)
{
	if (bpf_core_field_exists(struct sock_cgroup_data, cgroup))
		return BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	struct sock_cgroup_data___tagged *tagged = (void *)__builtin_preserve_access_index(&sk->sk_cgrp_data);
	return (struct cgroup *)(BPF_CORE_READ(tagged, val) & ~3ULL);
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

/* Whether everything that was written is acknowledged, and so the DATA_FIN, which bytes_acked counts as one. */
static __always_inline bool mptcp_fin_acked(struct sock *sk)
{
	struct mptcp_sock *msk = (void *)sk;

	return BPF_CORE_READ(msk, bytes_acked) && BPF_CORE_READ(msk, snd_una) == BPF_CORE_READ(msk, write_seq);
}

#endif
