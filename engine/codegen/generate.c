// generate.c: prints kernels as one C translation unit: an embedded prelude (the kernel ABI and the scalar functions,
// the very text that the engine itself is compiled from) and one function per kernel. Only structure is printed:
// dimensions, strides and scalars are read at run time, so one text serves all sizes.
//
// Names in generated code: p3 memory of argument 3, a3 the same at the current line, s3/t3 its strides and index
// strides, v7 the value of instruction 7, x7 a block of such values, y0 and lanes0/r0 a block of what reduction 0 folds
// and its accumulators, z2 a block of what will be codes.
#include "engine/codegen/generate.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "embedded_numerics.h"

// ---- text ----------------------------------------------------------------------------------------------------------

typedef struct text {
  char *s;
  size_t size, cap;
  bool failed;
} text;

static void put(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(text *t, const char *format, ...) {
  va_list args;
  va_start(args, format);
  va_list again;
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, format, args);
  if (t->failed || n < 0 || pg_grow(&t->s, &t->cap, t->size + (size_t)n + 1, 1) != PG_OK) {
    t->failed = true;
  } else {
    vsnprintf(t->s + t->size, (size_t)n + 1, format, again);
    t->size += (size_t)n;
  }
  va_end(again);
  va_end(args);
}

// ---- names ---------------------------------------------------------------------------------------------------------

static const char *const ctype[PG_NUM_DTYPES] = {
    [PG_F32] = "float",  [PG_F64] = "double", [PG_I32] = "int32_t",     [PG_I64] = "int64_t",
    [PG_U8] = "uint8_t", [PG_BOOL] = "bool",  [PG_KEY] = "pg_key_words"};
static const char *const suffix[PG_NUM_DTYPES] = {
    [PG_F32] = "f32", [PG_F64] = "f64", [PG_I32] = "i32", [PG_I64] = "i64", [PG_U8] = "u8", [PG_BOOL] = "b8"};

typedef struct operation {
  const char *name;
  int arity;
} operation;

static const operation operations[PG_NUM_OPS] = {
#define M(NAME, op, count) [PG_OP_##NAME] = {.name = #op, .arity = count},
    PG_MAP_OPS(M)
#undef M
};

// On floats: the operator between two operands, or before one.
static const char *const infix[PG_NUM_OPS] = {
    [PG_OP_NEG] = "-", [PG_OP_ADD] = "+", [PG_OP_SUB] = "-", [PG_OP_MUL] = "*", [PG_OP_DIV] = "/", [PG_OP_LT] = "<",
    [PG_OP_LE] = "<=", [PG_OP_GT] = ">",  [PG_OP_GE] = ">=", [PG_OP_EQ] = "==", [PG_OP_NE] = "!="};

static const char *const reduction_name[PG_NUM_OPS] = {[PG_OP_SUM] = "sum", [PG_OP_MAX] = "max", [PG_OP_MIN] = "min"};
static const int combining_op[PG_NUM_OPS] = {
    [PG_OP_SUM] = PG_OP_ADD, [PG_OP_MAX] = PG_OP_MAXIMUM, [PG_OP_MIN] = PG_OP_MINIMUM};

// ---- what a kernel needs -------------------------------------------------------------------------------------------

// The inner dimension's place in a list of strides.
static int inner_of(const pg_kernel *k) {
  return k->space == PG_SPACE_VECTOR ? 0 : k->ndim - 1;
}

// An argument's step along the inner dimension, as far as it is printed.
typedef enum step_class { STEP_0, STEP_1, STEP_ANY } step_class;

static step_class step_of(const pg_kernel *k, int arg) {
  const pg_karg *a = &k->args[arg];
  if (a->kind == PG_ARG_SEGLOAD) return STEP_0;
  if (k->space == PG_SPACE_VECTOR) return a->kind == PG_ARG_STORE || a->stride[0] != 0 ? STEP_1 : STEP_0;
  int64_t step = a->stride[inner_of(k)];
  return step == 0 ? STEP_0 : step == 1 ? STEP_1 : STEP_ANY;
}

static bool is_draw(const pg_inst *inst) {
  return inst->kind == PG_INST_NORMAL || inst->kind == PG_INST_UNIFORM;
}

// Made a block at a time, by the engine.
static bool is_served(const pg_inst *inst) {
  return is_draw(inst) || inst->kind == PG_INST_DECODE;
}

static bool keeps_codes(const pg_kernel *k) {
  bool keeps = false;
  for (int j = 0; j < k->ncoded; j++) keeps |= k->coded[j].value >= 0;
  return keeps;
}

