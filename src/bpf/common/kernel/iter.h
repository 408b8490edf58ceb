/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Files, and the contexts of the iterators. Part of kernel.h, which says what a field may be. */
#ifndef TCPTOOLS_KERNEL_ITER_H
#define TCPTOOLS_KERNEL_ITER_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* parts of the kernel's types */

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

#pragma clang diagnostic pop
#pragma clang attribute pop

#endif
