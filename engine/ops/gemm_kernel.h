// gemm_kernel.h: the inner loops of matrix products, included by gemm.c once per type with T the element and S(f) the
// name f with the type's suffix. Numerics: K falls into ceil(K / PG_GEMM_DEPTH) blocks of equal length (the last may be
// shorter); within a block an element of the result is one chain of fused multiply-adds from zero in ascending order of
// k; blocks add up in order. Neither threads nor vector width nor tiling nor the operands' strides enter.

// c[m][0..n) = or += sum over k of a(m, k) b(k, 0..n), for M rows and NV vectors of columns; `part`: the last vector
// holds n % width columns. a(m, k) = a[m * a_row + k * a_column]; packed: a[k * M + m].
static inline __attribute__((always_inline)) void S(gemm_tile)(int M, int NV, bool part, bool packed,
                                                               const gemm_strides *s, int64_t depth, const T *a,
                                                               const T *b, T *c, int64_t n) {
  S(pg_vec) acc[GEMM_MAX_M][GEMM_NV], v[GEMM_NV];
  const int64_t last = n - (NV - 1) * S(PG_WIDTH);
#define EACH_VECTOR PG_UNROLL for (int i = 0; i < NV; i++)
#define EACH_ROW PG_UNROLL for (int m = 0; m < M; m++)
  EACH_ROW EACH_VECTOR acc[m][i] = (S(pg_vec)){0};
  for (int64_t k = 0; k < depth; k++) {
    EACH_VECTOR v[i] =
        part && i == NV - 1 ? S(pg_load_part)(b + i * S(PG_WIDTH), last) : S(pg_load)(b + i * S(PG_WIDTH));
    EACH_ROW {
      const S(pg_vec) factor = S(pg_splat)(packed ? a[m] : a[m * s->a_row]);
      EACH_VECTOR acc[m][i] = S(pg_vfma)(factor, v[i], acc[m][i]);
    }
    a += packed ? M : s->a_column;
    b += s->b_row;
  }
  EACH_ROW EACH_VECTOR {
    T *to = c + m * s->c_row + i * S(PG_WIDTH);
    const bool cut = part && i == NV - 1;
    if (s->add) acc[m][i] = (cut ? S(pg_load_part)(to, last) : S(pg_load)(to)) + acc[m][i];
    if (cut)
      S(pg_store_part)(to, acc[m][i], last);
    else
      S(pg_store)(to, acc[m][i]);
  }
#undef EACH_VECTOR
#undef EACH_ROW
}

typedef void (*S(gemm_fn))(const gemm_strides *s, int64_t depth, const T *a, const T *b, T *c, int64_t n);
#define TILE(M, NV, PART, PACKED)                                                                                      \
  static void S(gemm_##M##_##NV##_##PART##_##PACKED)(const gemm_strides *s, int64_t depth, const T *a, const T *b,     \
                                                     T *c, int64_t n) {                                                \
    S(gemm_tile)(M, NV, PART, PACKED, s, depth, a, b, c, n);                                                           \
  }
#define TILES(M)                                                                                                       \
  TILE(M, 1, 0, 0)                                                                                                     \
  TILE(M, 1, 0, 1) TILE(M, 1, 1, 0) TILE(M, 1, 1, 1) TILE(M, 2, 0, 0) TILE(M, 2, 0, 1) TILE(M, 2, 1, 0) TILE(M, 2, 1, 1)
