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
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_SK_STORAGE = 24, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_F_NO_PREALLOC = 1U << 0, BPF_F_CLONE = 1U << 9 };
enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_SK_STORAGE_GET_F_CREATE = 1 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RINGBUF_HDR_SZ = 8 };
#define BPF_F_CURRENT_CPU 0xffffffffULL

/* include/linux/socket.h, include/uapi/linux/in.h */
enum { AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16 };
enum { SOCK_STREAM = 1, SOCK_RAW = 3 };
enum { IPPROTO_TCP = 6, IPPROTO_UDP = 17, IPPROTO_UDPLITE = 136, IPPROTO_MPTCP = 262 };

/* include/net/tcp_states.h: seen by users in /proc/net/tcp, so ABI. */
enum {
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
};

/* include/net/sock.h: enum sock_flags (bits of sk_flags); sk_shutdown */
enum { SOCK_DEAD = 0, SOCK_DONE = 1 };
enum { RCV_SHUTDOWN = 1 };
enum { SOCK_RCVBUF_LOCK = 2 }; /* sk_userlocks: SO_RCVBUF was set */
enum { SK_MEM_SEND = 0, SK_MEM_RECV = 1 };

/* include/net/tcp.h: TCPHDR_*, the flags on the wire; enum tcp_ca_state is uapi, so ABI. */
enum { TCPHDR_SYN = 0x02, TCPHDR_ACK = 0x10 };
enum { TCP_CA_OPEN, TCP_CA_DISORDER, TCP_CA_CWR, TCP_CA_RECOVERY, TCP_CA_LOSS };

/* include/net/inet_connection_sock.h: ICSK_TIME_*, the same numbers since 4.15 */
enum { ICSK_TIME_LOSS_PROBE = 5 };

/* include/uapi/asm-generic/errno.h (the same on every architecture that Rust and BPF both serve) */
enum { E2BIG = 7, ENOMEM = 12, EAGAIN = 11, EBUSY = 16, EINVAL = 22, EPIPE = 32, EADDRNOTAVAIL = 99, ECONNABORTED = 103, ECONNRESET = 104, ETIMEDOUT = 110, ECONNREFUSED = 111, EHOSTUNREACH = 113 };

/* include/uapi/linux/errqueue.h: where an entry of the error queue comes from */
enum { SO_EE_ORIGIN_ICMP = 2, SO_EE_ORIGIN_ICMP6 = 3 };

/* include/uapi/linux/magic.h */
enum { SOCKFS_MAGIC = 0x534F434B };

/* include/linux/sched.h */
enum { PF_KTHREAD = 0x00200000 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/ns_common.h, include/net/net_namespace.h */
struct ns_common {
	unsigned int inum;
};

struct netns_ipv4 {
	int sysctl_tcp_rmem[3];
	__u8 sysctl_tcp_moderate_rcvbuf; /* int before 5.15 */
	__u8 sysctl_tcp_abort_on_overflow; /* the same */
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

struct proto;

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
	atomic64_t skc_cookie; /* 0 until somebody asks for it */
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
	__u32 sk_ack_backlog;     /* listener: established children that wait for accept() */
	__u32 sk_max_ack_backlog; /* listener: its limit, from listen() and net.core.somaxconn */
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
	} sk_backlog;
	struct sock_cgroup_data sk_cgrp_data;
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
};

/* include/net/tcp.h: struct tcp_congestion_ops */
struct tcp_congestion_ops {
	char name[16];
};

/* include/net/request_sock.h: a connection between SYN and the end of the handshake */
struct request_sock {
	struct sock_common __req_common;
	__u8 num_retrans;
};

struct request_sock_queue {
	atomic_t qlen;
	__u8 rskq_defer_accept; /* TCP_DEFER_ACCEPT, in timeouts of the SYN/ACK; 0: not set */
};

/* include/net/inet_sock.h */
struct inet_request_sock {
	__u16 acked : 1; /* the client's ACK came, and was not used yet */
};

