// parallel.c: the one OpenMP pool. See parallel.h. Since results do not depend on the number of threads, a region may
// use fewer than it was given: when other processes hold the cores, a region that forks waits for a thread that is not
// running, many times longer than the work takes. So the processor time that regions get is watched, and while the
// machine is crowded they run serially. The kernel books the time of a thread that runs on another core only at its
// ticks, some milliseconds apart, so nothing less than a window of many regions tells.
#include "engine/core/parallel.h"

#include <omp.h>
#include <time.h>

// All in seconds.
static const double WINDOW = 0.1;    // watched at once
static const double SETTLING = 0.02; // threads that slept wake on one core and are moved apart by and by
static const double ASLEEP = 0.005;  // after this long without a region they sleep
static const double SERIAL = 0.25;   // until forking is tried again; doubled each time in a row
static const double LONGEST_SERIAL = 2;
// Parts of a window:
static const double CROWDED = 0.75; // of the processor time that the threads would have to themselves
static const double DENSE = 0.7;    // inside regions, for the window to tell anything

static int wanted_threads; // 0: not set yet

static struct {
  double begin;        // of the window, by the monotonic clock; it may lie ahead
  double cpu;          // processor time of the process then; below 0: not read yet
  double inside;       // time spent in regions since then
  double last;         // when the last region ended
  double serial;       // how long the last serial time lasted
  double serial_until; // 0: regions fork
} crowd;

int pg_threads(void) {
  if (!wanted_threads) wanted_threads = omp_get_max_threads();
  return wanted_threads;
}

void pg_set_threads(int n) {
  wanted_threads = n > 0 ? n : omp_get_num_procs();
  crowd.last = crowd.serial = crowd.serial_until = 0;
}

static double seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool backward;

// Every other region goes from the last tiles to the first: it begins with what the one before has left in the cache.
static void run_region(int64_t tiles, int threads, pg_tile_fn fn, void *arg) {
  // Tiles are handed out in runs, so that a thread that was held up does not hold up the others; who takes which run
  // changes nothing in the result.
  int64_t run = tiles / (threads * 8);
  if (run < 1) run = 1;
  int64_t runs = (tiles + run - 1) / run;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < runs; i++) {
    int64_t t0 = (backward ? runs - 1 - i : i) * run, t1 = t0 + run < tiles ? t0 + run : tiles;
    fn(arg, t0, t1);
  }
  backward = !backward;
}

static void open_window(double begin) {
  crowd.begin = begin;
  crowd.cpu = -1;
  crowd.inside = 0;
}

// Threads that wait for each other spin, so on free cores a window gets as much processor time as it has threads.
static void judge_window(int threads, double now) {
  const int usable = threads < omp_get_num_procs() ? threads : omp_get_num_procs();
  const double wall = now - crowd.begin, share = (seconds(CLOCK_PROCESS_CPUTIME_ID) - crowd.cpu) / (wall * usable);
  const bool tells = crowd.inside >= DENSE * wall;
  open_window(now);
  if (!tells) return;
  if (share >= CROWDED) {
    crowd.serial = 0;
    return;
  }
  crowd.serial = crowd.serial == 0 ? SERIAL : 2 * crowd.serial;
  if (crowd.serial > LONGEST_SERIAL) crowd.serial = LONGEST_SERIAL;
  crowd.serial_until = now + crowd.serial;
}

static void watch_region(int64_t tiles, int threads, pg_tile_fn fn, void *arg) {
  const double start = seconds(CLOCK_MONOTONIC);
  if (start - crowd.last > ASLEEP) open_window(start + SETTLING);
  const bool watched = start >= crowd.begin;
  if (watched && crowd.cpu < 0) {
    crowd.begin = start;
    crowd.cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
  }
  run_region(tiles, threads, fn, arg);
  crowd.last = seconds(CLOCK_MONOTONIC);
  if (!watched) return;
  crowd.inside += crowd.last - start;
  if (crowd.last - crowd.begin >= WINDOW) judge_window(threads, crowd.last);
}

// Is it a time in which regions run serially?
static bool is_crowded(void) {
  if (crowd.serial_until == 0) return false;
  if (seconds(CLOCK_MONOTONIC) < crowd.serial_until) return true;
  crowd.serial_until = 0;
  return false;
}

static bool serially;

void pg_run_serially(bool on) {
  serially = on;
}

void pg_parallel_for(int64_t tiles, double work, pg_tile_fn fn, void *arg) {
  int threads = pg_threads();
  if (threads <= 1 || serially || tiles <= 1 || work < PG_PARALLEL_WORK || omp_in_parallel() || is_crowded()) {
    if (tiles > 0) fn(arg, 0, tiles);
    return;
  }
  watch_region(tiles, threads, fn, arg);
}
