/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a session's socket tells of its end, from which user space decides why it ended. */
#ifndef TCPTOOLS_ENDED_BPF_H
#define TCPTOOLS_ENDED_BPF_H

#include "bytes.bpf.h"

/* Facts about the end of a session besides its state and error: the bits of src/commands/tcplife/close_reason.rs. */
enum ended {
	ENDED_MPTCP = 1,
	ENDED_RST_SENT = 1 << 1,
	ENDED_RST_RECEIVED = 1 << 2,
	ENDED_SOFT_ERROR = 1 << 3,
	ENDED_FIN_RECEIVED = 1 << 4,
	ENDED_UNREAD = 1 << 5,
	ENDED_UNACKED = 1 << 6,
	ENDED_OWNED = 1 << 7,
	ENDED_NO_LINGER2 = 1 << 8,
	ENDED_RCV_SHUTDOWN = 1 << 9,
	ENDED_REPAIR = 1 << 10,
};

/*
 * At the change to CLOSE, but for resets that were seen before. `data_segs_in`: of the socket when its FIN was queued. tp:
 * NULL for an MPTCP connection's own socket.
 */
static __always_inline __u16 ended_by_socket(struct sock *sk, struct tcp_sock *tp, __u32 data_segs_in, int error)
{
	__u16 bits = 0;

	if (fin_received(sk))
		bits |= ENDED_FIN_RECEIVED;
	if (sk->sk_lock.owned)
		bits |= ENDED_OWNED;
	if (sk->sk_shutdown & RCV_SHUTDOWN)
		bits |= ENDED_RCV_SHUTDOWN;
	if (!tp)
		return bits | ENDED_MPTCP;
	if (sk->sk_err_soft == error)
		bits |= ENDED_SOFT_ERROR;
	if (tp->data_segs_in != data_segs_in)
		bits |= ENDED_UNREAD;
	if (tp->snd_una != tp->write_seq)
		bits |= ENDED_UNACKED;
	if (tp->linger2 < 0)
		bits |= ENDED_NO_LINGER2;
	if (BPF_CORE_READ_BITFIELD(tp, repair))
		bits |= ENDED_REPAIR;
	return bits;
}

#endif