// What a block of the inner loop is: what is kept as codes wants whole blocks of codes.
static const char *block_size(const pg_kernel *k) {
  bool large = false;
  for (int j = 0; j < k->ncoded; j++) large |= k->coded[j].value >= 0 && k->coded[j].block > PG_BLOCK;
  return large ? "PG_CHUNK" : "PG_BLOCK";
}

// Reductions over lanes: INNER, and all of a vector.
static bool has_lanes(const pg_kernel *k) {
  return k->nreduces > 0 && k->reduction != PG_REDUCE_OUTER;
}

// Draws, codes and lanes work on blocks; all else is one loop over the whole line.
static bool needs_blocks(const pg_kernel *k) {
  bool served = false;
  for (int i = 0; i < k->ninsts; i++) served |= is_served(&k->insts[i]);
  return served || has_lanes(k) || keeps_codes(k);
}

static bool has_stores(const pg_kernel *k) {
  bool stores = false;
  for (int i = 0; i < k->ninsts; i++) stores |= k->insts[i].kind == PG_INST_STORE;
  return stores;
}

// A reduced value that is contiguous in memory is folded from there, if nothing might overwrite it first.
static bool reduces_memory(const pg_kernel *k, const pg_kreduce *reduce) {
  const pg_inst *value = &k->insts[reduce->value];
  return value->kind == PG_INST_LOAD && value->dtype != PG_BOOL && step_of(k, value->arg) == STEP_1 && !has_stores(k);
}

// Is there anything to do element by element, beside folding memory?
static bool needs_loop(const pg_kernel *k) {
  bool loop = has_stores(k) || keeps_codes(k);
  for (int j = 0; j < k->nreduces; j++) loop |= !has_lanes(k) || !reduces_memory(k, &k->reduces[j]);
  return loop;
}

// A load that does not change along a line.
static bool is_hoisted(const pg_kernel *k, const pg_inst *inst) {
  return inst->kind == PG_INST_LOAD && step_of(k, inst->arg) == STEP_0;
}

// How an argument's memory is declared. Masks are read as bytes: read as bool they keep gcc from vectorizing.
static void put_pointer_type(text *t, const pg_karg *arg) {
  bool written = arg->kind == PG_ARG_STORE || arg->kind == PG_ARG_KEPT;
  put(t, "%s%s *const ", written ? "" : "const ", arg->dtype == PG_BOOL && !written ? "uint8_t" : ctype[arg->dtype]);
}

// ---- values --------------------------------------------------------------------------------------------------------

static void put_constant(text *t, pg_dtype dtype, double x) {
  const char *f = dtype == PG_F32 ? "f" : "";
  if (!pg_dtype_is_float(dtype)) {
    put(t, "pg_cast_%s_f64(", suffix[dtype]);
    put_constant(t, PG_F64, x);
    put(t, ")");
  } else if (isnan(x)) {
    put(t, "%s__builtin_nan%s(\"\")", signbit(x) ? "-" : "", f);
  } else if (isinf(x) || (dtype == PG_F32 && isinf((float)x))) {
    put(t, "%s__builtin_inf%s()", signbit(x) ? "-" : "", f);
  } else {
    put(t, "%a%s", dtype == PG_F32 ? (double)(float)x : x, f);
  }
}

// The operation applied to operands, which are C expressions.
static void put_operation(text *t, int op, pg_dtype operand, pg_dtype result, const char *const *x) {
  const operation *o = &operations[op];
  if (op == PG_OP_CAST)
    put(t, "pg_cast_%s_%s(%s)", suffix[result], suffix[operand], x[0]);
  else if (infix[op] && pg_dtype_is_float(operand) && o->arity == 2)
    put(t, "%s %s %s", x[0], infix[op], x[1]);
  else if (infix[op] && pg_dtype_is_float(operand))
    put(t, "%s%s", infix[op], x[0]);
  else {
    put(t, "pg_%s_%s(", o->name, suffix[operand]);
    for (int i = 0; i < o->arity; i++) put(t, "%s%s", i ? ", " : "", x[i]);
    put(t, ")");
  }
}

static void put_map(text *t, const pg_kernel *k, const pg_inst *inst) {
  char names[3][16];
  const char *x[3] = {names[0], names[1], names[2]};
  const int operand[3] = {inst->a, inst->b, inst->c};
  for (int i = 0; i < 3; i++) snprintf(names[i], sizeof names[i], "v%d", operand[i]);
  pg_dtype dtype = k->insts[operations[inst->op].arity == 3 ? inst->b : inst->a].dtype;
  put_operation(t, inst->op, dtype, inst->dtype, x);
}

