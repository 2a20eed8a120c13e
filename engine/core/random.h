// random.h: counter-based random numbers. Everything drawn is a pure function of a key and an index; nothing here has
// state. The mapping from keys and indices to numbers is part of the engine's numerics:
//
//   block(key, i)  Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with Philox
//                  key key.a and counter (i low, i high, key.b low, key.b high): four 32-bit words, or two 64-bit
//                  words (words 0, 1 and 2, 3, the low half first)
//   f32            element i is word i % 4 of block i / 4; uniform: (word >> 8) 2^-24
//   f64            element i is 64-bit word i % 2 of block i / 2; uniform: (word >> 11) 2^-53
//   normal         Box-Muller on the words v, w at an even index and the odd one after it: sqrt(-2 log u) times
//                  cos(2 pi t) at the even index and sin(2 pi t) at the odd one.
//                  f32: u = ((v >> 1) + 1/2) 2^-31 as f32, t = w 2^-32; at most 6.67 in magnitude
//                  f64: u = ((v >> 12) + 1/2) 2^-52, t = (w >> 10) 2^-54; at most 8.58
#ifndef PG_CORE_RANDOM_H
#define PG_CORE_RANDOM_H

#include "engine/perigee.h"

// One block: Philox4x32-10 of a 64-bit key and a 128-bit counter, given as halves.
void pg_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t words[4]);

// Fill out[0..n) with standard normals, or else uniforms in [0, 1). Element i is drawn from keys[i * key_stride] (keys
// are pg_key) at index + i * index_stride, whatever else the call draws. Fast when key_stride is 0 and index_stride
// is 1.
void pg_draw_f32(bool normal, const void *keys, int64_t key_stride, uint64_t index, int64_t index_stride, int64_t n,
                 float *out);
void pg_draw_f64(bool normal, const void *keys, int64_t key_stride, uint64_t index, int64_t index_stride, int64_t n,
                 double *out);

// Several blocks at once, n at most PG_MOST_BLOCKS and numbers below 2^63. The keys folded with first, first + 1, …
// from one key; and of each of several keys the two 64-bit words of one block.
enum { PG_MOST_BLOCKS = 64 };
void pg_fold_range(pg_key key, uint64_t first, int n, pg_key *out);
void pg_read_blocks(const pg_key *keys, uint64_t block, int n, uint64_t *words_0, uint64_t *words_1);

// A permutation of 0..n-1, every one equally likely: Fisher and Yates with unbiased indices (D. Lemire, "Fast random
// integer generation in an interval", 2019) from the key's 64-bit words in order.
void pg_permutation(pg_key key, int64_t n, int64_t *out);

#endif
