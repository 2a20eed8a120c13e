// rmw.c: the yardstick of updates: a plain loop that reads four arrays and writes three of them, as AdamW must, with
// hardly any arithmetic. Speaks the protocol of torch_peer.py: `setup ELEMENTS - THREADS` → ok, `run TIMES` → seconds.
#define _GNU_SOURCE
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { HUGE_PAGE = 2 << 20 };

static float *make_array(size_t n, float x) {
  const size_t bytes = (n * sizeof(float) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  float *p = aligned_alloc(HUGE_PAGE, bytes);
  if (!p) exit(1);
  madvise(p, bytes, MADV_HUGEPAGE);
  for (size_t i = 0; i < n; i++) p[i] = x;
  return p;
}

static void update(size_t n, float *restrict p, float *restrict m, float *restrict v, const float *restrict g) {
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < n; i++) {
    const float gi = g[i], mi = 0.9f * m[i] + 0.1f * gi, vi = 0.999f * v[i] + gi;
    m[i] = mi;
    v[i] = vi;
    p[i] -= mi * vi;
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
  float *p = NULL, *m = NULL, *v = NULL, *g = NULL;
  printf("ready plain C\n"), fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    size_t elements;
    int threads, times;
    if (sscanf(line, "setup %zu - %d", &elements, &threads) == 2) {
      if (elements != n) {
        free(p), free(m), free(v), free(g);
        n = elements;
        p = make_array(n, 1), m = make_array(n, 0), v = make_array(n, 0), g = make_array(n, 1e-3f);
      }
      omp_set_num_threads(threads);
      update(n, p, m, v, g);
      printf("ok\n");
    } else if (sscanf(line, "run %d", &times) == 1) {
      const double start = now();
      for (int t = 0; t < times; t++) update(n, p, m, v, g);
      printf("%.9f\n", now() - start);
    } else {
      printf("error %s", line);
    }
    fflush(stdout);
  }
  free(p), free(m), free(v), free(g);
  return 0;
}
