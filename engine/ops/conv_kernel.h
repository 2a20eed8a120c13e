// conv_kernel.h: the inner loops of convolutions over batch-innermost tensors, included by conv_kernel.c once per type
// with T the element and S(f) the name f with the type's suffix. Numerics: every element of a result is one chain of
// fused multiply-adds from zero, in ascending order of (channel summed over, tap h, tap w); a weight's gradient is 16
// (f64: 8) such chains, example n in chain n % 16, in order of (row, column, n), folded by halves; of large results
// each chunk of rows by itself, and the chunks add up in order; of an example alone it is one chain. Taps outside the
// input are left out. Neither threads nor vector width nor tiling enters.

// ---- results: forward, and the gradient of the input ---------------------------------------------------------------

#define EACH_CHANNEL PG_UNROLL for (int m = 0; m < M; m++)
#define EACH_VECTOR PG_UNROLL for (int i = 0; i < NV; i++)

// One place of one tile of M channels: out[m][0..n) for the `n` examples of NV vectors, or n < one vector (part).
// x: the examples in channel 0 of what is summed over; w: the tile's weights, packed [channel][tap h][tap w][M].
static inline __attribute__((always_inline)) void S(conv_place)(int M, int NV, bool part, const pg_conv_place *p,
                                                                const T *x, const T *w, T *out, int64_t n) {
  S(pg_vec) acc[PG_CONV_MAX_M][PG_CONV_MAX_NV], v[PG_CONV_MAX_NV];
  EACH_CHANNEL EACH_VECTOR acc[m][i] = (S(pg_vec)){0};
  const int64_t taps = p->taps_h * p->taps_w;
  for (int64_t r = 0; r < p->channels; r++, x += p->x_channel, w += taps * M)
    for (int64_t a = 0; a < p->nh; a++) {
      const T *row = x + p->h[a].at * p->x_row;
      const T *weights = w + p->h[a].tap * p->taps_w * M;
      // More streams than the hardware follows by itself: one for each channel and row.
      EACH_VECTOR __builtin_prefetch(row + (p->w[0].at + PG_CONV_AHEAD) * p->x_column + i * S(PG_WIDTH));
      for (int64_t b = 0; b < p->nw; b++) {
        const T *from = row + p->w[b].at * p->x_column;
        const T *k = weights + (int64_t)p->w[b].tap * M;
        EACH_VECTOR v[i] = part ? S(pg_load_part)(from, n) : S(pg_load)(from + i * S(PG_WIDTH));
        EACH_CHANNEL {
          const S(pg_vec) factor = S(pg_splat)(k[m]);
          EACH_VECTOR acc[m][i] = S(pg_vfma)(factor, v[i], acc[m][i]);
        }
      }
    }
  EACH_CHANNEL EACH_VECTOR {
    if (part)
      S(pg_store_part)(out + m * p->out_channel, acc[m][i], n);
    else
      S(pg_store)(out + m * p->out_channel + i * S(PG_WIDTH), acc[m][i]);
  }
}
#undef EACH_CHANNEL
#undef EACH_VECTOR

#define PLACE(M, NV)                                                                                                   \
  static void S(conv_place_##M##_##NV)(const pg_conv_place *p, const T *x, const T *w, T *out, int64_t n) {            \
    S(conv_place)(M, NV, false, p, x, w, out, n);                                                                      \
  }
#define PART(M)                                                                                                        \
  static void S(conv_part_##M)(const pg_conv_place *p, const T *x, const T *w, T *out, int64_t n) {                    \
    S(conv_place)(M, 1, true, p, x, w, out, n);                                                                        \
  }
#define NARROW(M) PLACE(M, 1) PLACE(M, 2) PART(M)
#define WIDE(M) NARROW(M) PLACE(M, 4)
PG_CONV_WIDE_M(WIDE)
PG_CONV_NARROW_M(NARROW)

typedef void (*S(conv_place_fn))(const pg_conv_place *p, const T *x, const T *w, T *out, int64_t n);
// By M and vectors: [0] part of one vector, [1], [2], [4]; NULL where there are not enough registers.
static const S(conv_place_fn) S(conv_places)[PG_CONV_MAX_M + 1][PG_CONV_MAX_NV + 1] = {
#define NARROW_ROW(M) [M] = {S(conv_part_##M), S(conv_place_##M##_1), S(conv_place_##M##_2)},
#define WIDE_ROW(M) [M] = {S(conv_part_##M), S(conv_place_##M##_1), S(conv_place_##M##_2), NULL, S(conv_place_##M##_4)},
    PG_CONV_WIDE_M(WIDE_ROW) PG_CONV_NARROW_M(NARROW_ROW)};

