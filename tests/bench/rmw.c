// rmw.c: the yardstick of updates: a plain loop that reads some arrays and writes part of them, as an update rule must,
// with hardly any arithmetic. Speaks the protocol of torch_peer.py: `setup ELEMENTS READ+WRITTEN THREADS` → ok, where
// 4+3 is AdamW's four arrays of which three are written; `run TIMES` → seconds.
#define _GNU_SOURCE
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { HUGE_PAGE = 2 << 20, MOST = 6 };

static float *make_array(size_t n, float x) {
  const size_t bytes = (n * sizeof(float) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  float *p = aligned_alloc(HUGE_PAGE, bytes);
  if (!p) exit(1);
  madvise(p, bytes, MADV_HUGEPAGE);
  for (size_t i = 0; i < n; i++) p[i] = x;
  return p;
}

// Compiled once for each pair of numbers, so that nothing but the arrays is left in the loop.
static inline __attribute__((always_inline)) void go_over(size_t from, size_t to, int nread, int nwritten,
                                                          float *const *array) {
  float *a[MOST];
  for (int k = 0; k < nread; k++) a[k] = array[k];
#pragma omp simd
  for (size_t i = from; i < to; i++) {
    float sum = 0;
    for (int k = 0; k < nread; k++) sum += a[k][i];
    for (int k = 0; k < nwritten; k++) a[k][i] = 0.9f * a[k][i] + 1e-3f * sum;
  }
}

static void go_2_1(size_t from, size_t to, float *const *a) {
  go_over(from, to, 2, 1, a);
}
static void go_3_1(size_t from, size_t to, float *const *a) {
  go_over(from, to, 3, 1, a);
}
static void go_3_2(size_t from, size_t to, float *const *a) {
  go_over(from, to, 3, 2, a);
}
static void go_4_2(size_t from, size_t to, float *const *a) {
  go_over(from, to, 4, 2, a);
}
static void go_4_3(size_t from, size_t to, float *const *a) {
  go_over(from, to, 4, 3, a);
}
static void go_5_4(size_t from, size_t to, float *const *a) {
  go_over(from, to, 5, 4, a);
}
static void go_6_4(size_t from, size_t to, float *const *a) {
  go_over(from, to, 6, 4, a);
}

static const struct loop {
  int nread, nwritten;
  void (*go)(size_t from, size_t to, float *const *a);
} loops[] = {{2, 1, go_2_1}, {3, 1, go_3_1}, {3, 2, go_3_2}, {4, 2, go_4_2},
             {4, 3, go_4_3}, {5, 4, go_5_4}, {6, 4, go_6_4}};

static const struct loop *find_loop(int nread, int nwritten) {
  for (size_t i = 0; i < sizeof loops / sizeof *loops; i++)
    if (loops[i].nread == nread && loops[i].nwritten == nwritten) return &loops[i];
  return NULL;
}

static void update(const struct loop *loop, size_t n, float *const *a) {
#pragma omp parallel
  {
    const size_t threads = (size_t)omp_get_num_threads(), id = (size_t)omp_get_thread_num();
    loop->go(n * id / threads, n * (id + 1) / threads, a);
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void) {
  char line[200];
  size_t n = 0;
  float *a[MOST] = {0};
  const struct loop *loop = NULL;
  printf("ready plain C\n"), fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    size_t elements;
    int nread, nwritten, threads, times;
    if (sscanf(line, "setup %zu %d+%d %d", &elements, &nread, &nwritten, &threads) == 4 && find_loop(nread, nwritten)) {
      loop = find_loop(nread, nwritten);
      for (int k = 0; k < MOST; k++) {
        if (elements != n) free(a[k]), a[k] = NULL;
        if (k < nread && !a[k]) a[k] = make_array(elements, 1e-3f);
      }
      n = elements;
      omp_set_num_threads(threads);
      update(loop, n, a);
      printf("ok\n");
    } else if (loop && sscanf(line, "run %d", &times) == 1) {
      const double start = now();
      for (int t = 0; t < times; t++) update(loop, n, a);
      printf("%.9f\n", now() - start);
    } else {
      printf("error %s", line);
    }
    fflush(stdout);
  }
  for (int k = 0; k < MOST; k++) free(a[k]);
  return 0;
}