// The element of argument `arg` at inner index i.
static void put_element(text *t, const pg_kernel *k, int arg) {
  switch (step_of(k, arg)) {
  case STEP_0:
    put(t, "a%d[0]", arg);
    break;
  case STEP_1:
    put(t, "a%d[i]", arg);
    break;
  case STEP_ANY:
    put(t, "a%d[i * s%d[%d]]", arg, arg, k->ndim - 1);
    break;
  }
}

// ---- the inner loop ------------------------------------------------------------------------------------------------

static void put_value(text *t, const pg_kernel *k, int i) {
  const pg_inst *inst = &k->insts[i];
  put(t, "const %s v%d = ", ctype[inst->dtype], i);
  switch (inst->kind) {
  case PG_INST_LOAD:
    put_element(t, k, inst->arg);
    break;
  case PG_INST_INDEX:
    put(t, "pg_cast_%s_i64(j%d + i * t%d[%d])", suffix[inst->dtype], inst->arg, inst->arg, inner_of(k));
    break;
  case PG_INST_NORMAL:
  case PG_INST_UNIFORM:
  case PG_INST_DECODE:
    put(t, "x%d[i - b]", i);
    break;
  case PG_INST_NUM:
    put(t, "pg_cast_%s_f64(call->num[%d])", suffix[inst->dtype], inst->arg);
    break;
  case PG_INST_CONST:
    put_constant(t, inst->dtype, inst->x);
    put(t, "; // %.9g\n", inst->x);
    return;
  case PG_INST_MAP:
    put_map(t, k, inst);
    break;
  case PG_INST_STORE:
    break;
  }
  put(t, ";\n");
}

// Keep the reduced values: in a block for the lanes, or folded right away into the partial columns.
static void put_reduced(text *t, const pg_kernel *k) {
  for (int j = 0; j < k->nreduces; j++) {
    const pg_kreduce *reduce = &k->reduces[j];
    if (has_lanes(k)) {
      if (!reduces_memory(k, reduce)) put(t, "y%d[i - b] = v%d;\n", j, reduce->value);
      continue;
    }
    char sum[16], value[16];
    const char *x[2] = {sum, value};
    snprintf(sum, sizeof sum, "r%d[i]", j);
    snprintf(value, sizeof value, "v%d", reduce->value);
    put(t, "r%d[i] = ", j);
    put_operation(t, combining_op[reduce->op], reduce->dtype, reduce->dtype, x);
    put(t, ";\n");
  }
}

// The values that will be codes, in a block for the encoder.
static void put_kept(text *t, const pg_kernel *k) {
  for (int j = 0; j < k->ncoded; j++)
    if (k->coded[j].value >= 0) put(t, "z%d[i - b] = v%d;\n", j, k->coded[j].value);
}

// Elements [from, to) of the line: all loads before all stores, since a store may overwrite what was loaded.
static void put_loop(text *t, const pg_kernel *k, const char *from, const char *to) {
  put(t, "PG_INDEPENDENT for (int64_t i = %s; i < %s; i++) {\n", from, to);
  for (int i = 0; i < k->ninsts; i++) {
    const pg_inst *inst = &k->insts[i];
    bool outside = inst->kind == PG_INST_CONST || inst->kind == PG_INST_NUM || is_hoisted(k, inst);
    if (inst->kind != PG_INST_STORE && !outside) put_value(t, k, i);
  }
  put_reduced(t, k);
  put_kept(t, k);
  for (int i = 0; i < k->ninsts; i++) {
    if (k->insts[i].kind != PG_INST_STORE) continue;
    put_element(t, k, k->insts[i].arg);
    put(t, " = v%d;\n", k->insts[i].a);
  }
  put(t, "}\n");
}

// ---- blocks --------------------------------------------------------------------------------------------------------

static void put_draw(text *t, const pg_kernel *k, int i) {
  const pg_inst *inst = &k->insts[i];
  int arg = inst->arg, inner = inner_of(k);
  put(t, "call->services->draw_%s(%s, ", suffix[inst->dtype], inst->kind == PG_INST_NORMAL ? "true" : "false");
  if (k->space == PG_SPACE_VECTOR)
    put(t, "a%d, 0, (uint64_t)(vt.logical + b), 1, n, x%d);\n", arg, i);
  else
    put(t, "a%d + b * s%d[%d], s%d[%d], (uint64_t)(j%d + b * t%d[%d]), t%d[%d], n, x%d);\n", arg, arg, inner, arg,
        inner, arg, arg, inner, arg, inner, i);
}

