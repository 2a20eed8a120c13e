// interpret.c: the blocked interpreter: runs a kernel block by block, one loop per instruction, with the same scalar
// functions and therefore the same bits as generated code. It is the oracle of tests, the executor of tiny kernels and
// of machines without a compiler. It takes no heap memory: registers are blocks on the stack, reused once their value
// is dead.
//
// All loads of a block come before all its stores, so a kernel may update memory in place at equal indices. Blocks are
// not copied where that can be seen to be safe: a contiguous load is a pointer, and a value may be computed in its
// destination.
#include <string.h>

#include "engine/codegen/blocks.h"

// Registers get at most this much of the stack; kernels with more of them work in smaller blocks (same bits).
#define SCRATCH_BYTES ((size_t)256 << 10)

// Where an argument stands in the current line (a run along the inner dimension, or a tile of a vector).
typedef struct cursor {
  char *ptr;
  size_t size;          // of an element
  int64_t base, step;   // element of the line's first, and elements from one to the next
  int64_t index, istep; // likewise the index of a draw or of INDEX
} cursor;

typedef struct run run;
typedef struct step step;
struct step {
  void (*go)(run *r, const step *s, int64_t i, int64_t n); // for inner elements [i, i + n)
  const pg_inst *inst;
  pg_block_fn map;
  const cursor *at; // of the argument read or written
  void **value;     // where the address of the instruction's value stands
};

struct run {
  const pg_kernel *k;
  const pg_kcall *call;
  cursor *cursors; // per argument
  void **value;    // per instruction: its value's current block
  int *last;  // per instruction: the last instruction that reads it; ALWAYS for constants and what is stored or reduced
  int *reg;   // per instruction: its register, or one of the marks below
  int *store; // per instruction: the last STORE of its value, or -1
  int nstores;
  size_t widest; // bytes of the widest value
  step *steps;
  int nsteps;
  const pg_block_reduction **reductions;
  char (*lanes)[PG_LANES * 8];
  char (*kept)[PG_CHUNK * 8]; // per entry of `coded` that is written: its values so far
  int64_t tile;
  int64_t index[PG_KDIMS]; // of the current line
  int64_t line;
};

enum { ALWAYS = INT32_MAX, IN_MEMORY = -1, IN_DESTINATION = -2, NO_VALUE = -3 };

// ---- lines ---------------------------------------------------------------------------------------------------------

// Go to a line: a linear index over all dimensions but the inner one.
static void set_line(run *r, int64_t line) {
  const pg_kcall *call = r->call;
  int outer = r->k->ndim - 1;
  r->line = line;
  for (int d = outer - 1; d >= 0; d--) {
    r->index[d] = line % call->dim[d];
    line /= call->dim[d];
  }
  for (int a = 0; a < r->k->nargs; a++) {
    cursor *at = &r->cursors[a];
    at->base = at->index = 0;
    for (int d = 0; d < outer; d++) {
      at->base += r->index[d] * call->stride[a * PG_KDIMS + d];
      at->index += r->index[d] * call->dstride[a * PG_KDIMS + d];
    }
  }
}

static void next_line(run *r) {
  int d = r->k->ndim - 2;
  if (d < 0 || r->index[d] + 1 == r->call->dim[d]) {
    set_line(r, r->line + 1);
    return;
  }
  r->line++;
  r->index[d]++;
  for (int a = 0; a < r->k->nargs; a++) {
    r->cursors[a].base += r->call->stride[a * PG_KDIMS + d];
    r->cursors[a].index += r->call->dstride[a * PG_KDIMS + d];
  }
}

static void set_vtile(run *r, const pg_vtile *tile) {
  for (int a = 0; a < r->k->nargs; a++) {
    cursor *at = &r->cursors[a];
    pg_arg_kind kind = r->k->args[a].kind;
    at->base = kind == PG_ARG_SEGLOAD ? tile->segment : tile->offset * at->step;
    at->index = tile->logical * at->istep;
  }
}

static const uint8_t element_size[PG_NUM_DTYPES] = {
    [PG_F32] = 4, [PG_F64] = 8, [PG_I32] = 4, [PG_I64] = 8, [PG_U8] = 1, [PG_BOOL] = 1, [PG_KEY] = 16};

