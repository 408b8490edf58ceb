/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types and fields that the suite reads, and nothing else.
 *
 * Every struct is relocated against the running kernel's BTF when a program is loaded (CO-RE), so only the
 * names and nesting matter here, never the offsets. A field that some supported kernel lacks, or has in
 * another shape, is read through compat.bpf.h only.
 */
#ifndef TCPTOOLS_KERNEL_H
#define TCPTOOLS_KERNEL_H

typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* include/uapi/linux/bpf.h: these numbers are ABI. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27
};
enum { BPF_F_NO_PREALLOC = 1U << 0, BPF_F_CLONE = 1U << 9 };
enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_SK_STORAGE_GET_F_CREATE = 1 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RINGBUF_HDR_SZ = 8 };
#define BPF_F_CURRENT_CPU 0xffffffffULL

/* A lock in the value of a map, which the kernel knows by the name of its type. */
struct bpf_spin_lock {
	__u32 val;
};

/* include/uapi/linux/if_ether.h, include/uapi/linux/in_route.h, include/uapi/linux/ipv6_route.h */
enum { ETH_P_IP = 0x0800, ETH_P_IPV6 = 0x86dd };
enum { DST_METADATA = 0x80 };  /* include/net/dst.h */
#define RTCF_LOCAL 0x80000000U /* a route to this host; RTF_LOCAL of IPv6 is the same bit */

/* include/linux/socket.h, include/uapi/linux/in.h */
enum { AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16 };
enum { SOCK_STREAM = 1, SOCK_RAW = 3 };
enum { MSG_PEEK = 2, MSG_ERRQUEUE = 0x2000 };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_UDPLITE = 136, IPPROTO_MPTCP = 262 };

/* include/net/tcp_states.h: seen by users in /proc/net/tcp, so ABI. */
enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
	TCP_BOUND_INACTIVE,
};

/* include/net/sock.h: enum sock_flags (bits of sk_flags); sk_shutdown */
enum { SOCK_DEAD = 0, SOCK_DONE = 1, SOCK_KEEPOPEN = 3 };
enum { RCV_SHUTDOWN = 1 };
enum { SOCK_RCVBUF_LOCK = 2 }; /* sk_userlocks: SO_RCVBUF was set */
enum { SK_MEM_SEND = 0, SK_MEM_RECV = 1 };

/* include/net/tcp.h: TCPHDR_*, the flags on the wire; enum tcp_ca_state is uapi, so ABI. */
enum { TCPHDR_SYN = 0x02, TCPHDR_ACK = 0x10 };
enum tcp_ca_state { TCP_CA_OPEN, TCP_CA_DISORDER, TCP_CA_CWR, TCP_CA_RECOVERY, TCP_CA_LOSS };

/* include/net/inet_connection_sock.h: ICSK_TIME_*, the same numbers since 4.15 */
enum { ICSK_TIME_RETRANS = 1, ICSK_TIME_PROBE0 = 3, ICSK_TIME_LOSS_PROBE = 5, ICSK_TIME_REO_TIMEOUT = 6 };

/* include/net/tcp.h: bits of tcp_sock.nonagle */
enum { TCP_NAGLE_OFF = 1, TCP_NAGLE_CORK = 2 };

/* include/uapi/asm-generic/errno.h (the same on every architecture that Rust and BPF both serve) */
enum {
	ENOENT = 2,
	E2BIG = 7,
	ENOMEM = 12,
	EAGAIN = 11,
	EBUSY = 16,
	EINVAL = 22,
	EPIPE = 32,
	EADDRNOTAVAIL = 99,
	ECONNABORTED = 103,
	ECONNRESET = 104,
	ETIMEDOUT = 110,
	ECONNREFUSED = 111,
	EHOSTUNREACH = 113
};

/* include/uapi/linux/errqueue.h: where an entry of the error queue comes from */
enum { SO_EE_ORIGIN_ICMP = 2, SO_EE_ORIGIN_ICMP6 = 3 };

/* include/uapi/linux/magic.h */
enum { SOCKFS_MAGIC = 0x534F434B };

/* include/linux/sched.h */
enum { PF_KTHREAD = 0x00200000 };

#include "kernel/sock.h"
#include "kernel/skb.h"
#include "kernel/task.h"
#include "kernel/iter.h"

#endif