static void put_decode(text *t, const pg_kernel *k, int i) {
  const pg_kcoded *c = &k->coded[k->insts[i].arg];
  put(t, "call->services->decode_%s(%d, %lld, a%d + 2 * tile, a%d, a%d, b, n, x%d);\n", suffix[c->dtype], c->kind,
      (long long)c->block, c->places, c->codes, c->scales, i);
}

static void put_code_operand(text *t, int arg) {
  if (arg < 0)
    put(t, ", 0");
  else
    put(t, ", a%d", arg);
}

static void put_encode(text *t, const pg_kcoded *c, int j) {
  put(t, "call->services->encode_%s(%d, %lld, a%d + 2 * tile, z%d, b, n", suffix[c->dtype], c->kind,
      (long long)c->block, c->places, j);
  put_code_operand(t, c->codes);
  put_code_operand(t, c->scales);
  put(t, ");\n");
}

static void put_blocks(text *t, const pg_kernel *k) {
  const char *size = block_size(k);
  put(t, "for (int64_t b = i0; b < i1; b += %s) {\n", size);
  put(t, "const int64_t n = pg_min(%s, i1 - b);\n", size);
  for (int i = 0; i < k->ninsts; i++) {
    if (!is_served(&k->insts[i])) continue;
    put(t, "%s x%d[%s];\n", ctype[k->insts[i].dtype], i, size);
    (is_draw(&k->insts[i]) ? put_draw : put_decode)(t, k, i);
  }
  for (int j = 0; has_lanes(k) && j < k->nreduces; j++)
    if (!reduces_memory(k, &k->reduces[j])) put(t, "%s y%d[%s];\n", ctype[k->reduces[j].dtype], j, size);
  for (int j = 0; j < k->ncoded; j++)
    if (k->coded[j].value >= 0) put(t, "%s z%d[%s];\n", ctype[k->coded[j].dtype], j, size);
  if (needs_loop(k)) put_loop(t, k, "b", "b + n");
  for (int j = 0; has_lanes(k) && j < k->nreduces; j++) {
    const pg_kreduce *reduce = &k->reduces[j];
    put(t, "pg_lanes_%s_%s(lanes%d, ", reduction_name[reduce->op], suffix[reduce->dtype], j);
    if (reduces_memory(k, reduce))
      put(t, "a%d + b, n);\n", k->insts[reduce->value].arg);
    else
      put(t, "y%d, n);\n", j);
  }
  for (int j = 0; j < k->ncoded; j++)
    if (k->coded[j].value >= 0) put_encode(t, &k->coded[j], j);
  put(t, "}\n");
}

// ---- lines ---------------------------------------------------------------------------------------------------------

static bool has_memory(const pg_karg *arg) {
  return arg->kind != PG_ARG_INDEX;
}

// Whether draws or indices count from where an argument stands in the line; draws of a vector count from its tile.
static bool has_index(const pg_kernel *k, const pg_karg *arg) {
  return arg->kind == PG_ARG_INDEX || (arg->kind == PG_ARG_KEY && k->space == PG_SPACE_GRID);
}

// Whether an argument's strides are read: along outer dimensions, or along the inner one if that is not known.
static bool has_strides(const pg_kernel *k, int arg) {
  return k->space == PG_SPACE_GRID && has_memory(&k->args[arg]) &&
         (k->ndim > 1 || step_of(k, arg) == STEP_ANY || k->args[arg].kind == PG_ARG_KEY);
}

// "p0 + d0 * s0[0] + …" over the outer dimensions.
static void put_sum(text *t, const pg_kernel *k, int arg, char strides) {
  for (int d = 0; d < k->ndim - 1; d++) put(t, " + d%d * %c%d[%d]", d, strides, arg, d);
}

