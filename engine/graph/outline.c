// outline.c: a finished plan as text for people: what it computes in which order, in which memory, from which lines of
// the recipe. `perigee emit` prints it beside the generated code. Nothing here runs a plan.
//
// Memory is named in0, in1, … (inputs), out0, … (outputs) and t7 (temporary buffer 7; several may share an address).
#include "engine/graph/plan.h"

static void print_extents(FILE *f, int ndim, const int64_t *shape) {
  fputc('[', f);
  for (int i = 0; i < ndim; i++) fprintf(f, i ? ", %lld" : "%lld", (long long)shape[i]);
  fputc(']', f);
}

// The memory that entry `pointer` of the plan's table names.
static void print_memory(FILE *f, const pg_plan *p, int pointer) {
  static const char *const names[] = {[PG_PLACE_INPUT] = "in", [PG_PLACE_OUTPUT] = "out"};
  int buf = p->pointers[pointer].buf;
  int64_t offset = p->pointers[pointer].offset;
  if (buf == PG_BUF_NONE || buf == PG_BUF_PLACES) {
    fputs(buf == PG_BUF_NONE ? "-" : "places", f);
    return;
  }
  if (buf == PG_BUF_NUM) {
    fprintf(f, "num[%lld]", (long long)(offset / (int64_t)sizeof(double)));
    return;
  }
  while (p->bufs[buf].place == PG_PLACE_INSIDE) {
    offset += p->bufs[buf].parent_off;
    buf = p->bufs[buf].parent;
  }
  const pg_buf *b = &p->bufs[buf];
  if (b->place == PG_PLACE_ARENA)
    fprintf(f, "t%d", buf);
  else
    fprintf(f, "%s%d", names[b->place], b->index);
  if (offset) fprintf(f, "+%lld", (long long)offset);
}

// Arguments in the order of p0, p1, …; an arrow before what is written; behind a bar what reductions end in.
static void print_kernel(FILE *f, const pg_plan *p, const pg_step *s, int number) {
  const pg_kernel *k = &s->kernel;
  fprintf(f, "kernel\tpg_kernel_%d(", number);
  for (int i = 0; i < k->nargs; i++) {
    if (i) fputs(", ", f);
    if (k->args[i].kind == PG_ARG_STORE || k->args[i].kind == PG_ARG_KEPT) fputs("→", f);
    if (k->args[i].kind == PG_ARG_INDEX)
      fputs("index", f);
    else
      print_memory(f, p, s->first_pointer + i);
  }
  for (int i = 0; i < k->nreduces; i++) {
    fputs(i ? ", →" : " | →", f);
    print_memory(f, p, s->first_pointer + k->nargs + i);
  }
  fputs(")\t", f);
  if (k->space == PG_SPACE_VECTOR)
    fprintf(f, "vector of %lld tensors", (long long)s->nsegments);
  else
    print_extents(f, k->ndim, k->dim);
  fprintf(f, "\t%s", k->title);
}

static void print_library(FILE *f, const pg_plan *p, const pg_step *s) {
  fprintf(f, "call\t%s(", s->op->name);
  for (int i = 1; i < s->noperands; i++) {
    if (i > 1) fputs(", ", f);
    print_memory(f, p, s->first_pointer + i);
    fputc(' ', f);
    print_extents(f, s->operands[i].ndim, s->operands[i].shape);
  }
  fputs(", →", f);
  print_memory(f, p, s->first_pointer);
  fputs(")\t", f);
  print_extents(f, s->operands[0].ndim, s->operands[0].shape);
  fprintf(f, "\t%s", s->op->name);
}

static void print_loop(FILE *f, const pg_loop *l) {
  if (l->length < 0)
    fputs("loop\twhile\t[]\ta plan of its own, while its condition holds", f);
  else
    fprintf(f, "loop\tscan\t[%lld]\ta plan of its own for each round", (long long)l->length);
}

// Scalars that the host computes before the steps: constants, and arithmetic on what stands before.
static void print_numbers(FILE *f, const pg_plan *p) {
  size_t next = 0; // operations come in the order of their places, constants in between
  for (size_t i = (size_t)p->nscalars; i < p->nnum; i++) {
    if (next == p->nweak || p->weak_ops[next].out != (int)i) {
      fprintf(f, "number\tnum[%zu]\t%.17g\n", i, p->num[i]);
      continue;
    }
    const pg_weak_op *w = &p->weak_ops[next++];
    const int operands[] = {w->a, w->b, w->c};
    fprintf(f, "number\tnum[%zu]\t%s(", i, pg_op_table[w->op]->name);
    for (int k = 0; k < pg_op_table[w->op]->arity; k++) fprintf(f, k ? ", num[%d]" : "num[%d]", operands[k]);
    fputs(")\n", f);
  }
}

void pg_plan_outline(const pg_plan *p, FILE *f) {
  print_numbers(f, p);
  int kernels = 0;
  for (size_t i = 0; i < p->nsteps; i++) {
    const pg_step *s = &p->steps[i];
    if (s->loop)
      print_loop(f, s->loop);
    else if (s->library)
      print_library(f, p, s);
    else
      print_kernel(f, p, s, kernels++);
    fprintf(f, "\t%s\n", s->where ? s->where : "");
  }
}
