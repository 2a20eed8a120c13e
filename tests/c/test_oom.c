// test_oom.c: the n-th allocation of the engine fails, for n = 1, 2, … until everything succeeds: building a graph,
// differentiating, compiling and running it. Each failure must arrive as PG_ERR_MEMORY with a message (or be survived),
// leave nothing behind that is still counted or allocated, and not spoil the next attempt. Linked with --wrap, so that
// only the engine's own allocations fail; with SAN=1 the leak check of the sanitizer sees what was not freed.
#include <stdlib.h>

#include "tests/c/network.h"

static long countdown = -1; // allocations until one fails; below 0: none does
static long alive;          // blocks the engine holds

static bool allocation_fails(void) {
  return countdown >= 0 && countdown-- == 0;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *s);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *s);
void __wrap_free(void *p);

static void *count_block(void *p) {
  alive += p != NULL;
  return p;
}

void *__wrap_malloc(size_t size) {
  return allocation_fails() ? NULL : count_block(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return allocation_fails() ? NULL : count_block(__real_calloc(count, size));
}

void *__wrap_realloc(void *p, size_t size) {
  if (allocation_fails()) return NULL;
  return p ? __real_realloc(p, size) : count_block(__real_realloc(p, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
  return allocation_fails() ? NULL : count_block(__real_aligned_alloc(alignment, size));
}

char *__wrap_strdup(const char *s) {
  return allocation_fails() ? NULL : count_block(__real_strdup(s));
}

void __wrap_free(void *p) {
  alive -= p != NULL;
  __real_free(p);
}

static const network small = {PG_F32, 4, 6, 5, 3};

// Everything from nothing to two steps taken, on tensors, and everything given back.
static pg_status attempt(pg_executor executor, float *loss) {
  pg_layout *layout = NULL;
  pg_plan *plan = NULL;
  network_data d = {0};
  pg_status status = network_layout(&small, &layout);
  if (status == PG_OK) status = network_compile(&small, layout, executor, &plan);
  if (status == PG_OK) status = network_make_data(&small, layout, &d);
  for (int t = 1; t <= 2 && status == PG_OK; t++) status = network_step(plan, &d, t);
  if (status == PG_OK) {
    pg_tensor *out[NETWORK_OUTPUTS] = {d.t[0], d.t[1], d.t[2], d.t[6]};
    status = pg_run(plan, d.t, (double[]){1e-3, 3}, out);
  }
  if (status == PG_OK) *loss = *(float *)pg_tensor_data(d.t[6]);
  network_free_data(&d);
  pg_plan_free(plan);
  if (layout) pg_layout_release(layout);
  return status;
}

static void fail_each_allocation(pg_executor executor) {
  float expected = 0, loss = 0;
  CHECK_STATUS(attempt(executor, &expected), PG_OK); // also fills what is kept for good: arena, tables, the cache
  const long held = alive;
  const size_t used = pg_memory_used();
  long n = 0, survived = 0;
  for (;; n++) {
    CHECK_THAT(n < 100000, "no end");
    countdown = n;
    const pg_status status = attempt(executor, &loss);
    const bool all_allowed = countdown >= 0;
    countdown = -1;
    CHECK_THAT(alive == held, "allocation %ld: %ld blocks are left behind", n + 1, alive - held);
    CHECK_THAT(pg_memory_used() == used, "allocation %ld: %zu bytes of tensors are left behind", n + 1,
               pg_memory_used() - used);
    if (all_allowed) {
      CHECK_STATUS(status, PG_OK);
      break;
    }
    CHECK_THAT(status == PG_OK || status == PG_ERR_MEMORY, "allocation %ld: status %d: %s", n + 1, status,
               pg_last_error());
    CHECK_THAT(status == PG_OK || strstr(pg_last_error(), "out of memory"), "allocation %ld: message '%s'", n + 1,
               pg_last_error());
    survived += status == PG_OK;
    CHECK_THAT(status != PG_OK || loss == expected, "allocation %ld: survived with another result", n + 1);
  }
  CHECK(loss == expected);
  printf("# %ld allocations failed one by one, %ld of them survived\n", n, survived);
  CHECK_THAT(n > 100, "only %ld allocations", n);
}

static void each_failure_is_an_error_interpreted(void) {
  fail_each_allocation(PG_EXEC_INTERPRET);
}

static void each_failure_is_an_error_generated(void) {
  fail_each_allocation(PG_EXEC_GENERATE);
}

// The limit on tensor memory is an error like any other, and lifting it lets the same work succeed.
static void the_memory_limit_is_an_error(void) {
  pg_tensor *t = NULL;
  pg_memory_limit(pg_memory_used() + (1 << 20));
  const pg_status status = pg_tensor_new(PG_F32, 1, (int64_t[]){1 << 20}, NULL, &t);
  pg_memory_limit(0);
  CHECK(status == PG_ERR_MEMORY);
  CHECK(strstr(pg_last_error(), "limit"));
  CHECK_STATUS(pg_tensor_new(PG_F32, 1, (int64_t[]){1 << 20}, NULL, &t), PG_OK);
  pg_tensor_release(t);
}

int main(void) {
  CHECK_RUN(each_failure_is_an_error_interpreted);
  CHECK_RUN(each_failure_is_an_error_generated);
  CHECK_RUN(the_memory_limit_is_an_error);
  return check_result();
}
