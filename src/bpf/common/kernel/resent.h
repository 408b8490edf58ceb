/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Kinds of retransmissions, and what is kept of a socket to tell them apart: owner/resent.bpf.h. */
#ifndef TCPTOOLS_RESENT_H
#define TCPTOOLS_RESENT_H

#include "kernel/kernel.h"

/* Kind of retransmission. */
enum kind { KIND_OTHER, KIND_SYN, KIND_SYNACK, KIND_RTO, KIND_FAST, KIND_TLP, KINDS };

struct resent {
	__u32 total_retrans; /* of the socket, when last read */
	__u8 timed_out;      /* the timer has fired since the congestion state became Loss */
	__u8 counts_known;
	__u8 pad[2];
};

#endif
