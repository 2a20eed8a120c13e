// parallel.h: the one way to loop in parallel, over a grid of tiles fixed by shapes alone, so that results do not
// depend on the number of threads.
#ifndef PG_CORE_PARALLEL_H
#define PG_CORE_PARALLEL_H

#include "engine/perigee.h"

// Below this much work (roughly scalar operations) a loop runs serially: forking costs more than it gains.
#define PG_PARALLEL_WORK 60000.0

// Call fn(arg, t0, t1) for disjoint ranges covering [0, tiles). `work` is the whole loop's work in scalar operations.
typedef void (*pg_tile_fn)(void *arg, int64_t t0, int64_t t1);
void pg_parallel_for(int64_t tiles, double work, pg_tile_fn fn, void *arg);

// While set, all loops run serially: for a caller that has found this to be faster.
void pg_run_serially(bool serially);

#endif
