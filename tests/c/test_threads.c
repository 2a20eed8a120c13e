// test_threads.c: a whole training step gives the same bits with 1, 2 and 3 threads, at shapes just below, at and above
// the edges of every tile grid: of products (64, 128, 256, 512), of rows (256), columns (1024) and chunks (4096).
#include <stdlib.h>

#include "engine/graph/pace.h"
#include "tests/c/network.h"

enum { STEPS = 3, THREADS = 3 };

static const network networks[] = {
    {PG_F32, 1, 1, 1, 2},         {PG_F32, 3, 5, 7, 3},        {PG_F32, 63, 127, 128, 10},  {PG_F32, 64, 129, 127, 10},
    {PG_F32, 65, 784, 129, 10},   {PG_F32, 127, 255, 256, 64}, {PG_F32, 128, 257, 255, 65}, {PG_F32, 129, 100, 257, 63},
    {PG_F32, 255, 511, 512, 11},  {PG_F32, 256, 513, 511, 10}, {PG_F32, 257, 64, 513, 10},  {PG_F32, 513, 31, 1024, 10},
    {PG_F32, 300, 33, 1025, 9},   {PG_F32, 2, 4095, 9, 2},     {PG_F32, 2, 4097, 9, 2},     {PG_F64, 65, 129, 257, 10},
    {PG_F64, 257, 100, 130, 128},
};
enum { NETWORKS = sizeof networks / sizeof *networks };

// The state after a few steps: theta, m, v and the loss.
static void train(const network *n, const pg_layout *layout, pg_executor executor, network_data *d) {
  pg_plan *plan;
  CHECK_STATUS(network_compile(n, layout, executor, &plan), PG_OK);
  CHECK_STATUS(network_make_data(n, layout, d), PG_OK);
  for (int t = 1; t <= STEPS; t++) CHECK_STATUS(network_step(plan, d, t), PG_OK);
  pg_plan_free(plan);
}

static void compare(const network *n, const network_data *a, const network_data *b, const char *what) {
  static const int compared[] = {0, 1, 2, 6};
  for (int i = 0; i < 4; i++) {
    const pg_tensor *x = a->t[compared[i]], *y = b->t[compared[i]];
    CHECK_THAT(!memcmp(pg_tensor_data(x), pg_tensor_data(y), pg_tensor_bytes(x)),
               "batch %d, %d-%d-%d-%d: tensor %d differs with %s", (int)n->batch, (int)n->in, (int)n->hidden,
               (int)n->hidden, (int)n->classes, compared[i], what);
  }
}

static void every_network(pg_executor executor, int count) {
  for (int i = 0; i < count; i++) {
    const network *n = &networks[i];
    pg_layout *layout;
    CHECK_STATUS(network_layout(n, &layout), PG_OK);
    network_data one, more;
    pg_set_threads(1);
    train(n, layout, executor, &one);
    for (int threads = 2; threads <= THREADS; threads++) {
      pg_set_threads(threads);
      train(n, layout, executor, &more);
      compare(n, &one, &more, threads == 2 ? "2 threads" : "3 threads");
      network_free_data(&more);
    }
    network_free_data(&one);
    pg_layout_release(layout);
  }
}

static void threads_do_not_change_bits_generated(void) {
  every_network(PG_EXEC_GENERATE, NETWORKS);
}

static void threads_do_not_change_bits_interpreted(void) {
  every_network(PG_EXEC_INTERPRET, NETWORKS);
}

// A step is not a step that does nothing: parameters move and the loss falls.
static void training_trains(void) {
  const network n = {PG_F32, 65, 129, 127, 10};
  pg_layout *layout;
  pg_plan *plan;
  network_data d;
  CHECK_STATUS(network_layout(&n, &layout), PG_OK);
  CHECK_STATUS(network_compile(&n, layout, PG_EXEC_AUTO, &plan), PG_OK);
  CHECK_STATUS(network_make_data(&n, layout, &d), PG_OK);
  float first = 0, last = 0;
  for (int t = 1; t <= 200; t++) {
    CHECK_STATUS(network_step(plan, &d, t), PG_OK);
    last = *(float *)pg_tensor_data(d.t[6]);
    if (t == 1) first = last;
  }
  CHECK_THAT(first > 2.2 && first < 2.6 && last < 0.5 * first, "loss %g, then %g", first, last);
  network_free_data(&d);
  pg_plan_free(plan);
  pg_layout_release(layout);
}

// ---- whether threads pay
// ---------------------------------------------------------------------------------------------

// Runs of a plan that takes these times on all threads and on one: how many of `n` were serial.
static int count_serial(pg_pace *pace, int n, double threads, double one) {
  int serial = 0;
  for (int i = 0; i < n; i++) {
    bool timed;
    const bool on_one = pg_pace_next(pace, &timed);
    serial += on_one;
    pg_pace_note(pace, on_one ? one : threads);
  }
  return serial;
}

static void plans_keep_the_faster_of_all_threads_and_one(void) {
  pg_pace pace = {0};
  CHECK(count_serial(&pace, 1024, 1e-3, 1.8e-3) <= 12);           // trials only
  CHECK(count_serial(&pace, 1024, 2.7e-3, 1.8e-3) >= 1024 - 16);  // the cores have moved apart
  CHECK(count_serial(&pace, 1024, 1.75e-3, 1.8e-3) >= 1024 - 16); // not worth a change
  CHECK(count_serial(&pace, 1024, 1e-3, 1.8e-3) <= 16);
  pace = (pg_pace){0};
  CHECK(count_serial(&pace, 1024, 0.1, 0.05) == 0); // trials of it would cost
}

int main(void) {
  CHECK_RUN(plans_keep_the_faster_of_all_threads_and_one);
  CHECK_RUN(training_trains);
  CHECK_RUN(threads_do_not_change_bits_interpreted);
  CHECK_RUN(threads_do_not_change_bits_generated);
  return check_result();
}
