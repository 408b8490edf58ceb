/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* No program: exports the shared types to Rust, so that no struct is defined twice. */
#include "count.bpf.h"
#include "hist.bpf.h"
#include "fallback/fallback.bpf.h"
#include "peer.bpf.h"
#include "tcp.bpf.h"

EXPORT_TYPE(head);
EXPORT_TYPE(filter);
EXPORT_TYPE(cgroup_path);
EXPORT_TYPE(config);
EXPORT_TYPE(counters);
EXPORT_TYPE(missing_features);
EXPORT_TYPE(filter_set);
EXPORT_TYPE(trace_event);
EXPORT_TYPE(byte_counts);
EXPORT_TYPE(close_event);
EXPORT_TYPE(limit_event);
EXPORT_TYPE(segment_event);
EXPORT_TYPE(read_event);
EXPORT_TYPE(reset_event);
EXPORT_TYPE(end);
EXPORT_TYPE(numbers);
EXPORT_TYPE(place);
EXPORT_TYPE(placed);

EXPORT_ENUM(trace_kind);
EXPORT_ENUM(trace_known);
EXPORT_ENUM(pid_source);
EXPORT_ENUM(tcp_state);
EXPORT_ENUM(tcp_ca_state);
