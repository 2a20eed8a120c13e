// test_oom.c: the n-th allocation of the engine fails, for n = 1, 2, … until everything succeeds: building a graph,
// differentiating, batching, compiling and running it. Each failure must arrive as PG_ERR_MEMORY with a message (or be
// survived), leave nothing behind that is still counted or allocated, and not spoil the next attempt. Linked with
// --wrap, so that only the engine's own allocations fail; with SAN=1 the leak check of the sanitizer sees what was not
// freed.
#include <stdlib.h>

#include "engine/core/error.h"
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
static pg_status attempt_training(pg_executor executor, float *loss) {
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

enum { STEPS = 2, CLIENTS = 3 };

// Inputs of a graph as network_build declares them, with axes in front of x, y and the key.
static void declare_inputs(pg_graph *g, const pg_layout *layout, int axes, const int64_t *front, pg_value *in) {
  const int64_t behind[3][2] = {{small.batch, small.in}, {small.batch, 0}, {0, 0}};
  const pg_dtype dtypes[3] = {small.dtype, PG_U8, PG_KEY};
  for (int i = 0; i < 3; i++) in[i] = pg_input(g, small.dtype, 0, NULL, layout);
  for (int i = 0; i < 3; i++) {
    int64_t shape[4] = {0};
    memcpy(shape, front, (size_t)axes * sizeof *front);
    memcpy(shape + axes, behind[i], sizeof behind[i]);
    in[3 + i] = pg_input(g, dtypes[i], axes + 2 - i, shape, NULL);
  }
  for (int i = 0; i < 2; i++) in[NETWORK_INPUTS + i] = pg_scalar(g);
}

static const int64_t extents[2] = {CLIENTS, STEPS};

// A scan of training steps in g, each under a remat: the last theta and the losses.
static pg_status build_steps(pg_graph *g, const pg_layout *layout, pg_value *outs) {
  pg_graph *step, *call;
  pg_value in[NETWORK_INPUTS + 2], all[NETWORK_OUTPUTS], results[NETWORK_OUTPUTS];
  PG_TRY(pg_graph_new(&call));
  pg_status status = network_build(call, &small, layout, all);
  if (status == PG_OK) status = pg_graph_new(&step);
  if (status != PG_OK) {
    pg_graph_free(call);
    return status;
  }
  declare_inputs(step, layout, 0, NULL, in);
  status = pg_remat(step, call, NETWORK_OUTPUTS, all, in, results);
  if (status != PG_OK) {
    pg_graph_free(step);
    return status;
  }
  declare_inputs(g, layout, 1, extents + 1, in);
  PG_TRY(pg_scan(g, step, NETWORK_OUTPUTS, results, 0, 3, in, STEPS, false, all));
  outs[0] = all[0], outs[1] = all[3];
  return PG_OK;
}

// Steps of several clients at once, from one theta on batches of their own, compiled.
static pg_status attempt_batch(pg_executor executor, float *kernels) {
  pg_layout *layout = NULL;
  pg_graph *one = NULL, *all = NULL;
  pg_plan *plan = NULL;
  pg_value outs[2], results[2], in[NETWORK_INPUTS + 2];
  const bool batched[NETWORK_INPUTS + 2] = {[3] = true, [4] = true, [5] = true};
  pg_status status = network_layout(&small, &layout);
  if (status == PG_OK) status = pg_graph_new(&one);
  if (status == PG_OK) status = build_steps(one, layout, outs);
  if (status == PG_OK) status = pg_graph_new(&all);
  if (status == PG_OK) {
    declare_inputs(all, layout, 2, extents, in);
    status = pg_vmap(all, one, in, batched, CLIENTS, 2, outs, results);
  }
  const pg_compile_options options = {.executor = executor};
  if (status == PG_OK) status = pg_compile(all, 2, results, &options, &plan);
  pg_plan_info info = {0};
  if (status == PG_OK) pg_plan_describe(plan, &info);
  *kernels = (float)info.kernels;
  pg_plan_free(plan);
  pg_graph_free(all);
  pg_graph_free(one);
  if (layout) pg_layout_release(layout);
  return status;
}

static void fail_each_allocation(pg_status (*attempt)(pg_executor, float *), pg_executor executor) {
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
  fail_each_allocation(attempt_training, PG_EXEC_INTERPRET);
}

static void each_failure_is_an_error_generated(void) {
  fail_each_allocation(attempt_training, PG_EXEC_GENERATE);
}

static void each_failure_is_an_error_in_batches(void) {
  fail_each_allocation(attempt_batch, PG_EXEC_INTERPRET);
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
  CHECK_RUN(each_failure_is_an_error_in_batches);
  CHECK_RUN(the_memory_limit_is_an_error);
  return check_result();
}
