/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of a socket, wherever it is kept. */
#ifndef TCPTOOLS_SOCK_STATE_BPF_H
#define TCPTOOLS_SOCK_STATE_BPF_H

#include "kernel/process.bpf.h"

/* The process found with the socket open, and in which scan of all files; see whose.bpf.h. */
struct holder {
	struct process process;
	__u32 number;
	__u32 pad;
};

struct sock_state {
	struct owner owner; /* the last process that acted on the socket */
	__u32 change;       /* the last state change handled; see claim_change() */
	__u32 stored; /* half of the address of the socket that was counted as stored; a child has its listener's */
	struct process process; /* the same process as `owner` */
	__u32 owner_scan;       /* `owner` had it open in this scan of all files, or later */
	__u32 over;             /* its slot may be taken over; see state_done() */
#ifdef TOOL_STATE
	TOOL_STATE tool;
#endif
	struct holder holder;
};

/*
 * The last scan of all files, by an increasing number: the ID of the iteration. `owner_scan` and `holder.number` of struct
 * sock_state say which scan they are from.
 */
struct scan {
	__u32 number;
	__u32 pad;
};
struct scan scan SEC(".data.sockets") = {};

static const struct sock_state ZERO_STATE SEC(".rodata.blank") = {};

#endif
