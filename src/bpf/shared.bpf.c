/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No program: gives Rust the shared types, so that no struct is written twice. Every tool checks that its own agree. */
#include "count.bpf.h"
#include "hist.bpf.h"
#include "record.bpf.h"
#include "tcp.bpf.h"

EXPORT_TYPE(head);
EXPORT_TYPE(filter);
EXPORT_TYPE(config);
EXPORT_TYPE(counters);
EXPORT_TYPE(lacks);
EXPORT_TYPE(filter_set);
EXPORT_TYPE(seen);
EXPORT_TYPE(seen_bytes);
EXPORT_TYPE(seen_end);
EXPORT_TYPE(seen_limit);
EXPORT_TYPE(seen_segment);
EXPORT_TYPE(seen_read);
EXPORT_TYPE(seen_reset);
