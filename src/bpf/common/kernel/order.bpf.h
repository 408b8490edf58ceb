/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The order in which other CPUs see stores: that of the program on x86, any on other processors, unless a lock is
 * released and taken again between them. BPF has instructions for it since 6.15 only.
 */
#ifndef TCPTOOLS_ORDER_BPF_H
#define TCPTOOLS_ORDER_BPF_H

#ifdef __TARGET_ARCH_x86
enum { IN_ORDER = 1 };
#else
enum { IN_ORDER = 0 };
#endif

#endif
