/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Processes and their numbers. Part of kernel.h, which says what a field may be. */
#ifndef TCPTOOLS_KERNEL_TASK_H
#define TCPTOOLS_KERNEL_TASK_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* parts of the kernel's types */

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

#pragma clang diagnostic pop
#pragma clang attribute pop

#endif
