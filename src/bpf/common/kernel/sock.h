/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Namespaces and sockets. Part of kernel.h, which says what a field may be. */
#ifndef TCPTOOLS_KERNEL_SOCK_H
#define TCPTOOLS_KERNEL_SOCK_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* parts of the kernel's types */

/* include/linux/ns_common.h, include/net/net_namespace.h */
struct ns_common {
	unsigned int inum;
};

struct netns_ipv4 {
	int sysctl_tcp_rmem[3];
	__u8 sysctl_tcp_moderate_rcvbuf;   /* int before 5.15 */
	__u8 sysctl_tcp_abort_on_overflow; /* the same */
	__u8 sysctl_tcp_syncookies;        /* the same */
	int sysctl_max_syn_backlog;
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
};

/* include/linux/types.h */
typedef struct {
	__s64 counter;
} atomic64_t;

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

/* include/linux/types.h */
struct list_head {
	struct list_head *next;
};

/* include/linux/types.h, include/linux/timer_types.h */
struct hlist_node {
	struct hlist_node **pprev; /* NULL: the timer is not pending */
};

struct timer_list {
	struct hlist_node entry;
	unsigned long expires; /* jiffies */
};

struct proto;

/* include/net/sock_reuseport.h: the listeners of one address, with SO_REUSEPORT */
struct sock_reuseport {
	__u16 num_socks;
	unsigned int synq_overflow_ts; /* jiffies: of the last SYN cookie, to a second */
};

/* include/net/sock.h */
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if; /* of a link-local end, and of SO_BINDTODEVICE */
	struct proto *skc_prot;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
	struct sock *skc_listener; /* in the same place: of a request */
	atomic64_t skc_cookie;     /* 0 until somebody asks for it */
};

typedef struct {
	int owned;
} socket_lock_t;

/* include/linux/types.h, include/linux/refcount.h */
typedef struct {
	int counter;
} atomic_t;

typedef struct {
	atomic_t refs;
} refcount_t;

/* include/net/sock.h: a protocol, with the limits of its memory */
struct proto {
	char name[32];
	unsigned long *memory_pressure;
	long *sysctl_mem; /* three, in pages */
	int *sysctl_rmem;
	int *sysctl_wmem;
	__u32 sysctl_rmem_offset; /* in struct net; 0: sysctl_rmem */
	__u32 sysctl_wmem_offset;
	int *per_cpu_fw_alloc;
};

typedef struct {
	__u32 val;
} kuid_t;

/* include/linux/kernfs.h, include/linux/cgroup-defs.h */
struct kernfs_node {
	const char *name;
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct socket;

/* include/linux/skbuff.h: a list of packets, linked in a ring with its own head */
struct sk_buff_head {
	struct sk_buff *prev;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket; /* NULL once the file is closed */
	socket_lock_t sk_lock;
	kuid_t sk_uid;
	__u16 sk_protocol;
	__u8 sk_kern_sock : 1;
	__u8 sk_shutdown;
	int sk_err;
	int sk_err_soft; /* an error that ends the connection only if it does not recover; SO_ERROR takes it away */
	struct sk_buff_head sk_error_queue;
	__u32 sk_ack_backlog;         /* listener: established children that wait for accept() */
	__u32 sk_max_ack_backlog;     /* listener: its limit, from listen() and net.core.somaxconn */
	unsigned long sk_pacing_rate; /* bytes/s; ~0: not paced */
	__u16 sk_type;
	__u8 sk_userlocks : 4; /* until 6.6 a bitfield, then a byte */
	int sk_rcvbuf;
	int sk_sndbuf;
	int sk_wmem_queued;
	refcount_t sk_wmem_alloc;
	atomic_t sk_drops;
	struct {
		atomic_t rmem_alloc;
		int len;
	} sk_backlog;
	struct timer_list sk_timer; /* keepalive, and FIN_WAIT2 of an orphan */
	struct sock_cgroup_data sk_cgrp_data;
	struct sock_reuseport *sk_reuseport_cb; /* NULL without SO_REUSEPORT */
};

/* include/net/inet_sock.h */
struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

/* include/linux/tcp.h */
struct tcp_options_received {
	__u16 tstamp_ok : 1;
	__u16 wscale_ok : 1;
	__u16 sack_ok : 3;
	__u16 snd_wscale : 4;
	__u16 rcv_wscale : 4;
	int ts_recent_stamp; /* of a listener: jiffies of the last SYN cookie, to a second (include/net/tcp.h: tcp_synq_overflow) */
};

/* include/net/tcp.h: struct tcp_congestion_ops */
struct tcp_congestion_ops {
	char name[16];
};

/* include/net/request_sock.h: a connection between SYN and the end of the handshake */
struct request_sock {
	struct sock_common __req_common;
	__u8 num_retrans;
	struct sock *sk; /* in the accept queue: the established child */
};

struct fastopen_queue {
	int qlen;
	int max_qlen; /* 0: no Fast Open */
};

struct request_sock_queue {
	atomic_t qlen; /* the SYN queue */
	struct request_sock *rskq_accept_head;
	struct fastopen_queue fastopenq;
	__u8 rskq_defer_accept; /* TCP_DEFER_ACCEPT, in timeouts of the SYN/ACK; 0: not set */
};

/* include/net/inet_sock.h */
struct inet_request_sock {
	__u16 acked : 1; /* the client's ACK came, and was not used yet */
};

/* include/linux/tcp.h */
struct tcp_request_sock {
	__u64 snt_synack; /* us, CLOCK_MONOTONIC: of the first SYN/ACK; 0: none was sent */
	__u32 snt_isn;
};

/* include/net/inet_timewait_sock.h: what is left of a connection in TIME_WAIT, or in FIN_WAIT2 when it was closed */
struct inet_timewait_sock {
	volatile unsigned char tw_substate; /* TCP_TIME_WAIT or TCP_FIN_WAIT2 */
	struct timer_list tw_timer;
};

/* include/net/inet_connection_sock.h */
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	__u32 icsk_rto;         /* jiffies */
	__u32 icsk_pmtu_cookie; /* bytes */
	const struct tcp_congestion_ops *icsk_ca_ops;
	void *icsk_ulp_data;    /* of whatever lies above it */
	__u8 icsk_ca_state : 5; /* enum tcp_ca_state of include/uapi/linux/tcp.h; its width differs */
	__u8 icsk_backoff;
	struct {
		__u32 lrcvtime; /* jiffies */
		__u16 rcv_mss;
	} icsk_ack;
	struct request_sock_queue icsk_accept_queue;
	__u8 icsk_retransmits;      /* timeouts in a row */
	__u8 icsk_pending;          /* ICSK_TIME_*, 0 while the retransmission timer runs its handler */
	__u8 icsk_probes_out;       /* probes of a closed window, or keepalives, that were not answered */
	unsigned long icsk_timeout; /* jiffies: when that timer is due; until 6.17 */
	struct timer_list icsk_retransmit_timer;
};

