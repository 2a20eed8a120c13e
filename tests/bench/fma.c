// fma.c: the ceiling of arithmetic: a loop of nothing but fused multiply-adds in registers, as many independent ones as
// hide their latency. Speaks the protocol of torch_peer.py: `setup MEGAFLOP - THREADS` → ok, `run TIMES` → seconds,
// where one run is MEGAFLOP million floating-point operations over all threads together.
#include <omp.h>
#include <stdio.h>
#include <time.h>

#ifdef __AVX512F__
enum { WIDTH = 64, CHAINS = 24 }; // of 32 registers
#else
enum { WIDTH = 32, CHAINS = 12 }; // of 16 registers
#endif

typedef float lanes __attribute__((vector_size(WIDTH)));

static volatile float sink;

// Each chain tends to b / (1 - a), so no number ever grows, vanishes or becomes subnormal.
static void multiply_add(long rounds) {
  lanes x[CHAINS];
  const lanes a = (lanes){0} + 0.5f, b = (lanes){0} + 0.25f;
  for (int c = 0; c < CHAINS; c++) x[c] = (lanes){0} + (float)c;
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 24
    for (int c = 0; c < CHAINS; c++) x[c] = x[c] * a + b;
  }
  lanes sum = x[0];
  for (int c = 1; c < CHAINS; c++) sum += x[c];
  sink = sum[0];
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void) {
  char line[200];
  long rounds = 0;
  printf("ready a loop of multiply-adds\n"), fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    double megaflop;
    int threads, times;
    if (sscanf(line, "setup %lf - %d", &megaflop, &threads) == 2) {
      omp_set_num_threads(threads);
      rounds = (long)(1e6 * megaflop / (2.0 * CHAINS * (WIDTH / sizeof(float)) * threads));
      printf("ok\n");
    } else if (sscanf(line, "run %d", &times) == 1) {
      const double start = now();
      for (int t = 0; t < times; t++) {
#pragma omp parallel
        multiply_add(rounds);
      }
      printf("%.9f\n", now() - start);
    } else {
      printf("error %s", line);
    }
    fflush(stdout);
  }
  return 0;
}