// Where each argument stands in the line, and the loads that do not change along it.
static void put_line_start(text *t, const pg_kernel *k) {
  for (int a = 0; a < k->nargs; a++) {
    const pg_karg *arg = &k->args[a];
    bool vector = k->space == PG_SPACE_VECTOR;
    if (has_memory(arg)) {
      put_pointer_type(t, arg);
      put(t, "a%d = p%d", a, a);
      if (!vector) put_sum(t, k, a, 's');
      if (vector && arg->kind == PG_ARG_SEGLOAD) put(t, " + vt.segment");
      if (vector && arg->kind != PG_ARG_SEGLOAD && arg->kind != PG_ARG_KEY && step_of(k, a) == STEP_1)
        put(t, " + vt.offset");
      put(t, ";\n");
    }
    if (has_index(k, arg) && !vector) {
      put(t, "const int64_t j%d = 0", a);
      put_sum(t, k, a, 't');
      put(t, ";\n");
    } else if (has_index(k, arg)) {
      put(t, "const int64_t j%d = vt.logical * t%d[0];\n", a, a);
    }
  }
  for (int i = 0; i < k->ninsts; i++)
    if (is_hoisted(k, &k->insts[i])) put_value(t, k, i);
}

// The outer indices of line number `line`.
static void put_indices(text *t, const pg_kernel *k) {
  int outer = k->ndim - 1;
  if (outer > 1) put(t, "int64_t l = line;\n");
  for (int d = outer - 1; d > 0; d--) put(t, "const int64_t d%d = l %% call->dim[%d];\nl /= call->dim[%d];\n", d, d, d);
  if (outer > 0) put(t, "const int64_t d0 = %s;\n", outer > 1 ? "l" : "line");
}

