/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's call stack at an event, on request. A record that can carry one ends with `__u64 stack[STACK_DEPTH]`. */
#ifndef TCPTOOLS_STACK_BPF_H
#define TCPTOOLS_STACK_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_helpers.h>

enum { STACK_DEPTH = 32 };

const volatile bool stacks = false;

/* The size to reserve: without stacks a record ends before its stack. */
#define SIZE_WITH_STACK(type) (stacks ? sizeof(type) : __builtin_offsetof(type, stack))

/* Innermost first; the helper fills the rest with zeros. */
#define STACK_TAKE(ctx, event)                                                         \
	do {                                                                           \
		if (stacks)                                                            \
			bpf_get_stack(ctx, (event)->stack, sizeof((event)->stack), 0); \
	} while (0)

#endif