/* include/linux/tcp.h */
struct tcp_request_sock {
	__u32 snt_isn;
};

/* include/net/inet_connection_sock.h */
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	__u32 icsk_rto;		/* jiffies */
	__u32 icsk_pmtu_cookie; /* bytes */
	const struct tcp_congestion_ops *icsk_ca_ops;
	void *icsk_ulp_data; /* of whatever lies above it */
	__u8 icsk_ca_state : 5; /* enum tcp_ca_state of include/uapi/linux/tcp.h; its width differs */
	__u8 icsk_backoff;
	struct {
		__u32 lrcvtime; /* jiffies */
		__u16 rcv_mss;
	} icsk_ack;
	struct request_sock_queue icsk_accept_queue;
	__u8 icsk_retransmits; /* timeouts in a row */
	__u8 icsk_pending;     /* ICSK_TIME_*, 0 while the retransmission timer runs its handler */
	unsigned long icsk_timeout; /* jiffies: when that timer is due; until 6.17 */
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
	__u32 write_seq;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 srtt_us; /* us << 3 */
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
	__u8 repair : 1;           /* TCP_REPAIR: a connection that is restored, not made */
	int linger2;               /* TCP_LINGER2, jiffies; below 0: a closed socket does not wait for the other end's FIN */
	__u8 fastopen_connect : 1; /* TCP_FASTOPEN_CONNECT */
	__u8 syn_fastopen : 1;     /* our SYN had a Fast Open option */
	__u32 mdev_us; /* us << 2 */
	__u32 reordering;
	__u32 reord_seen;
	__u32 dsack_dups;
	__u32 rcv_ooopack;
	__u32 delivered;
	__u32 delivered_ce;
	__u32 segs_in;
	__u32 rcv_ssthresh;
	__u32 lsndtime;	  /* jiffies */
	__u32 rcv_tstamp; /* jiffies */
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

/* include/linux/netdevice.h */
struct net_device {
	possible_net_t nd_net;
};

/* include/linux/skbuff.h */
struct sk_buff {
	struct sk_buff *prev;
	unsigned int truesize;
	int skb_iif; /* the interface that it came by */
	struct net_device *dev;
	unsigned int len;
	char cb[48];
	__u16 transport_header; /* from head */
	__u16 network_header;
	unsigned char *head;
	unsigned char *data;
};

/* include/linux/errqueue.h: what an entry of the error queue keeps in skb->cb */
struct sock_extended_err {
	__u32 ee_errno;
	__u8 ee_origin;
};

struct sock_exterr_skb {
	struct sock_extended_err ee;
};

/* include/net/tcp.h: what TCP keeps in skb->cb */
struct tcp_skb_cb {
	__u32 seq;
	__u32 end_seq;
	__u16 tcp_gso_segs;
	__u16 tcp_flags;
};

/* include/linux/pid.h, include/linux/pid_namespace.h, include/linux/sched/signal.h */
struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level; /* of the innermost namespace; the initial one is 0 */
	struct upid numbers[1];
};

enum pid_type { PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_MAX };

struct signal_struct {
	int nr_threads; /* that are not released; the leader, when its parent has waited for it */
	struct pid *pids[PIDTYPE_MAX];
};

/* include/linux/sched.h */
struct task_struct {
	unsigned int flags;
	int exit_state; /* not 0: it has ended, and may wait for its parent */
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct files_struct *files; /* NULL: it ends, and has closed them, or is about to */
	struct signal_struct *signal;
	__u64 start_boottime; /* ns */
	char comm[16];
};

/* kernel/bpf/bpf_iter.c and friends: the contexts of the iterators */
struct seq_file;

/* include/linux/fs.h */
struct super_block {
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id; /* of this iteration; grows */
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct sock *sk;
	void *value;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *key;
	void *value;
};

/* include/linux/net.h */
struct socket {
	struct file *file;
	struct sock *sk;
};

#pragma clang attribute pop

#endif
