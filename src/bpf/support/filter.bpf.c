/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* For tests only (tests/live/fallback/filters.rs): applies the filters to a flow and an owner set by user space. */
#include "filter.bpf.h"

struct flow flow = {};
struct owner owner = {};

SEC("raw_tp")
int decide(void *ctx)
{
	return flow_matches(&flow) && owner_matches(&owner);
}
