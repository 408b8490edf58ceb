/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A recorded process: its identity, whether it still runs, and its current name. */
#ifndef TCPTOOLS_PROCESS_BPF_H
#define TCPTOOLS_PROCESS_BPF_H

#include "kernel/compat.bpf.h"
#include "filter.bpf.h"

/*
 * What many paths ask is a function, which the verifier checks once, or at least holds once. Not in tcpinfo: 5.10 refuses
 * its program at a socket's end then, and there are fewer paths.
 */
#ifdef OWNERS_INLINE
#define OWNER_FUNCTION static __always_inline
#define OWNER_NUMBERS static __always_inline
#else
#define OWNER_FUNCTION static __noinline
#define OWNER_NUMBERS __noinline
#endif

struct process {
	__u64 task;       /* address of the thread group leader, 0: none; read only, see process_is_alive() */
	__u32 tgid;       /* in the initial pid namespace */
	__u32 start_time; /* see START_UNIT: distinguishes it from a later process with the same PID */
};

/*
 * Start times are in units of 17 ms, which last for two years: PIDs do not come around within one, and of two processes
 * it can be told which began first. task_struct.start_boottime: since 5.5, before it real_start_time.
 */
#define START_UNIT 24 /* bits */

static __always_inline void process_of(struct process *process, struct task_struct *task)
{
	struct task_struct *leader = task_leader(task);

	process->task = (__u64)leader;
	process->tgid = task_tgid(task);
	process->start_time = 0;
	if (bpf_core_field_exists(leader->start_boottime))
		process->start_time = BPF_CORE_READ(leader, start_boottime) >> START_UNIT;
}

/* Whether a process was started before another one. */
static __always_inline bool process_is_older(const struct process *process, const struct process *other)
{
	return (__s32)(process->start_time - other->start_time) < 0;
}

static __always_inline bool process_is(const struct process *process, const struct process *other)
{
	return process->task == other->task && process->tgid == other->tgid && process->start_time == other->start_time;
}

/* The contents at the address of a task, which may have exited. */
struct task_look {
	__u32 tgid;
	__u32 start_time;
	int exit_state;
	bool has_files;
	__u8 pad[3];
	int threads; /* threads of its process, including itself, that have not been released */
};

static __always_inline void task_look(struct task_look *look, __u64 address)
{
	struct task_struct *task = (void *)address;

	look->start_time = 0;
	if (CAN_CAST(task_struct)) { /* plain loads, whose faults are caught */
		task = bpf_rdonly_cast(task, config.types.task_struct);
		look->tgid = task->tgid;
		look->exit_state = task->exit_state;
		look->has_files = task->files;
		look->start_time = task->start_boottime >> START_UNIT;
		look->threads = task->signal->nr_threads;
		return;
	}
	look->tgid = BPF_CORE_READ(task, tgid);
	look->exit_state = BPF_CORE_READ(task, exit_state);
	look->has_files = BPF_CORE_READ(task, files);
	look->threads = BPF_CORE_READ(task, signal, nr_threads);
	if (bpf_core_field_exists(task->start_boottime))
		look->start_time = BPF_CORE_READ(task, start_boottime) >> START_UNIT;
}

/*
 * Whether any thread of the process runs, or exits but has not closed its files yet (kernel/exit.c: do_exit,
 * exit_files). The leader's memory may have been reused: then the PID or the start time differs; if it was freed but
 * not reused, exit_state is not 0 (exit_notify, release_task). A leader may exit before other threads, and stays a
 * zombie until they exit. signal->nr_threads includes the leader, and each thread until it has closed its files
 * (signal->live only until the thread starts to exit); it is used only if signal still belongs to this process.
 *
 * A global function of numbers: the verifier checks it once, and not on each path of each caller.
 */
OWNER_NUMBERS int task_is_alive(__u64 address, __u32 tgid, __u32 start_time)
{
	struct task_struct *task = (void *)address;
	struct task_look look;

	if (!task)
		return false;
	if (tgid == bpf_get_current_pid_tgid() >> 32)
		return true;
	task_look(&look, address);
	if (look.tgid != tgid || look.start_time != start_time)
		return false;
	if (!look.exit_state && look.has_files)
		return true;
	if (look.threads <= 1)
		return false;
	__u32 owner = BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID], numbers[0].nr);
	return owner == tgid;
}

static __always_inline bool process_is_alive(const struct process *process)
{
	return task_is_alive(process->task, process->tgid, process->start_time);
}

enum { MAX_PID_NS_LEVEL = 32 }; /* include/linux/pid_namespace.h */

/* The PID of a process in a PID namespace; 0 if the process is not in it (kernel/pid.c: pid_nr_ns). */
OWNER_FUNCTION int id_in_namespace(__u64 address, __u32 inum)
{
	struct task_struct *task = (void *)address;
	struct pid *pid = BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID]);
	__u32 level = BPF_CORE_READ(pid, level);

	for (__u32 i = 1; i < MAX_PID_NS_LEVEL && i <= level; i++) {
		struct upid *id =
			(void *)__builtin_preserve_access_index(&pid->numbers) + i * bpf_core_type_size(struct upid);
		if (BPF_CORE_READ(id, ns, ns.inum) == inum)
			return BPF_CORE_READ(id, nr);
	}
	return 0;
}

/* The PID in the command's own PID namespace. */
static __always_inline __u32 process_id(struct task_struct *task)
{
	return config.pid_ns ? id_in_namespace((__u64)task, config.pid_ns) : task_tgid(task);
}

/* Likewise, for a recorded process that still runs. */
static __always_inline __u32 process_id_of(const struct process *process)
{
	return config.pid_ns ? id_in_namespace(process->task, config.pid_ns) : process->tgid;
}

/* Its name as it is now: exec changes it. */
static __always_inline void process_comm(__u8 *to, const struct process *process)
{
	struct task_struct *leader = (void *)process->task;
	__u64 *word = (__u64 *)to;

	if (CAN_CAST(task_struct)) {
		const __u64 *comm = (const __u64 *)READ_ONLY(leader, task_struct)->comm;
		word[0] = comm[0];
		word[1] = comm[1];
	} else {
		bpf_core_read(to, 16, &leader->comm);
	}
	comm_tidy(word);
}

#endif
