// pool_kernel.h: the inner loops of pooling over batch-innermost tensors, included by pool.c once per type with T the
// element, M an integer of its size and S(f) the name f with the type's suffix. Everything happens lane by lane, a lane
// being an example, in ascending order of taps and windows.

// Does b replace a as the largest so far? The first of equals stays, and a NaN is larger than any number.
static inline bool S(is_larger)(T a, T b) {
  return b > a || (b != b && a == a);
}

// The largest element of one window and, in `which`, the number of its tap among those inside.
static void S(find_largest)(const pool_place *p, const T *x, int64_t n, T *restrict best, M *restrict which) {
  M number = 0;
  for (int64_t a = 0; a < p->nh; a++)
    for (int64_t b = 0; b < p->nw; b++, number++) {
      const T *from = x + p->h[a].at * p->row + p->w[b].at * p->column;
      if (number == 0) {
        memcpy(best, from, (size_t)n * sizeof *best);
        memset(which, 0, (size_t)n * sizeof *which);
        continue;
      }
      for (int64_t i = 0; i < n; i++) {
        const bool larger = S(is_larger)(best[i], from[i]);
        best[i] = larger ? from[i] : best[i];
        which[i] = larger ? number : which[i];
      }
    }
}

static void S(pool_max)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)other, (void)large;
  M which[SLAB];
  S(find_largest)(p, x, n, small, which);
}

// other: a cotangent of the windows, added to `large` where each window's largest element is.
static void S(pool_route)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)small;
  T best[SLAB];
  M which[SLAB], number = 0;
  S(find_largest)(p, x, n, best, which);
  for (int64_t a = 0; a < p->nh; a++)
    for (int64_t b = 0; b < p->nw; b++, number++) {
      T *to = large + p->h[a].at * p->row + p->w[b].at * p->column;
      for (int64_t i = 0; i < n; i++) to[i] += which[i] == number ? other[i] : 0;
    }
}

// other: a tensor like x, of which the element at the place of each window's largest of x is taken.
static void S(pool_pick)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)large;
  T best[SLAB];
  M which[SLAB], number = 0;
  S(find_largest)(p, x, n, best, which);
  for (int64_t a = 0; a < p->nh; a++)
    for (int64_t b = 0; b < p->nw; b++, number++) {
      const T *from = other + p->h[a].at * p->row + p->w[b].at * p->column;
      for (int64_t i = 0; i < n; i++) small[i] = which[i] == number ? from[i] : small[i];
    }
}

static void S(pool_sum)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)other, (void)large;
  memset(small, 0, (size_t)n * sizeof *small);
  for (int64_t a = 0; a < p->nh; a++)
    for (int64_t b = 0; b < p->nw; b++) {
      const T *from = x + p->h[a].at * p->row + p->w[b].at * p->column;
      for (int64_t i = 0; i < n; i++) small[i] += from[i];
    }
}

// The windows' values (other) added to every element that each covers.
static void S(pool_spread)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)x, (void)small;
  for (int64_t a = 0; a < p->nh; a++)
    for (int64_t b = 0; b < p->nw; b++) {
      T *to = large + p->h[a].at * p->row + p->w[b].at * p->column;
      for (int64_t i = 0; i < n; i++) to[i] += other[i];
    }
}

typedef void (*S(pool_fn))(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n);

// Task t: one channel and slab of examples, all windows in order.
static void S(pool_channels)(void *arg, int64_t first, int64_t last) {
  const pool *c = arg;
  static const S(pool_fn) kinds[] = {S(pool_max), S(pool_route), S(pool_pick), S(pool_sum), S(pool_spread)};
  const pg_window *w = &c->window;
  const int64_t large_channel = w->h.in * w->w.in * c->batch, small_channel = w->h.out * w->w.out * c->batch;
  pool_place p = {.row = w->w.in * c->batch, .column = c->batch};
  for (int64_t t = first; t < last; t++) {
    const int64_t channel = t / c->slabs, n0 = t % c->slabs * SLAB, n = c->batch - n0 < SLAB ? c->batch - n0 : SLAB;
    const T *x = c->x ? (const T *)c->x + channel * large_channel + n0 : NULL;
    const T *other =
        c->other ? (const T *)c->other + channel * (c->other_is_small ? small_channel : large_channel) + n0 : NULL;
    T *small = c->gives_small ? (T *)c->out + channel * small_channel + n0 : NULL;
    T *large = c->gives_small ? NULL : (T *)c->out + channel * large_channel + n0;
    for (int64_t i = 0; large && i < w->h.in * w->w.in; i++) memset(large + i * c->batch, 0, (size_t)n * sizeof *large);
    for (int64_t row = 0; row < w->h.out; row++)
      for (int64_t column = 0; column < w->w.out; column++) {
        const int64_t at = (row * w->w.out + column) * c->batch;
        p.h = c->h_taps.entry + c->h_taps.start[row];
        p.nh = c->h_taps.start[row + 1] - c->h_taps.start[row];
        p.w = c->w_taps.entry + c->w_taps.start[column];
        p.nw = c->w_taps.start[column + 1] - c->w_taps.start[column];
        kinds[c->kind](&p, x, other && c->other_is_small ? other + at : other, small ? small + at : NULL, large, n);
      }
  }
}

#undef T
#undef M
#undef S
