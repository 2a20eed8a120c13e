// test_noalloc.c: after its first run a plan allocates nothing, counted by standing in for malloc and its kin: whatever
// the engine, OpenBLAS, OpenMP or the C library asks for is seen. Under sanitizers, which stand there themselves, it is
// skipped.
#ifndef __SANITIZE_ADDRESS__

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "tests/c/network.h"

static atomic_long calls; // to any of the functions below

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *p);

void *malloc(size_t size) {
  calls++;
  return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  calls++;
  return __libc_calloc(count, size);
}

void *realloc(void *p, size_t size) {
  calls++;
  return __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  calls++;
  return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size) {
  calls++;
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : ENOMEM;
}

void free(void *p) {
  calls += p != NULL;
  __libc_free(p);
}

// Steps 2 to 100 of a network, with a run of another plan (as a short last batch is) every tenth step.
static void train_and_count(pg_executor executor, int threads) {
  const network full = {PG_F32, 128, 784, 512, 10}, last = {PG_F32, 96, 784, 512, 10};
  pg_layout *layout;
  pg_plan *plan, *plan_of_last;
  network_data d, d_of_last;
  pg_set_threads(threads);
  CHECK_STATUS(network_layout(&full, &layout), PG_OK);
  CHECK_STATUS(network_compile(&full, layout, executor, &plan), PG_OK);
  CHECK_STATUS(network_compile(&last, layout, executor, &plan_of_last), PG_OK);
  CHECK_STATUS(network_make_data(&full, layout, &d), PG_OK);
  CHECK_STATUS(network_make_data(&last, layout, &d_of_last), PG_OK);
  CHECK_STATUS(network_step(plan, &d, 1), PG_OK);
  const long before = calls;
  int steps = executor == PG_EXEC_INTERPRET ? 20 : 100;
  for (int t = 2; t <= steps; t++) {
    CHECK_STATUS(network_step(plan, &d, t), PG_OK);
    if (t % 10 == 0) CHECK_STATUS(network_step(plan_of_last, &d_of_last, t), PG_OK);
  }
  const long after = calls;
  CHECK_THAT(after == before, "%ld calls to malloc and its kin in %d steps with %d threads", after - before, steps - 1,
             threads);
  network_free_data(&d);
  network_free_data(&d_of_last);
  pg_plan_free(plan);
  pg_plan_free(plan_of_last);
  pg_layout_release(layout);
}

static void calls_are_counted(void) {
  const long before = calls;
  void *volatile p = malloc(10);
  p = realloc(p, 20);
  free(p);
  CHECK_THAT(calls == before + 3, "%ld", calls - before);
}

static void generated_steps_allocate_nothing(void) {
  train_and_count(PG_EXEC_GENERATE, 1);
  train_and_count(PG_EXEC_GENERATE, 2);
}

static void interpreted_steps_allocate_nothing(void) {
  train_and_count(PG_EXEC_INTERPRET, 1);
  train_and_count(PG_EXEC_INTERPRET, 2);
}

#else

#include "tests/c/check.h"

static void skip_under_sanitizers(void) {
  CHECK_SKIP("the sanitizers stand in for malloc themselves");
}
#define calls_are_counted skip_under_sanitizers
#define generated_steps_allocate_nothing skip_under_sanitizers
#define interpreted_steps_allocate_nothing skip_under_sanitizers

#endif

int main(void) {
  CHECK_RUN(calls_are_counted);
  CHECK_RUN(generated_steps_allocate_nothing);
  CHECK_RUN(interpreted_steps_allocate_nothing);
  return check_result();
}