static void set_cursors(run *r) {
  int inner = r->k->ndim - 1;
  for (int a = 0; a < r->k->nargs; a++) {
    const pg_karg *arg = &r->k->args[a];
    cursor *at = &r->cursors[a];
    at->ptr = r->call->ptr[a];
    at->size = element_size[arg->dtype];
    if (r->k->space == PG_SPACE_GRID) {
      at->step = r->call->stride[a * PG_KDIMS + inner];
      at->istep = r->call->dstride[a * PG_KDIMS + inner];
    } else {
      at->step = arg->kind == PG_ARG_STORE || (arg->kind == PG_ARG_LOAD && arg->stride[0] != 0);
      at->istep = arg->kind == PG_ARG_INDEX ? r->call->dstride[a * PG_KDIMS] : 1;
    }
  }
}

// ---- steps ---------------------------------------------------------------------------------------------------------

static void *element(const cursor *at, int64_t i) {
  return at->ptr + (at->base + i * at->step) * (int64_t)at->size;
}

static void go_point(run *r, const step *s, int64_t i, int64_t n) {
  (void)r, (void)n;
  *s->value = element(s->at, i);
}

static void go_fill(run *r, const step *s, int64_t i, int64_t n) {
  (void)r;
  pg_block_fill(s->at->size, n, element(s->at, i), *s->value);
}

static void go_gather(run *r, const step *s, int64_t i, int64_t n) {
  (void)r;
  pg_block_gather(s->at->size, n, element(s->at, i), s->at->step, *s->value);
}

static void go_index(run *r, const step *s, int64_t i, int64_t n) {
  (void)r;
  pg_block_index[s->inst->dtype](n, s->at->index + i * s->at->istep, s->at->istep, *s->value);
}

static void go_draw(run *r, const step *s, int64_t i, int64_t n) {
  const pg_kernel_services *services = r->call->services;
  bool normal = s->inst->kind == PG_INST_NORMAL;
  uint64_t index = (uint64_t)(s->at->index + i * s->at->istep);
  if (s->inst->dtype == PG_F32)
    services->draw_f32(normal, element(s->at, i), s->at->step, index, s->at->istep, n, *s->value);
  else
    services->draw_f64(normal, element(s->at, i), s->at->step, index, s->at->istep, n, *s->value);
}

static void go_decode(run *r, const step *s, int64_t i, int64_t n) {
  const pg_kcoded *c = &r->k->coded[s->inst->arg];
  const int64_t *place = (const int64_t *)r->call->ptr[c->places] + 2 * r->tile;
  const void *codes = r->call->ptr[c->codes], *scales = r->call->ptr[c->scales];
  if (c->dtype == PG_F32)
    r->call->services->decode_f32(c->kind, c->block, place, codes, scales, i, n, *s->value);
  else
    r->call->services->decode_f64(c->kind, c->block, place, codes, scales, i, n, *s->value);
}

static void go_map(run *r, const step *s, int64_t i, int64_t n) {
  const pg_inst *inst = s->inst;
  (void)i;
  // A missing operand is -1; value[-1] is there, and NULL.
  s->map(n, r->value[inst->a], r->value[inst->b], r->value[inst->c], *s->value);
}

static void go_map_in_place(run *r, const step *s, int64_t i, int64_t n) {
  const pg_inst *inst = s->inst;
  *s->value = element(s->at, i);
  s->map(n, r->value[inst->a], r->value[inst->b], r->value[inst->c], *s->value);
}

static void go_store(run *r, const step *s, int64_t i, int64_t n) {
  void *to = element(s->at, i), *value = r->value[s->inst->a];
  if (s->at->step != 1)
    pg_block_scatter(s->at->size, n, value, s->at->step, to);
  else if (to != value)
    memmove(to, value, (size_t)n * s->at->size);
}

// ---- planning ------------------------------------------------------------------------------------------------------
// Done anew in each call, so it has to be quick: three passes over the instructions.