// One row of places for one tile of channels and `count` examples, from the slab's first on.
static void S(conv_row)(const pg_conv *c, pg_conv_place *p, int m, const T *x, const T *w, T *out, int64_t count) {
  for (int64_t n = 0; n < count;) {
    const int64_t left = (count - n) / S(PG_WIDTH);
    const int vectors = left >= 4 && S(conv_places)[m][4] ? 4 : left >= 2 ? 2 : left >= 1 ? 1 : 0;
    const int64_t width = vectors ? vectors * S(PG_WIDTH) : count - n;
    const S(conv_place_fn) run = S(conv_places)[m][vectors];
    for (int64_t q = 0; q < c->columns; q++) {
      p->w = c->w_taps.entry + c->w_taps.start[q];
      p->nw = c->w_taps.start[q + 1] - c->w_taps.start[q];
      run(p, x + n, w, out + q * c->batch + n, width);
    }
    n += width;
  }
}

static void S(conv_rows)(void *arg, int64_t first, int64_t last) {
  const pg_conv *c = arg;
  pg_conv_place p = {.channels = c->summed,
                     .taps_h = c->window.h.size,
                     .taps_w = c->window.w.size,
                     .x_channel = c->x_rows * c->x_columns * c->batch,
                     .x_row = c->x_columns * c->batch,
                     .x_column = c->batch,
                     .out_channel = c->rows * c->columns * c->batch};
  const int64_t weights = c->summed * p.taps_h * p.taps_w; // of one channel of the result
  for (int64_t t = first; t < last; t++) {
    const int64_t row = t % c->rows, block = t / c->rows % c->blocks, slab = t / c->rows / c->blocks % c->slabs,
                  group = t / c->rows / c->blocks / c->slabs;
    const int64_t m0 = block * c->m, n0 = slab * PG_CONV_SLAB;
    p.h = c->h_taps.entry + c->h_taps.start[row];
    p.nh = c->h_taps.start[row + 1] - c->h_taps.start[row];
    const T *x = (const T *)c->x + group * c->summed * p.x_channel + n0;
    const T *w = (const T *)c->packed + (group * c->kept + m0) * weights;
    T *out = (T *)c->out + (group * c->kept + m0) * p.out_channel + row * c->columns * c->batch + n0;
    S(conv_row)(c, &p, (int)pg_smaller(c->kept - m0, c->m), x, w, out, pg_smaller(c->batch - n0, PG_CONV_SLAB));
  }
}

// Weights [groups][O][C][taps] → tiles [group][block][summed][taps][M]. Forward keeps O and sums over C; the gradient
// of the input keeps C and sums over O.
static void S(conv_pack)(const pg_conv *c, const T *w, T *packed) {
  const int64_t taps = c->window.h.size * c->window.w.size, outputs = c->forward ? c->kept : c->summed,
                inputs = c->forward ? c->summed : c->kept;
  for (int64_t g = 0; g < c->window.groups; g++)
    for (int64_t m0 = 0; m0 < c->kept; m0 += c->m) {
      const int64_t m = c->kept - m0 < c->m ? c->kept - m0 : c->m;
      for (int64_t r = 0; r < c->summed; r++)
        for (int64_t t = 0; t < taps; t++)
          for (int64_t i = 0; i < m; i++) {
            const int64_t o = c->forward ? m0 + i : r, in = c->forward ? r : m0 + i;
            *packed++ = w[((g * outputs + o) * inputs + in) * taps + t];
          }
    }
}

// ---- the gradient of the weights -----------------------------------------------------------------------------------

enum { S(LANES) = PG_CONV_LANE_BYTES / sizeof(T), S(LANE_VECS) = S(LANES) / S(PG_WIDTH) };

// Lanes fold by halves.
static T S(fold_chain)(const S(pg_vec) * v) {
  T lane[S(LANES)];
  memcpy(lane, v, sizeof lane);
  for (int s = S(LANES) / 2; s > 0; s /= 2)
    for (int l = 0; l < s; l++) lane[l] += lane[l + s];
  return lane[0];
}

