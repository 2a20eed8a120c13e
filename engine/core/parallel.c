// parallel.c: the one OpenMP pool. See parallel.h.
#include "engine/core/parallel.h"

#include <omp.h>

static int wanted_threads; // 0: not set yet

int pg_threads(void) {
  if (!wanted_threads) wanted_threads = omp_get_max_threads();
  return wanted_threads;
}

void pg_set_threads(int n) {
  wanted_threads = n > 0 ? n : omp_get_num_procs();
}

void pg_parallel_for(int64_t tiles, double work, pg_tile_fn fn, void *arg) {
  int threads = pg_threads();
  if (threads <= 1 || tiles <= 1 || work < PG_PARALLEL_WORK || omp_in_parallel()) {
    if (tiles > 0) fn(arg, 0, tiles);
    return;
  }
  // Tiles are handed out in runs, so that a thread that was held up does not hold up the others; who takes which run
  // changes nothing in the result.
  int64_t run = tiles / (threads * 8);
  if (run < 1) run = 1;
  int64_t runs = (tiles + run - 1) / run;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < runs; i++) {
    int64_t t0 = i * run, t1 = t0 + run < tiles ? t0 + run : tiles;
    fn(arg, t0, t1);
  }
}
