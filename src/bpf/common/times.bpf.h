/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Times that the kernel keeps in jiffies, as tcp_get_info() (net/ipv4/tcp.c) gives them. */
#ifndef TCPTOOLS_TIMES_BPF_H
#define TCPTOOLS_TIMES_BPF_H

#include "kernel/kernel.h"
#include "kernel/compat.bpf.h"

const volatile __u32 jiffy_us = 4000; /* USEC_PER_SEC / HZ of the running kernel */

/* include/linux/tcp.h: enum tcp_chrono */
enum { CHRONO_BUSY = 1, CHRONO_RWND_LIMITED, CHRONO_SNDBUF_LIMITED };

static __always_inline __u64 jiffies_us(__u64 jiffies)
{
	return jiffies * jiffy_us;
}

/* tcp_get_info_chrono_stats(): the running period is not in the sums yet. */
static __always_inline __u64 chrono_us(struct tcp_sock *tp, __u32 type, __u32 now)
{
	__u64 jiffies = tp->chrono_stat[type - 1];

	if (chrono_type(tp) == type)
		jiffies += now - tp->chrono_start;
	return jiffies_us(jiffies);
}

#endif