// Chains of M channels of the cotangent against K taps, along `columns` places of one row, carried on in sums[m][k].
// y: the cotangent at the first place; x: the input there; x_tap: where each tap lies.
static inline __attribute__((always_inline)) void S(weigh_places)(int M, int K, const pg_conv_weigh *s, const T *y,
                                                                  const T *x, const int64_t *x_tap, int64_t columns,
                                                                  S(pg_vec) * sums) {
  S(pg_vec) acc[PG_CONV_MAX_WM][PG_CONV_MAX_WK][S(LANE_VECS)], v[PG_CONV_MAX_WM];
#define EACH_CHANNEL PG_UNROLL for (int m = 0; m < M; m++)
#define EACH_TAP PG_UNROLL for (int k = 0; k < K; k++)
#define EACH_VECTOR PG_UNROLL for (int i = 0; i < S(LANE_VECS); i++)
  EACH_CHANNEL EACH_TAP EACH_VECTOR acc[m][k][i] = sums[(m * K + k) * S(LANE_VECS) + i];
  for (int64_t q = 0; q < columns; q++, y += s->batch, x += s->x_step) {
    int64_t n = 0;
    for (; n + S(LANES) <= s->count; n += S(LANES)) {
      EACH_VECTOR {
        const int64_t at = n + i * S(PG_WIDTH);
        EACH_CHANNEL v[m] = S(pg_load)(y + m * s->y_channel + at);
        EACH_TAP {
          const S(pg_vec) u = S(pg_keep)(S(pg_load)(x + x_tap[k] + at));
          EACH_CHANNEL acc[m][k][i] = S(pg_vfma)(v[m], u, acc[m][k][i]);
        }
      }
    }
    if (n == s->count) continue;
    EACH_VECTOR {
      const int64_t at = n + i * S(PG_WIDTH), left = s->count - at, count = left < S(PG_WIDTH) ? left : S(PG_WIDTH);
      if (count <= 0) continue;
      EACH_CHANNEL v[m] = S(pg_load_part)(y + m * s->y_channel + at, count);
      EACH_TAP {
        const S(pg_vec) u = S(pg_load_part)(x + x_tap[k] + at, count);
        EACH_CHANNEL acc[m][k][i] = S(pg_vfma)(v[m], u, acc[m][k][i]);
      }
    }
  }
  EACH_CHANNEL EACH_TAP EACH_VECTOR sums[(m * K + k) * S(LANE_VECS) + i] = acc[m][k][i];
#undef EACH_CHANNEL
#undef EACH_TAP
#undef EACH_VECTOR
}

#define WEIGH(M, K)                                                                                                    \
  static void S(weigh_##M##_##K)(const pg_conv_weigh *s, const T *y, const T *x, const int64_t *x_tap,                 \
                                 int64_t columns, S(pg_vec) * sums) {                                                  \
    S(weigh_places)(M, K, s, y, x, x_tap, columns, sums);                                                              \
  }
PG_CONV_WEIGH(WEIGH)

typedef void (*S(weigh_fn))(const pg_conv_weigh *s, const T *y, const T *x, const int64_t *x_tap, int64_t columns,
                            S(pg_vec) * sums);
static const S(weigh_fn) S(weigh_table)[PG_CONV_MAX_WM + 1][PG_CONV_MAX_WK + 1] = {
#define WEIGH_ENTRY(M, K) [M][K] = S(weigh_##M##_##K),
    PG_CONV_WEIGH(WEIGH_ENTRY)};

// Columns [q0, q1) of one row for the taps [k0, k0 + k) of a tile, one by one or all at once.
static void S(weigh_span)(const pg_conv_weigh *s, int m, int total, int k0, int k, const T *y, const T *x, int64_t q0,
                          int64_t q1, S(pg_vec) * sums) {
  if (q0 >= q1) return;
  if (k == total) {
    S(weigh_table)[m][k](s, y + q0 * s->batch, x + q0 * s->x_step, s->x_tap, q1 - q0, sums);
    return;
  }
  S(pg_vec) part[PG_CONV_MAX_WM * PG_CONV_MAX_WK * S(LANE_VECS)];
  for (int a = 0; a < m; a++)
    memcpy(part + a * k * S(LANE_VECS), sums + (a * total + k0) * S(LANE_VECS),
           (size_t)(k * S(LANE_VECS)) * sizeof *part);
  S(weigh_table)[m][k](s, y + q0 * s->batch, x + q0 * s->x_step, s->x_tap + k0, q1 - q0, part);
  for (int a = 0; a < m; a++)
    memcpy(sums + (a * total + k0) * S(LANE_VECS), part + a * k * S(LANE_VECS),
           (size_t)(k * S(LANE_VECS)) * sizeof *part);
}

