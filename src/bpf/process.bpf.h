/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A process that is remembered: who it was, whether it still runs, and what it is called now. */
#ifndef TCPTOOLS_PROCESS_BPF_H
#define TCPTOOLS_PROCESS_BPF_H

#include "compat.bpf.h"
#include "filter.bpf.h"

struct process {
	__u64 task;  /* address of the thread group's leader, 0: none; only to be read from, see process_lives() */
	__u32 tgid;  /* in the initial pid namespace */
	__u32 birth; /* lower half of its start time: tells it from a later process with the same id */
};

/* task_struct.start_boottime: since 5.5, before it real_start_time. */
static __always_inline void process_of(struct process *process, struct task_struct *task)
{
	struct task_struct *leader = task_leader(task);

	process->task = (__u64)leader;
	process->tgid = task_tgid(task);
	process->birth = 0;
	if (bpf_core_field_exists(leader->start_boottime))
		process->birth = BPF_CORE_READ(leader, start_boottime);
}

static __always_inline bool process_is(const struct process *process, const struct process *other)
{
	return process->task == other->task && process->tgid == other->tgid && process->birth == other->birth;
}

/* What is at the address of a task, which may have gone. */
struct task_look {
	__u32 tgid;
	__u32 birth;
	int exit_state;
	bool has_files;
	int threads; /* of its process, itself too, that have not wholly gone */
};

static __always_inline void task_look(struct task_look *look, __u64 address)
{
	struct task_struct *task = (void *)address;

	look->birth = 0;
	if (bpf_ksym_exists(bpf_rdonly_cast)) { /* plain loads, whose faults are caught */
		task = bpf_rdonly_cast(task, bpf_core_type_id_kernel(struct task_struct));
		look->tgid = task->tgid;
		look->exit_state = task->exit_state;
		look->has_files = task->files;
		look->birth = task->start_boottime;
		look->threads = task->signal->nr_threads;
		return;
	}
	look->tgid = BPF_CORE_READ(task, tgid);
	look->exit_state = BPF_CORE_READ(task, exit_state);
	look->has_files = BPF_CORE_READ(task, files);
	look->threads = BPF_CORE_READ(task, signal, nr_threads);
	if (bpf_core_field_exists(task->start_boottime))
		look->birth = BPF_CORE_READ(task, start_boottime);
}

/*
 * Whether a thread of it still runs, or it ends and has not closed its files yet (kernel/exit.c: do_exit, exit_files);
 * a zombie does not. The leader's memory may be another task's by now: then the id or the start is another one, and of
 * a task whose memory nobody has taken yet exit_state is not 0 (exit_notify, release_task). A leader may end before
 * other threads, also when all of them are killed, and waits for them as a zombie: signal->nr_threads counts it, too,
 * and a thread until it has closed the files (signal->live only until it begins to end); it is believed only if it
 * still belongs to this process.
 */
static __always_inline bool process_lives(const struct process *process)
{
	struct task_struct *task = (void *)process->task;
	struct task_look look;

	if (!task)
		return false;
	if (process->tgid == bpf_get_current_pid_tgid() >> 32)
		return true;
	task_look(&look, process->task);
	if (look.tgid != process->tgid || look.birth != process->birth)
		return false;
	if (!look.exit_state && look.has_files)
		return true;
	if (look.threads <= 1)
		return false;
	__u32 tgid = BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID], numbers[0].nr);
	return tgid == process->tgid;
}

enum { MAX_PID_NS_LEVEL = 32 }; /* include/linux/pid_namespace.h */

/* The id of a process in one of the pid namespaces that it is in; 0 if it is in another (kernel/pid.c: pid_nr_ns). */
static __always_inline __u32 id_in_namespace(struct task_struct *task, __u32 inum)
{
	struct pid *pid = BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID]);
	__u32 level = BPF_CORE_READ(pid, level);

	for (__u32 i = 1; i < MAX_PID_NS_LEVEL && i <= level; i++) {
		struct upid *id = (void *)__builtin_preserve_access_index(&pid->numbers) +
				  i * bpf_core_type_size(struct upid);
		if (BPF_CORE_READ(id, ns, ns.inum) == inum)
			return BPF_CORE_READ(id, nr);
	}
	return 0;
}

/* The id by which the user knows a process. */
static __always_inline __u32 process_id(struct task_struct *task)
{
	return config.pid_ns ? id_in_namespace(task, config.pid_ns) : task_tgid(task);
}

/* The same of one that is remembered, and lives. */
static __always_inline __u32 process_id_of(const struct process *process)
{
	return config.pid_ns ? id_in_namespace((void *)process->task, config.pid_ns) : process->tgid;
}

/* Its name as it is now: exec changes it. */
static __always_inline void process_comm(__u8 *to, const struct process *process)
{
	struct task_struct *leader = (void *)process->task;

	bpf_core_read(to, 16, &leader->comm);
	comm_tidy((__u64 *)to);
}

#endif
