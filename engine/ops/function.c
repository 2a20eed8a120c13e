// function.c: the functions that a script calls by name: every primitive under its own name, unless a composite of
// that name wraps it, and the composites.
#include <stdlib.h>
#include <string.h>

#include "engine/ops/composite.h"

static const pg_function functions[] = {
#define M(name, least, most) {#name, least, most, -1, pg_composite_##name},
    PG_COMPOSITES(M)
#undef M
#define M(NAME, name, arity) {#name, arity < 0 ? 0 : arity, arity, PG_OP_##NAME, NULL},
        PG_MAP_OPS(M) PG_OTHER_OPS(M)
#undef M
};

enum { COUNT = sizeof functions / sizeof functions[0] };

static const pg_function *sorted[COUNT];
static int sorted_count; // 0: not sorted yet

// Arguments and regions need more than operands and attributes.
static bool can_be_called(const pg_function *f) {
  if (f->op < 0) return true;
  const pg_op_class cls = pg_op_table[f->op]->cls;
  return cls != PG_CLASS_SOURCE && cls != PG_CLASS_REGION && f->op != PG_OP_TAP;
}

// By name; of one name, the composite first.
static int compare(const void *a, const void *b) {
  const pg_function *p = *(const pg_function *const *)a, *q = *(const pg_function *const *)b;
  const int order = strcmp(p->name, q->name);
  return order ? order : (p->op >= 0) - (q->op >= 0);
}

static void sort_functions(void) {
  int n = 0;
  for (int i = 0; i < COUNT; i++)
    if (can_be_called(&functions[i])) sorted[n++] = &functions[i];
  qsort(sorted, (size_t)n, sizeof *sorted, compare);
  int kept = 0;
  for (int i = 0; i < n; i++)
    if (kept == 0 || strcmp(sorted[kept - 1]->name, sorted[i]->name) != 0) sorted[kept++] = sorted[i];
  sorted_count = kept;
}

const pg_function *pg_function_at(int i) {
  if (!sorted_count) sort_functions();
  return i >= 0 && i < sorted_count ? sorted[i] : NULL;
}

const pg_function *pg_function_find(const char *name) {
  if (!sorted_count) sort_functions();
  int low = 0, high = sorted_count - 1;
  while (low <= high) {
    const int middle = (low + high) / 2, order = strcmp(name, sorted[middle]->name);
    if (order == 0) return sorted[middle];
    if (order < 0)
      high = middle - 1;
    else
      low = middle + 1;
  }
  return NULL;
}
