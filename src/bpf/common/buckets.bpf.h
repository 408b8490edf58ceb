/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Log-linear buckets: 2^sub_bits per power of two, and one per value below 2^sub_bits. The middle of a bucket is within
 * 1/2^(sub_bits + 1) of any value in it. Read by src/aggregate/buckets.rs.
 */
#ifndef TCPTOOLS_BUCKETS_BPF_H
#define TCPTOOLS_BUCKETS_BPF_H

/* Number of buckets for values below 2^max_exponent; larger values fall into the last. */
#define BUCKET_COUNT(sub_bits, max_exponent) (((max_exponent) - (sub_bits) + 1) << (sub_bits))

static __always_inline __u32 bucket_of(__u64 value, __u32 sub_bits, __u32 max_exponent)
{
	__u32 exponent = 0;
	__u64 rest = value;

	if (!(value >> sub_bits))
		return value;
	if (value >> max_exponent)
		return BUCKET_COUNT(sub_bits, max_exponent) - 1;
	if (rest >> 32) {
		exponent += 32;
		rest >>= 32;
	}
	if (rest >> 16) {
		exponent += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		exponent += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		exponent += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		exponent += 2;
		rest >>= 2;
	}
	exponent += rest >> 1;
	return ((exponent - sub_bits + 1) << sub_bits) + (value >> (exponent - sub_bits) & ((1 << sub_bits) - 1));
}

#endif