// One line, elements [i0, i1); `which` is the index of its partial results.
static void put_line(text *t, const pg_kernel *k, const char *which) {
  put_line_start(t, k);
  for (int j = 0; has_lanes(k) && j < k->nreduces; j++) {
    const pg_kreduce *reduce = &k->reduces[j];
    put(t, "%s lanes%d[PG_LANES];\n", ctype[reduce->dtype], j);
    put(t, "for (int l = 0; l < PG_LANES; l++) lanes%d[l] = pg_identity_%s_%s();\n", j, reduction_name[reduce->op],
        suffix[reduce->dtype]);
  }
  if (needs_blocks(k))
    put_blocks(t, k);
  else
    put_loop(t, k, "i0", "i1");
  for (int j = 0; has_lanes(k) && j < k->nreduces; j++) {
    const pg_kreduce *reduce = &k->reduces[j];
    put(t, "((%s *)call->partial[%d])[%s] = pg_fold_%s_%s(lanes%d);\n", ctype[reduce->dtype], j, which,
        reduction_name[reduce->op], suffix[reduce->dtype], j);
  }
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

static void put_vector_tile(text *t, const pg_kernel *k) {
  put(t, "const pg_vtile vt = call->vtiles[tile];\n");
  put(t, "const int64_t i0 = 0, i1 = vt.size;\n");
  put_line(t, k, "tile");
}

static void put_rows_tile(text *t, const pg_kernel *k) {
  put(t, "const int64_t chunk = tile %% call->chunks, row = tile / call->chunks * call->rows_per_tile;\n");
  put(t, "const int64_t end = pg_min(row + call->rows_per_tile, call->rows);\n");
  put(t, "const int64_t i0 = chunk * PG_CHUNK, i1 = pg_min(i0 + PG_CHUNK, call->dim[%d]);\n", k->ndim - 1);
  put(t, "for (int64_t line = row; line < end; line++) {\n");
  put_indices(t, k);
  put_line(t, k, "line * call->chunks + chunk");
  put(t, "}\n");
}

static void put_columns_tile(text *t, const pg_kernel *k) {
  put(t, "const int64_t height = call->dim[%d], width = call->dim[%d];\n", k->ndim - 2, k->ndim - 1);
  put(t, "const int64_t blocks = (width + PG_COLUMNS - 1) / PG_COLUMNS;\n");
  put(t, "const int64_t row = tile / blocks / call->chunks, chunk = tile / blocks %% call->chunks;\n");
  put(t, "const int64_t line0 = chunk * PG_ROWS, line1 = pg_min(line0 + PG_ROWS, height);\n");
  put(t, "const int64_t i0 = tile %% blocks * PG_COLUMNS, i1 = pg_min(i0 + PG_COLUMNS, width);\n");
  for (int j = 0; j < k->nreduces; j++) {
    const pg_kreduce *reduce = &k->reduces[j];
    put(t, "%s *const r%d = (%s *)call->partial[%d] + (row * call->chunks + chunk) * width;\n", ctype[reduce->dtype], j,
        ctype[reduce->dtype], j);
    put(t, "for (int64_t i = i0; i < i1; i++) r%d[i] = pg_identity_%s_%s();\n", j, reduction_name[reduce->op],
        suffix[reduce->dtype]);
  }
  put(t, "for (int64_t line = row * height + line0; line < row * height + line1; line++) {\n");
  put_indices(t, k);
  put_line(t, k, "");
  put(t, "}\n");
}

// ---- functions -----------------------------------------------------------------------------------------------------

static void put_title(text *t, const char *title) {
  put(t, "\n// ");
  for (const char *c = title ? title : ""; *c; c++) put(t, "%c", *c >= ' ' && *c < 127 && *c != '\\' ? *c : ' ');
  put(t, "\n");
}

static void put_body(text *t, const pg_kernel *k) {
  for (int i = 0; i < k->ninsts; i++)
    if (k->insts[i].kind == PG_INST_CONST || k->insts[i].kind == PG_INST_NUM) put_value(t, k, i);
  for (int a = 0; a < k->nargs; a++) {
    const pg_karg *arg = &k->args[a];
    if (has_memory(arg)) {
      put_pointer_type(t, arg);
      put(t, "p%d = call->ptr[%d];\n", a, a);
    }
    if (has_strides(k, a)) put(t, "const int64_t *const s%d = call->stride + %d;\n", a, a * PG_KDIMS);
    if (has_index(k, arg)) put(t, "const int64_t *const t%d = call->dstride + %d;\n", a, a * PG_KDIMS);
  }
  put(t, "for (int64_t tile = tile0; tile < tile1; tile++) {\n");
  if (k->space == PG_SPACE_VECTOR)
    put_vector_tile(t, k);
  else if (k->reduction == PG_REDUCE_OUTER)
    put_columns_tile(t, k);
  else
    put_rows_tile(t, k);
  put(t, "}\n}\n");
}

// Where the body of each kernel stands in the text; of kernels with equal bodies only the first has one.
typedef struct body {
  size_t start, size;
} body;

// A network repeats its layers: a kernel that does what an earlier one does is another name for it.
static void put_function(text *t, const pg_kernel *k, int number, body *bodies) {
  put_title(t, k->title);
  size_t head = t->size;
  put(t, "void pg_kernel_%d(const pg_kcall *call, int64_t tile0, int64_t tile1) {\n", number);
  size_t start = t->size;
  put_body(t, k);
  if (t->failed) return;
  bodies[number] = (body){start, t->size - start};
  for (int i = 0; i < number; i++) {
    if (bodies[i].size != t->size - start || memcmp(t->s + bodies[i].start, t->s + start, t->size - start) != 0)
      continue;
    bodies[number].size = 0;
    t->size = head;
    put(t, "void pg_kernel_%d(const pg_kcall *, int64_t, int64_t) __attribute__((alias(\"pg_kernel_%d\")));\n", number,
        i);
    return;
  }
}

// Indent by the braces, so that the printing above need not care.
static char *indent(const text *plain, size_t start) {
  text out = {0};
  int depth = 0;
  put(&out, "%.*s", (int)start, plain->s);
  for (const char *line = plain->s + start; *line && !out.failed;) {
    size_t n = strcspn(line, "\n");
    bool closes = line[0] == '}', opens = n > 0 && line[n - 1] == '{';
    depth -= closes;
    put(&out, "%*s%.*s\n", n ? 2 * depth : 0, "", (int)n, line);
    depth += opens;
    line += n + (line[n] == '\n');
  }
  if (!out.failed) return out.s;
  pg_free(out.s);
  return NULL;
}

static const char prelude_end[] = "typedef struct pg_key_words { uint64_t a, b; } pg_key_words;\n"
                                  "static inline int64_t pg_min(int64_t a, int64_t b) { return a < b ? a : b; }\n"
                                  "#ifdef __clang__\n"
                                  "#define PG_INDEPENDENT _Pragma(\"clang loop vectorize(assume_safety)\")\n"
                                  "#else\n"
                                  "#define PG_INDEPENDENT _Pragma(\"GCC ivdep\")\n"
                                  "#endif\n"
                                  "\n// ---- kernels ----\n";

char *pg_generate_source(int n, const pg_kernel *const *kernels) {
  text t = {0};
  body *bodies = pg_alloc((size_t)n, sizeof *bodies);
  if (!bodies) return NULL;
  put(&t, "%s%s", pg_embedded_numerics, prelude_end);
  size_t start = t.size;
  for (int i = 0; i < n; i++) put_function(&t, kernels[i], i, bodies);
  char *source = t.failed ? NULL : indent(&t, start);
  pg_free(t.s);
  pg_free(bodies);
  return source;
}
