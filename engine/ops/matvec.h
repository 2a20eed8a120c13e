// matvec.h: y[r] = sum_k A[r,k] x[k] in the canonical order of inner reductions (codegen/kernel.h): within a chunk of
// PG_CHUNK, element k goes to lane k % PG_LANES, lanes fold 8, 4, 2, 1, and chunks add up in order. The order does not
// depend on how A lies in memory, so a transposed view and its copy give the same bits. Included by matmul.c once per
// type, with T the type and NAME(f) the function's name; A[r,k] = a[r * rs + k * cs].

// Eight or four lanes at a time: as wide as the registers of every machine of the last ten years.
typedef T NAME(vec) __attribute__((vector_size(32)));
enum { NAME(WIDTH) = 32 / sizeof(T), NAME(VECS) = PG_LANES / NAME(WIDTH) };

static inline T NAME(fold_lanes)(NAME(vec) * v) {
  for (int s = NAME(VECS) / 2; s > 0; s /= 2)
    for (int i = 0; i < s; i++) v[i] += v[i + s];
  T lane[NAME(WIDTH)];
  memcpy(lane, v, sizeof lane);
  for (int s = NAME(WIDTH) / 2; s > 0; s /= 2)
    for (int l = 0; l < s; l++) lane[l] += lane[l + s];
  return lane[0];
}

// Rows whose elements are adjacent: a dot product each. x is contiguous.
static inline T NAME(dot)(const T *a, const T *x, int64_t n) {
  NAME(vec) acc[NAME(VECS)] = {{0}}, p, q;
  int64_t k = 0;
  for (; k + PG_LANES <= n; k += PG_LANES)
    for (int i = 0; i < NAME(VECS); i++) {
      memcpy(&p, a + k + i * NAME(WIDTH), sizeof p);
      memcpy(&q, x + k + i * NAME(WIDTH), sizeof q);
      acc[i] += p * q;
    }
  if (k < n) {
    T lane[PG_LANES];
    memcpy(lane, acc, sizeof lane);
    for (int l = 0; k + l < n; l++) lane[l] += a[k + l] * x[k + l];
    memcpy(acc, lane, sizeof lane);
  }
  return NAME(fold_lanes)(acc);
}

// Up to MATVEC_ROWS rows that lie side by side (stride 1): each lane's sums of all rows move together.
static void NAME(dots_across)(int64_t rows, const T *a, int64_t cs, const T *x, int64_t n, T *y) {
  T acc[PG_LANES][MATVEC_ROWS];
  memset(acc, 0, sizeof acc);
  for (int64_t k = 0; k < n; k++) {
    T *lane = acc[k % PG_LANES];
    const T *column = a + k * cs, factor = x[k];
    for (int64_t r = 0; r < rows; r++) lane[r] += column[r] * factor;
  }
  for (int s = PG_LANES / 2; s > 0; s /= 2)
    for (int l = 0; l < s; l++)
      for (int64_t r = 0; r < rows; r++) acc[l][r] += acc[l + s][r];
  memcpy(y, acc[0], (size_t)rows * sizeof *y);
}

static T NAME(dot_strided)(const T *a, int64_t cs, const T *x, int64_t n) {
  T acc[PG_LANES] = {0};
  for (int64_t k = 0; k < n; k++) acc[k % PG_LANES] += a[k * cs] * x[k];
  for (int s = PG_LANES / 2; s > 0; s /= 2)
    for (int l = 0; l < s; l++) acc[l] += acc[l + s];
  return acc[0];
}

// One chunk of at most PG_CHUNK elements for up to MATVEC_ROWS rows.
static void NAME(matvec_chunk)(int64_t rows, int64_t n, const T *a, int64_t rs, int64_t cs, const T *x, T *y) {
  if (rs == 1 && rows > 1)
    NAME(dots_across)(rows, a, cs, x, n, y);
  else if (cs == 1)
    for (int64_t r = 0; r < rows; r++) y[r] = NAME(dot)(a + r * rs, x, n);
  else
    for (int64_t r = 0; r < rows; r++) y[r] = NAME(dot_strided)(a + r * rs, cs, x, n);
}

// y[0..rows) contiguous, x with stride xs.
static void NAME(matvec)(int64_t rows, int64_t n, const T *a, int64_t rs, int64_t cs, const T *x, int64_t xs, T *y) {
  T copy[PG_CHUNK], part[MATVEC_ROWS];
  for (int64_t k = 0; k == 0 || k < n; k += PG_CHUNK) {
    const int64_t length = n - k < PG_CHUNK ? n - k : PG_CHUNK;
    const T *chunk = x + k * xs;
    if (xs != 1) {
      for (int64_t i = 0; i < length; i++) copy[i] = chunk[i * xs];
      chunk = copy;
    }
    for (int64_t r = 0; r < rows; r += MATVEC_ROWS) {
      const int64_t count = rows - r < MATVEC_ROWS ? rows - r : MATVEC_ROWS;
      const T *block = a + r * rs + k * cs;
      if (n <= PG_CHUNK) {
        NAME(matvec_chunk)(count, length, block, rs, cs, chunk, y + r);
        continue;
      }
      NAME(matvec_chunk)(count, length, block, rs, cs, chunk, part);
      for (int64_t i = 0; i < count; i++) y[r + i] = (k == 0 ? 0 : y[r + i]) + part[i];
    }
  }
}

#undef T
#undef NAME