// A load that gives the same for every element of the kernel.
static bool is_uniform(const run *r, const pg_inst *inst) {
  if (r->cursors[inst->arg].step != 0 || r->k->args[inst->arg].kind == PG_ARG_SEGLOAD) return false;
  for (int d = 0; r->k->space == PG_SPACE_GRID && d < r->k->ndim - 1; d++)
    if (r->call->stride[inst->arg * PG_KDIMS + d] != 0) return false;
  return true;
}

static bool is_constant(const run *r, const pg_inst *inst) {
  if (inst->kind == PG_INST_LOAD) return is_uniform(r, inst);
  return inst->kind == PG_INST_CONST || inst->kind == PG_INST_NUM;
}

// First pass: who is read last by whom, and where values are stored.
static void find_uses(run *r) {
  const pg_kernel *k = r->k;
  for (int i = 0; i < k->ninsts; i++) {
    const pg_inst *inst = &k->insts[i];
    const int operand[3] = {inst->a, inst->b, inst->c};
    if (element_size[inst->dtype] > r->widest) r->widest = element_size[inst->dtype];
    r->store[i] = -1;
    r->last[i] = is_constant(r, inst) ? ALWAYS : i;
    if (inst->kind == PG_INST_STORE) {
      r->nstores++;
      r->store[inst->a] = i;
      r->last[inst->a] = ALWAYS;
      continue;
    }
    for (int j = 0; j < 3; j++)
      if (operand[j] >= 0 && r->last[operand[j]] < i) r->last[operand[j]] = i;
  }
  for (int j = 0; j < k->nreduces; j++) r->last[k->reduces[j].value] = ALWAYS;
  for (int j = 0; j < k->ncoded; j++)
    if (k->coded[j].value >= 0) r->last[k->coded[j].value] = ALWAYS;
}

// A contiguous load needs no copy, unless its memory might be overwritten before it is reduced or stored itself.
static bool may_point(const run *r, int v) {
  bool read_last = r->last[v] == ALWAYS; // after or among the stores
  bool copied = r->nstores == 1 && r->store[v] >= 0 && !r->k->nreduces;
  return r->cursors[r->k->insts[v].arg].step == 1 && (r->nstores == 0 || !read_last || copied);
}

// A value may be computed where it will be stored if nobody still wants what is there.
static bool may_compute_in_place(const run *r, int v) {
  if (r->store[v] < 0) return false;
  const cursor *to = &r->cursors[r->k->insts[r->store[v]].arg];
  if (to->step != 1) return false;
  for (int i = 0; i < r->k->ninsts; i++) {
    const pg_inst *load = &r->k->insts[i];
    bool wanted = i > v || (r->reg[i] == IN_MEMORY && r->last[i] > v);
    if (load->kind == PG_INST_LOAD && wanted && r->cursors[load->arg].ptr == to->ptr) return false;
  }
  return true;
}

static pg_dtype operand_dtype(const pg_kernel *k, const pg_inst *inst) {
  return k->insts[inst->c >= 0 ? inst->b : inst->a].dtype;
}

// The step that computes instruction i each block. Returns IN_MEMORY or IN_DESTINATION if its value needs no register.
static int make_step(run *r, int i) {
  const pg_inst *inst = &r->k->insts[i];
  step *s = &r->steps[r->nsteps++];
  s->inst = inst;
  s->value = &r->value[i];
  s->at = &r->cursors[inst->arg];
  switch (inst->kind) {
  case PG_INST_LOAD:
    s->go = s->at->step == 0 ? go_fill : go_gather;
    if (!may_point(r, i)) return 0;
    s->go = go_point;
    return IN_MEMORY;
  case PG_INST_MAP:
    s->map = pg_block_map(inst->op, operand_dtype(r->k, inst), inst->dtype);
    s->go = go_map;
    if (!may_compute_in_place(r, i)) return 0;
    s->at = &r->cursors[r->k->insts[r->store[i]].arg];
    s->go = go_map_in_place;
    return IN_DESTINATION;
  case PG_INST_INDEX:
    s->go = go_index;
    return 0;
  case PG_INST_DECODE:
    s->go = go_decode;
    return 0;
  case PG_INST_STORE:
    s->go = go_store;
    return NO_VALUE;
  default:
    s->go = go_draw;
    return 0;
  }
}