// Task t: a tile of output channels × a tile of taps of one row of the window × a chunk of rows of the result.
static void S(weigh_tiles)(void *arg, int64_t first, int64_t last) {
  const pg_conv_grad *c = arg;
  const int64_t x_row = c->window.w.in * c->batch, y_row = c->window.w.out * c->batch,
                x_channel = c->window.h.in * x_row, kw = c->window.w.size, taps = c->window.h.size * kw;
  for (int64_t t = first; t < last; t++) {
    const pg_conv_weigh_task w = pg_conv_weigh_task_at(c, t);
    pg_conv_weigh s = {.batch = c->batch,
                       .count = pg_smaller(c->batch - w.n0, c->lanes),
                       .x_step = c->window.w.stride * c->batch,
                       .y_channel = c->window.h.out * y_row};
    for (int k = 0; k < w.k; k++) // flattened over (channel, tap w)
      s.x_tap[k] = (w.k0 + k) / kw * x_channel + ((w.k0 + k) % kw * c->window.w.dilation - c->window.w.pad) * c->batch;
    S(pg_vec) sums[PG_CONV_MAX_WM * PG_CONV_MAX_WK * S(LANE_VECS)];
    memset(sums, 0, sizeof sums);
    for (int64_t p = w.p0; p < w.p1; p++) {
      const int64_t at = p * c->window.h.stride - c->window.h.pad + w.h * c->window.h.dilation;
      if (at < 0 || at >= c->window.h.in) continue;
      const T *y = (const T *)c->y + (w.group * c->outputs + w.m0) * s.y_channel + p * y_row + w.n0;
      const T *x = (const T *)c->x + w.group * c->inputs * x_channel + at * x_row + w.n0;
      for (int k = 0; k < w.k; k++) // before the columns where all taps are inside
        S(weigh_span)(&s, w.m, w.k, k, 1, y, x, w.q0[k], w.q1[k] < w.all0 ? w.q1[k] : w.all0, sums);
      S(weigh_span)(&s, w.m, w.k, 0, w.k, y, x, w.all0, w.all1, sums);
      for (int k = 0; k < w.k; k++) // and behind them
        S(weigh_span)(&s, w.m, w.k, k, 1, y, x, w.q0[k] > w.all1 ? w.q0[k] : w.all1, w.q1[k], sums);
    }
    T *out = (T *)c->partial;
    for (int m = 0; m < w.m; m++)
      for (int k = 0; k < w.k; k++) {
        const int64_t o = (w.chunk * c->window.groups + w.group) * c->outputs + w.m0 + m;
        const int64_t at = (o * c->inputs + (w.k0 + k) / kw) * taps + w.h * kw + (w.k0 + k) % kw;
        const S(pg_vec) *chains = sums + (m * w.k + k) * S(LANE_VECS);
        if (c->each)
          memcpy(out + at * c->batch + w.n0, chains, (size_t)s.count * sizeof *out);
        else
          out[at] = S(fold_chain)(chains);
      }
  }
}

// Chunks add up in order.
static void S(add_chunks)(const pg_conv_grad *c, T *out) {
  const int64_t size = c->window.groups * c->outputs * c->inputs * c->window.h.size * c->window.w.size;
  const T *partial = c->partial;
  memcpy(out, partial, (size_t)size * sizeof *out);
  for (int64_t k = 1; k < c->chunks; k++)
    for (int64_t i = 0; i < size; i++) out[i] += partial[k * size + i];
}

#undef PLACE
#undef PART
#undef NARROW
#undef WIDE
#undef NARROW_ROW
#undef WIDE_ROW
#undef WEIGH
#undef WEIGH_ENTRY
#undef T
#undef S
