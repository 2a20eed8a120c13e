// replay.h: the meaning of a graph, and plans held against it. reference() runs every node as a plan of its own, as
// eager mode does, interpreted; same_bits_everywhere() compiles the graph whole and demands the same bits of every
// result from the interpreter on one thread and from generated code on 1, 2 and 3 threads, twice each, also where a
// result takes the place of an input.
#ifndef PG_TESTS_REPLAY_H
#define PG_TESTS_REPLAY_H

#include <stdlib.h>
#include <string.h>

#include "engine/ops/ops.h"
#include "tests/c/check.h"

enum { MAX_NODES = 4000 };

static inline void run_node(const pg_graph *g, pg_value v, pg_tensor **values, const double *weak) {
  const pg_node *n = pg_at(g, v);
  pg_graph *h;
  if (pg_graph_new(&h) != PG_OK) abort();
  pg_value in[16];
  pg_tensor *args[16];
  double scalars[16];
  int nargs = 0;
  for (int i = 0; i < n->nin; i++) {
    const pg_node *m = pg_at(g, n->in[i]);
    if (m->weak) {
      scalars[h->nscalars] = weak[n->in[i]];
      in[i] = pg_scalar(h);
      continue;
    }
    in[i] = pg_input(h, (pg_dtype)m->dtype, m->ndim, m->shape, m->layout);
    args[nargs++] = values[n->in[i]];
  }
  pg_value out = pg_node_make(h, n->op, n->nin, in, &n->attrs, NULL);
  pg_plan *plan = NULL;
  pg_compile_options options = {.executor = PG_EXEC_INTERPRET};
  CHECK_STATUS(pg_tensor_new((pg_dtype)n->dtype, n->ndim, n->shape, n->layout, &values[v]), PG_OK);
  CHECK_STATUS(pg_compile(h, 1, &out, &options, &plan), PG_OK);
  CHECK_STATUS(pg_run(plan, args, scalars, &values[v]), PG_OK);
  pg_plan_free(plan);
  pg_graph_free(h);
}

static inline void reference(const pg_graph *g, pg_tensor *const *inputs, const double *scalars, pg_tensor **values) {
  static double weak[MAX_NODES];
  for (int v = 0; v < pg_graph_size(g); v++) {
    const pg_node *n = pg_at(g, v);
    values[v] = NULL;
    if (n->op == PG_OP_INPUT)
      values[v] = pg_tensor_retain(inputs[n->attrs.a[0]]);
    else if (n->op == PG_OP_SCALAR)
      weak[v] = scalars[n->attrs.a[0]];
    else if (n->op == PG_OP_NUMBER)
      weak[v] = n->attrs.x;
    else if (n->weak) // only products here
      weak[v] = weak[n->in[0]] * weak[n->in[1]];
    else
      run_node(g, v, values, weak);
  }
}

// False, with a comment line for each difference, if some plan gives other bits. donate as in pg_compile_options.
static inline bool same_bits_everywhere(pg_graph *g, pg_tensor *const *inputs, const double *scalars, int nout,
                                        const pg_value *outs, const int *donate, const char *name) {
  static pg_tensor *values[MAX_NODES], *in[64], *out[256];
  const int nodes = pg_graph_size(g), nin = g->ninputs;
  CHECK(nodes <= MAX_NODES && nin <= 64 && nout <= 256);
  reference(g, inputs, scalars, values);
  bool ok = true;
  for (int mode = 0; mode < 4 && ok; mode++) {
    pg_compile_options options = {.executor = mode == 0 ? PG_EXEC_INTERPRET : PG_EXEC_AUTO, .donate = donate};
    pg_set_threads(mode ? mode : 1);
    pg_plan *plan = NULL;
    if (pg_compile(g, nout, outs, &options, &plan) != PG_OK) {
      printf("# %s: %s\n", name, pg_last_error());
      ok = false;
      break;
    }
    for (int again = 0; again < 2; again++) {
      for (int i = 0; i < nin; i++) CHECK_STATUS(pg_tensor_clone(inputs[i], &in[i]), PG_OK);
      for (int k = 0; k < nout; k++) {
        const pg_node *n = pg_at(g, outs[k]);
        if (donate[k] >= 0)
          out[k] = pg_tensor_retain(in[donate[k]]);
        else
          CHECK_STATUS(pg_tensor_new((pg_dtype)n->dtype, n->ndim, n->shape, n->layout, &out[k]), PG_OK);
      }
      CHECK_STATUS(pg_run(plan, in, scalars, out), PG_OK);
      for (int k = 0; k < nout; k++) {
        pg_tensor *want = values[outs[k]];
        if (memcmp(pg_tensor_data(want), pg_tensor_data(out[k]), pg_tensor_bytes(want)) != 0) {
          printf("# %s: result %d (node %d, %s) differs, %s, %d threads\n", name, k, outs[k],
                 pg_op_table[pg_at(g, outs[k])->op]->name, mode ? "generated" : "interpreted", pg_threads());
          ok = false;
        }
        pg_tensor_release(out[k]);
      }
      for (int i = 0; i < nin; i++) pg_tensor_release(in[i]);
    }
    pg_plan_free(plan);
  }
  for (int v = 0; v < nodes; v++) pg_tensor_release(values[v]);
  return ok;
}

#endif