// Second pass: make the steps and give each value a register. Returns how many there are.
static int plan(run *r, int *unused) {
  const pg_kernel *k = r->k;
  int registers = 0, nunused = 0;
  for (int i = 0; i < k->ninsts; i++) {
    const pg_inst *inst = &k->insts[i];
    const int operand[3] = {inst->a, inst->b, inst->c};
    if (inst->kind == PG_INST_STORE) {
      r->reg[i] = NO_VALUE;
      continue;
    }
    // Constants are computed before the first block, so their registers may not have served others.
    bool constant = is_constant(r, inst);
    r->reg[i] = constant ? 0 : make_step(r, i);
    if (r->reg[i] >= 0) r->reg[i] = nunused > 0 && !constant ? unused[--nunused] : registers++;
    // Operands are released only now: the result may be wider than they are and must not share their block.
    for (int j = 0; j < 3; j++) {
      int v = operand[j];
      if (v < 0 || r->last[v] != i || r->reg[v] < 0) continue;
      unused[nunused++] = r->reg[v];
      r->last[v] = -1; // released, even if it is an operand twice
    }
    if (r->last[i] == i && r->reg[i] >= 0) unused[nunused++] = r->reg[i]; // read by nobody
  }
  for (int i = 0; i < k->ninsts && r->nstores > 0; i++)
    if (k->insts[i].kind == PG_INST_STORE) make_step(r, i);
  return registers;
}

static void make_constant(const run *r, const pg_inst *inst, int64_t n, void *block) {
  pg_block_number[inst->dtype](inst->kind == PG_INST_NUM ? r->call->num[inst->arg] : inst->x, block);
  pg_block_fill(element_size[inst->dtype], n, block, block);
}

