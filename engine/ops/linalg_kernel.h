// linalg_kernel.h: the inner loops of triangular factors, included by linalg.c once per type with T the element and
// S(f) the name f with the type's suffix. Blocks of LINALG_BLOCK rows or columns meet by gemm.h; within a block the
// order of operations is written here, elementwise along rows, so that the bits depend on the shapes alone.

// row[0..upto) of A becomes that of L, given the rows of the factor above it: u[c][k] = L(k, c) for k >= c.
static void S(eliminate)(T *row, const T *u, int64_t upto) {
  for (int64_t c = 0; c < upto; c++, u += LINALG_BLOCK) {
    const T x = row[c] = row[c] / u[c];
    for (int64_t k = c + 1; k < upto; k++) row[k] -= x * u[k];
  }
}

// The block on the diagonal, row by row; its transpose into u. A pivot that is not positive makes NaNs of what follows.
static void S(factor_diagonal)(const factor *f) {
  T *u = f->corner;
  for (int64_t r = 0; r < f->width; r++) {
    T *row = (T *)f->out->data + (f->at + r) * f->n + f->at, pivot = row[r];
    S(eliminate)(row, u, r);
    for (int64_t c = 0; c < r; c++) {
      u[c * LINALG_BLOCK + r] = row[c];
      pivot -= row[c] * row[c];
    }
    u[r * LINALG_BLOCK + r] = row[r] = pivot > 0 ? (T)sqrt((double)pivot) : (T)NAN;
    memset(row + r + 1, 0, (size_t)(f->n - f->at - r - 1) * sizeof *row);
  }
}

// Rows first … last - 1 below the diagonal block.
static void S(factor_rows)(void *arg, int64_t first, int64_t last) {
  const factor *f = arg;
  for (int64_t r = first; r < last; r++)
    S(eliminate)((T *)f->out->data + (f->at + f->width + r) * f->n + f->at, f->corner, f->width);
}

// Columns of the symmetric part of A, less what the columns of L to their left explain.
static void S(load_columns)(const factor *f) {
  const T *a = f->in->data, *explained = f->product;
  for (int64_t r = f->at; r < f->n; r++)
    for (int64_t c = f->at; c < f->at + f->width; c++) {
      const T x = (a[r * f->n + c] + a[c * f->n + r]) / 2;
      ((T *)f->out->data)[r * f->n + c] = f->at ? x - *explained++ : x;
    }
}

// Columns first … last - 1 (in pieces of LINALG_BLOCK) of the rows of a block: X = B - product, then L X = or L^T X =.
static void S(solve_columns)(void *arg, int64_t first, int64_t last) {
  const solve *s = arg;
  const int64_t begin = first * LINALG_BLOCK, end = pg_smaller(last * LINALG_BLOCK, s->columns);
  const T *l = s->l->data, *product = s->product;
  T *x = s->out->data;
  for (int64_t i = 0; i < s->width; i++) {
    const int64_t r = s->transposed ? s->at + s->width - 1 - i : s->at + i;
    T *row = x + r * s->columns;
    const T *b = (const T *)s->b->data + r * s->columns, *known = product + (r - s->at) * s->columns;
    for (int64_t c = begin; c < end; c++) row[c] = s->first ? b[c] : b[c] - known[c];
    for (int64_t k = 0; k < i; k++) { // rows of the block that are done
      const int64_t q = s->transposed ? s->at + s->width - 1 - k : s->at + k;
      const T weight = s->transposed ? l[q * s->n + r] : l[r * s->n + q], *done = x + q * s->columns;
      for (int64_t c = begin; c < end; c++) row[c] -= weight * done[c];
    }
    for (int64_t c = begin; c < end; c++) row[c] /= l[r * s->n + r];
  }
}

#undef T
#undef S
