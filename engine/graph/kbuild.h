// kbuild.h: builds one kernel: an iteration space, accesses with strides over it, and instructions; then merges
// dimensions.
#ifndef PG_GRAPH_KBUILD_H
#define PG_GRAPH_KBUILD_H

#include "engine/graph/plan.h"

typedef struct pg_access {
  pg_arg_kind kind;
  pg_dtype dtype;
  int buf; // PG_BUF_NONE: no memory; PG_BUF_PLACES: `offset` is which
  int64_t offset;
  int64_t stride[PG_MAX_NDIM], dstride[PG_MAX_NDIM]; // over the axes of the space
} pg_access;

typedef struct pg_known { // a value already computed in the kernel
  pg_value v;
  pg_dtype dtype;
  int inst;
} pg_known;

typedef struct pg_kbuild {
  pg_compilation *c;
  int unit; // whose members are computed here; -1: none
  pg_space space;
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  const pg_layout *layout;
  bool reduces;
  int red_first, red_last;
  pg_access *access;
  size_t naccess, cap_access;
  pg_inst *insts;
  size_t ninsts, cap_insts;
  pg_kreduce *reduces_list;
  int *reduce_bufs; // where results go
  size_t nreduces, cap_reduces, cap_reduce_bufs;
  pg_kcoded *coded;
  size_t ncoded, cap_coded;
  pg_known *known;
  size_t nknown, cap_known;
  double cost; // per element
} pg_kbuild;

void pg_kbuild_free(pg_kbuild *b);
// The instruction that yields v at the current index (-1 on failure). Weak values become dtype `weak_as`.
int pg_kbuild_value(pg_kbuild *b, pg_value v, pg_dtype weak_as);
// An instruction that loads through a given access, or a constant. -1 on failure.
int pg_kbuild_load(pg_kbuild *b, const pg_access *access);
int pg_kbuild_constant(pg_kbuild *b, double x, pg_dtype dtype);
// Whether the loops of the kernel can be cut as kernel.h wants; only reductions may not.
bool pg_kbuild_fits(const pg_kbuild *b);
pg_status pg_kbuild_store(pg_kbuild *b, int inst, pg_dtype dtype, int buf, int64_t offset, const int64_t *stride);
// Write instruction `inst` as codes or scales, as node v, of class KEEP, has it.
pg_status pg_kbuild_keep(pg_kbuild *b, pg_value v, int inst);
// Turn it into a step of the plan.
pg_status pg_kbuild_finish(pg_kbuild *b, const char *title);

#endif