// Third pass: tell values their registers, and compute the constant ones.
static void bind_registers(run *r, char *scratch, size_t slot, int64_t widest) {
  for (int i = 0; i < r->k->ninsts; i++) {
    const pg_inst *inst = &r->k->insts[i];
    if (r->reg[i] < 0) continue;
    void *block = r->value[i] = scratch + (size_t)r->reg[i] * slot;
    if (inst->kind == PG_INST_LOAD && is_uniform(r, inst)) {
      pg_block_fill(element_size[inst->dtype], widest, r->cursors[inst->arg].ptr, block);
    } else if (inst->kind == PG_INST_NUM || inst->kind == PG_INST_CONST) {
      make_constant(r, inst, widest, block);
    }
  }
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

static void run_block(run *r, int64_t i, int64_t n) {
  for (const step *s = r->steps, *end = s + r->nsteps; s < end; s++) s->go(r, s, i, n);
}

static int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Codes and scales of what the whole tile has kept, n numbers.
static void encode_kept(const run *r, int64_t n) {
  const pg_kernel *k = r->k;
  for (int j = 0, which = 0; j < k->ncoded; j++) {
    const pg_kcoded *c = &k->coded[j];
    if (c->value < 0) continue;
    const int64_t *place = (const int64_t *)r->call->ptr[c->places] + 2 * r->tile;
    const void *x = r->kept[which++];
    void *codes = c->codes < 0 ? NULL : r->call->ptr[c->codes],
         *scales = c->scales < 0 ? NULL : r->call->ptr[c->scales];
    if (c->dtype == PG_F32)
      r->call->services->encode_f32(c->kind, c->block, place, x, 0, n, codes, scales);
    else
      r->call->services->encode_f64(c->kind, c->block, place, x, 0, n, codes, scales);
  }
}

static void keep(const run *r, int64_t i, int64_t n) {
  const pg_kernel *k = r->k;
  for (int j = 0, which = 0; j < k->ncoded; j++) {
    if (k->coded[j].value < 0) continue;
    const int64_t size = element_size[k->coded[j].dtype];
    memcpy(r->kept[which++] + i * size, r->value[k->coded[j].value], (size_t)(n * size));
  }
}

// Inner elements [i0, i1) of the current line; with reductions, their fold goes to partial[which].
static void run_line(run *r, int64_t block, int64_t i0, int64_t i1, int64_t which) {
  const pg_kernel *k = r->k;
  for (int j = 0; j < k->nreduces; j++) r->reductions[j]->identity(PG_LANES, r->lanes[j]);
  for (int64_t i = i0; i < i1; i += block) {
    int64_t n = min64(block, i1 - i);
    run_block(r, i, n);
    for (int j = 0; j < k->nreduces; j++) r->reductions[j]->lanes(r->lanes[j], r->value[k->reduces[j].value], n);
    keep(r, i, n);
  }
  encode_kept(r, i1);
  for (int j = 0; j < k->nreduces; j++) {
    char *partial = r->call->partial[j];
    r->reductions[j]->fold(r->lanes[j], partial + which * element_size[k->reduces[j].dtype]);
  }
}

static void run_rows_tile(run *r, int64_t block, int64_t tile) {
  const pg_kcall *call = r->call;
  int64_t chunks = call->chunks, chunk = chunks == 1 ? 0 : tile % chunks;
  int64_t row = (chunks == 1 ? tile : tile / chunks) * call->rows_per_tile;
  int64_t end = min64(row + call->rows_per_tile, call->rows);
  int64_t i0 = chunk * PG_CHUNK, i1 = min64(i0 + PG_CHUNK, call->dim[r->k->ndim - 1]);
  for (set_line(r, row); row < end; row++) {
    run_line(r, block, i0, i1, row * call->chunks + chunk);
    if (row + 1 < end) next_line(r);
  }
}

static void run_columns_tile(run *r, int64_t block, int64_t tile) {
  const pg_kernel *k = r->k;
  const pg_kcall *call = r->call;
  int64_t height = call->dim[k->ndim - 2], width = call->dim[k->ndim - 1];
  int64_t blocks = (width + PG_COLUMNS - 1) / PG_COLUMNS;
  int64_t row = tile / blocks / call->chunks, chunk = tile / blocks % call->chunks;
  int64_t r0 = chunk * PG_ROWS, r1 = min64(r0 + PG_ROWS, height);
  int64_t i0 = tile % blocks * PG_COLUMNS, i1 = min64(i0 + PG_COLUMNS, width);
  int64_t to = (row * call->chunks + chunk) * width; // the partial row
  for (int j = 0; j < k->nreduces; j++) {
    int64_t size = element_size[k->reduces[j].dtype];
    r->reductions[j]->identity(i1 - i0, (char *)call->partial[j] + (to + i0) * size);
  }
  set_line(r, row * height + r0);
  for (int64_t line = r0; line < r1; line++) {
    for (int64_t i = i0; i < i1; i += block) {
      int64_t n = min64(block, i1 - i);
      run_block(r, i, n);
      for (int j = 0; j < k->nreduces; j++) {
        char *sum = (char *)call->partial[j] + (to + i) * element_size[k->reduces[j].dtype];
        r->reductions[j]->combine(n, sum, r->value[k->reduces[j].value], NULL, sum);
      }
    }
    if (line + 1 < r1) next_line(r);
  }
}

static void run_tiles(run *r, int64_t block, int64_t tile0, int64_t tile1) {
  for (int64_t tile = tile0; tile < tile1; tile++) {
    if (r->k->space == PG_SPACE_VECTOR) {
      r->tile = tile;
      set_vtile(r, &r->call->vtiles[tile]);
      run_line(r, block, 0, r->call->vtiles[tile].size, tile);
    } else if (r->k->reduction == PG_REDUCE_OUTER) {
      run_columns_tile(r, block, tile);
    } else {
      run_rows_tile(r, block, tile);
    }
  }
}

static void run_with_registers(run *r, int registers, int64_t tile0, int64_t tile1) {
  const pg_kernel *k = r->k;
  size_t size = r->widest;
  int64_t block = PG_BLOCK;
  while (block > PG_LANES && (size_t)registers * (size_t)block * size > SCRATCH_BYTES) block /= 2;
  int64_t widest = k->space == PG_SPACE_GRID ? min64(block, r->call->dim[k->ndim - 1]) : block;
  size_t slot = ((size_t)widest * size + 63) / 64 * 64;
  size_t kept = 0;
  for (int j = 0; j < k->ncoded; j++) kept += k->coded[j].value >= 0;
  char scratch[(size_t)registers * slot + kept * sizeof *r->kept + 64];
  char *aligned = scratch + (-(uintptr_t)scratch & 63);
  r->kept = (char(*)[PG_CHUNK * 8])(aligned + (size_t)registers * slot);
  bind_registers(r, aligned, slot, widest);
  run_tiles(r, block, tile0, tile1);
}

// ---- tiny kernels --------------------------------------------------------------------------------------------------
// Eager operations on a few elements: planning would cost more than the work, so every value gets a register of its
// own.

enum { TINY_ELEMENTS = 64, TINY_INSTRUCTIONS = 24 };

static bool is_tiny(const pg_kernel *k, const pg_kcall *call) {
  return k->space == PG_SPACE_GRID && k->reduction == PG_REDUCE_NONE && k->ndim == 1 && call->dim[0] <= TINY_ELEMENTS &&
         k->ninsts <= TINY_INSTRUCTIONS;
}

static void run_tiny_instruction(run *r, const pg_inst *inst, int64_t n) {
  void **value = &r->value[inst - r->k->insts];
  const cursor *at = &r->cursors[inst->arg];
  const step s = {.inst = inst, .value = value, .at = at};
  switch (inst->kind) {
  case PG_INST_LOAD:
    (at->step == 0 ? go_fill : go_gather)(r, &s, 0, n);
    break;
  case PG_INST_NUM:
  case PG_INST_CONST:
    make_constant(r, inst, n, *value);
    break;
  case PG_INST_INDEX:
    go_index(r, &s, 0, n);
    break;
  case PG_INST_MAP: {
    pg_block_fn map = pg_block_map(inst->op, operand_dtype(r->k, inst), inst->dtype);
    map(n, r->value[inst->a], r->value[inst->b], r->value[inst->c], *value);
    break;
  }
  case PG_INST_STORE:
    go_store(r, &s, 0, n);
    break;
  default:
    go_draw(r, &s, 0, n);
    break;
  }
}

static void run_tiny(const pg_kernel *k, const pg_kcall *call) {
  int64_t n = call->dim[0];
  cursor cursors[k->nargs + 1];
  void *value[TINY_INSTRUCTIONS + 1];
  _Alignas(64) char scratch[TINY_INSTRUCTIONS * TINY_ELEMENTS * 8];
  run r;
  r.k = k;
  r.call = call;
  r.cursors = cursors + 1;
  r.value = value + 1;
  value[0] = NULL;
  set_cursors(&r);
  set_line(&r, 0);
  for (int i = 0; i < k->ninsts; i++) {
    r.value[i] = scratch + i * n * 8;
    if (k->insts[i].kind != PG_INST_STORE) run_tiny_instruction(&r, &k->insts[i], n);
  }
  for (int i = 0; i < k->ninsts; i++)
    if (k->insts[i].kind == PG_INST_STORE) run_tiny_instruction(&r, &k->insts[i], n);
}

void pg_kernel_interpret(const pg_kernel *k, const pg_kcall *call, int64_t tile0, int64_t tile1) {
  if (tile0 >= tile1) return;
  if (is_tiny(k, call)) {
    run_tiny(k, call);
    return;
  }
  size_t n = (size_t)k->ninsts;
  cursor cursors[k->nargs + 1]; // here and in `value`, place -1 serves instructions without argument or operand
  void *value[n + 1];
  int last[n + 1], reg[n + 1], store[n + 1], unused[n + 1];
  step steps[n + 1];
  const pg_block_reduction *reductions[k->nreduces + 1];
  _Alignas(64) char lanes[k->nreduces + 1][PG_LANES * 8];
  value[0] = NULL;
  run r;
  r.k = k;
  r.call = call;
  r.cursors = cursors + 1;
  r.value = value + 1;
  r.last = last;
  r.reg = reg;
  r.store = store;
  r.nstores = 0;
  r.widest = 1;
  r.steps = steps;
  r.nsteps = 0;
  r.reductions = reductions;
  r.lanes = lanes;
  for (int j = 0; j < k->nreduces; j++) reductions[j] = pg_block_reduce(k->reduces[j].op, k->reduces[j].dtype);
  set_cursors(&r);
  find_uses(&r);
  run_with_registers(&r, plan(&r, unused), tile0, tile1);
}
