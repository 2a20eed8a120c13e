// parallel.c: the one OpenMP pool. See parallel.h. Since results do not depend on the number of threads, a region may
// use fewer than it was given: when other processes hold the cores, a region that forks waits for a thread that is not
// running, many times longer than the work takes. So regions are watched now and then, and while the machine is crowded
// they run serially.
#include "engine/core/parallel.h"

#include <omp.h>
#include <time.h>

enum { WATCH_EVERY = 16, WATCH_AT_FIRST = 8 };
static const double CROWDED = 0.7;         // of the processor time that the threads would have had to themselves
static const double SERIAL_SECONDS = 0.25; // until forking is tried again

static int wanted_threads; // 0: not set yet

static struct {
  unsigned regions;    // since forking was last tried
  double share;        // moving average of the processor time that regions got
  double serial_until; // by the monotonic clock
} crowd = {.share = 1};

int pg_threads(void) {
  if (!wanted_threads) wanted_threads = omp_get_max_threads();
  return wanted_threads;
}

void pg_set_threads(int n) {
  wanted_threads = n > 0 ? n : omp_get_num_procs();
  crowd.share = 1;
  crowd.serial_until = 0;
}

static double seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run_region(int64_t tiles, int threads, pg_tile_fn fn, void *arg) {
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

// Threads that wait for each other spin, so on free cores a region gets as much processor time as it has threads.
static void watch_region(int64_t tiles, int threads, pg_tile_fn fn, void *arg) {
  const int usable = threads < omp_get_num_procs() ? threads : omp_get_num_procs();
  double start = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
  run_region(tiles, threads, fn, arg);
  double end = seconds(CLOCK_MONOTONIC), share = (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / ((end - start) * usable);
  crowd.share = 0.75 * crowd.share + 0.25 * share;
  if (crowd.share >= CROWDED) return;
  crowd.serial_until = end + SERIAL_SECONDS;
  crowd.regions = 0;
  crowd.share = 1;
}

static bool is_crowded(void) {
  if (crowd.serial_until == 0) return false;
  if (seconds(CLOCK_MONOTONIC) < crowd.serial_until) return true;
  crowd.serial_until = 0;
  return false;
}

void pg_parallel_for(int64_t tiles, double work, pg_tile_fn fn, void *arg) {
  int threads = pg_threads();
  if (threads <= 1 || tiles <= 1 || work < PG_PARALLEL_WORK || omp_in_parallel() || is_crowded()) {
    if (tiles > 0) fn(arg, 0, tiles);
    return;
  }
  const bool watch = crowd.regions < WATCH_AT_FIRST || crowd.regions % WATCH_EVERY == 0;
  crowd.regions++;
  if (watch)
    watch_region(tiles, threads, fn, arg);
  else
    run_region(tiles, threads, fn, arg);
}