/* include/linux/win_minmax.h */
struct minmax_sample {
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

/* include/linux/tcp.h */
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct list_head tsq_node;
	__u32 mss_cache;
	__u32 snd_cwnd;
	__u32 snd_ssthresh; /* 0x7fffffff: infinite */
	__u32 snd_wnd;
	__u32 rcv_wnd;
	__u32 packets_out;
	__u32 sacked_out;
	__u32 lost_out;
	__u32 retrans_out;
	struct minmax rtt_min; /* us */
	__u64 bytes_sent;      /* payload, retransmissions included */
	__u64 bytes_retrans;   /* payload sent again */
	__u64 tcp_clock_cache; /* ns, CLOCK_MONOTONIC: when it last looked at the clock */
	__u32 write_seq;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 srtt_us;        /* us << 3 */
	__u64 bytes_received; /* the FIN counts as one */
	__u64 bytes_acked;    /* our SYN and our FIN count as one each */
	__u32 data_segs_in;
	__u32 segs_out; /* retransmissions included, as in the next one */
	__u32 data_segs_out;
	__u32 rate_delivered;   /* packets */
	__u32 rate_interval_us; /* us */
	__u8 rate_app_limited : 1;
	__u32 total_retrans;
	__u32 undo_marker; /* where a reduction of the window may be undone; 0: nowhere */
	bool is_mptcp;
	__u8 nonagle : 4; /* TCP_NAGLE_* of include/net/tcp.h */
	__u8 repair : 1;  /* TCP_REPAIR: a connection that is restored, not made */
	int linger2;      /* TCP_LINGER2, jiffies; below 0: a closed socket does not wait for the other end's FIN */
	__u8 fastopen_connect : 1; /* TCP_FASTOPEN_CONNECT */
	__u8 syn_fastopen : 1;     /* our SYN had a Fast Open option */
	__u32 mdev_us;             /* us << 2 */
	__u32 reordering;
	__u32 reord_seen;
	__u32 dsack_dups;
	__u32 rcv_ooopack;
	__u32 delivered;
	__u32 delivered_ce;
	__u32 segs_in;
	__u32 rcv_ssthresh;
	__u32 retrans_stamp; /* in SYN_SENT: of the first SYN, in ms of CLOCK_MONOTONIC */
	__u32 lsndtime;      /* jiffies */
	__u32 rcv_tstamp;    /* jiffies */
	__u16 advmss;
	__u16 total_rto;
	__u8 ecn_flags;
	__u8 syn_data_acked : 1;
	__u8 syn_fastopen_child : 1;
	__u8 chrono_type;
	__u32 chrono_start;   /* jiffies */
	__u32 chrono_stat[3]; /* jiffies */
	struct tcp_options_received rx_opt;
	struct {
		__u32 rtt_us; /* us << 3 */
	} rcv_rtt_est;
	struct {
		int space; /* bytes */
		__u32 seq;
		__u64 time; /* us, CLOCK_MONOTONIC */
	} rcvq_space;
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u32 window_clamp;
};

/* net/mptcp/protocol.h */
struct mptcp_sock {
	__u64 write_seq;
	__u64 snd_una;
	__u64 bytes_received;
	__u64 bytes_acked;
};

/* Of a subflow: inet_connection_sock.icsk_ulp_data */
struct mptcp_subflow_context {
	struct sock *conn; /* the MPTCP socket */
};

/* include/linux/net.h */
struct socket {
	struct file *file;
	struct sock *sk;
};

#pragma clang diagnostic pop
#pragma clang attribute pop

#endif