GEMM_ROWS(TILES)
// By rows, vectors - 1, part, packed.
static const S(gemm_fn) S(gemm_table)[GEMM_MAX_M + 1][GEMM_NV][2][2] = {
#define ENTRY(M)                                                                                                       \
  [M] = {{{S(gemm_##M##_1_0_0), S(gemm_##M##_1_0_1)}, {S(gemm_##M##_1_1_0), S(gemm_##M##_1_1_1)}},                     \
         {{S(gemm_##M##_2_0_0), S(gemm_##M##_2_0_1)}, {S(gemm_##M##_2_1_0), S(gemm_##M##_2_1_1)}}},
    GEMM_ROWS(ENTRY)};

enum { S(PANEL) = GEMM_NV * S(PG_WIDTH) }; // columns of a panel of b

// to[k * width + i] = from[i * line + k * step] for `lines` lines and `depth` places k; squares of them are transposed
// in registers where the places are adjacent.
static void S(pack_across)(const T *from, int64_t line, int64_t step, int64_t lines, int64_t depth, T *to,
                           int64_t width) {
  int64_t done = 0; // lines whose whole squares are done
  const int64_t whole = step == 1 && lines >= S(PG_SQUARE) ? depth / S(PG_SQUARE) * S(PG_SQUARE) : 0;
  while (whole && done < lines) {
    const int64_t i = pg_smaller(done, lines - S(PG_SQUARE)); // the last squares may overlap those before
    for (int64_t k = 0; k < whole; k += S(PG_SQUARE))
      S(pg_transpose)(from + i * line + k, line, to + k * width + i, width);
    done = i + S(PG_SQUARE);
  }
  for (int64_t i = 0; i < lines; i++)
    for (int64_t k = whole; k < depth; k++) to[k * width + i] = from[i * line + k * step];
}

// Rows of a panel of a, [depth][m].
static void S(pack_rows)(const pg_matrix *a, int64_t row, int64_t m, int64_t k0, int64_t depth, T *to) {
  const T *from = (const T *)a->data + row * a->rs + k0 * a->cs;
  if (a->rs != 1) {
    S(pack_across)(from, a->rs, a->cs, m, depth, to, m);
    return;
  }
  for (int64_t k = 0; k < depth; k++, to += m, from += a->cs)
    for (int64_t i = 0; i < m; i++) to[i] = from[i];
}

// Columns of a panel of b, [depth][PANEL].
static void S(pack_columns)(const pg_matrix *b, int64_t column, int64_t n, int64_t k0, int64_t depth, T *to) {
  const T *from = (const T *)b->data + k0 * b->rs + column * b->cs;
  if (b->cs != 1) {
    S(pack_across)(from, b->cs, b->rs, n, depth, to, S(PANEL));
    return;
  }
  for (int64_t k = 0; k < depth; k++) memcpy(to + k * S(PANEL), from + k * b->rs, (size_t)n * sizeof *to);
}

// Task t of packing: a panel of one matrix of the batch.
static void S(pack_panels)(void *arg, int64_t first, int64_t last) {
  const gemm *g = arg;
  const int64_t rows = g->pack_a ? g->row_panels : 0, panels = rows + (g->pack_b ? g->column_panels : 0);
  for (int64_t t = first; t < last; t++) {
    const int64_t i = t / panels, p = t % panels;
    if (p < rows) {
      const pg_matrix a = pg_matrix_at(g->out, g->a, i, 0, 0);
      const int64_t row = p * g->m;
      S(pack_rows)
      (&a, row, pg_smaller(g->m, g->rows - row), g->k0, g->depth, (T *)g->packed_a + i * g->a_size + row * g->depth);
    } else {
      const pg_matrix b = pg_matrix_at(g->out, g->b, i, 0, 0);
      const int64_t column = (p - rows) * S(PANEL);
      S(pack_columns)
      (&b, column, pg_smaller(S(PANEL), g->columns - column), g->k0, g->depth,
       (T *)g->packed_b + i * g->b_size + column * g->depth);
    }
  }
}

// Task t of multiplying: a block of row panels by one column panel, of one matrix of the batch.
static void S(multiply_panels)(void *arg, int64_t first, int64_t last) {
  const gemm *g = arg;
  for (int64_t t = first; t < last; t++) {
    const int64_t column = t % g->column_panels * S(PANEL), block = t / g->column_panels % g->row_blocks,
                  i = t / g->column_panels / g->row_blocks, n = pg_smaller(S(PANEL), g->columns - column);
    const pg_matrix a = pg_matrix_at(g->out, g->a, i, 0, 0), b = pg_matrix_at(g->out, g->b, i, 0, 0);
    const gemm_strides s = {
        .a_row = a.rs, .a_column = a.cs, .b_row = g->pack_b ? S(PANEL) : b.rs, .c_row = g->columns, .add = g->k0 > 0};
    const T *right = g->pack_b ? (const T *)g->packed_b + i * g->b_size + column * g->depth
                               : (const T *)b.data + g->k0 * b.rs + column;
    const int vectors = n > S(PG_WIDTH), part = n % S(PG_WIDTH) != 0;
    const int64_t end = pg_smaller((block + 1) * GEMM_BLOCK, g->row_panels);
    for (int64_t p = block * GEMM_BLOCK; p < end; p++) {
      const int64_t row = p * g->m, m = pg_smaller(g->m, g->rows - row);
      const T *left = g->pack_a ? (const T *)g->packed_a + i * g->a_size + row * g->depth
                                : (const T *)a.data + row * a.rs + g->k0 * a.cs;
      S(gemm_table)
      [m][vectors][part][g->pack_a](&s, g->depth, left, right,
                                    (T *)g->out->data + (i * g->rows + row) * g->columns + column, n);
    }
  }
}

#undef TILE
#undef TILES
#undef ENTRY
#undef T
#undef S
