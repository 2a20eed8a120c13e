// pool_kernel.h: the inner loops of pooling over batch-innermost tensors, included by pool.c once per type with T the
// element, M a whole number of its size and S(f) the name f with the type's suffix. Everything happens lane by lane, a
// lane being an example, in ascending order of taps and windows.

// Lane by lane: a where the mask is set, else b.
static inline S(pg_vec) S(choose)(S(mask) m, S(pg_vec) a, S(pg_vec) b) {
  return (S(pg_vec))(((S(mask))a & m) | ((S(mask))b & ~m));
}

// Where b replaces a as the largest so far. The first of equals stays, and a NaN is larger than any number.
static inline S(mask) S(is_larger)(S(pg_vec) a, S(pg_vec) b) {
  return (b > a) | ((b != b) & (a == a));
}

static inline S(pg_vec) S(load_lanes)(const T *p, int64_t n) {
  return n < S(PG_WIDTH) ? S(pg_load_part)(p, n) : S(pg_load)(p);
}

static inline void S(store_lanes)(T *p, S(pg_vec) v, int64_t n) {
  if (n < S(PG_WIDTH))
    S(pg_store_part)(p, v, n);
  else
    S(pg_store)(p, v);
}

// Where the elements of tap t of a window lie.
static inline int64_t S(tap_at)(const pool_place *p, int64_t t) {
  return p->h[t / p->nw].at * p->row + p->w[t % p->nw].at * p->column;
}

// The largest element of one window and, in `which`, the number of its tap among those inside.
static inline S(pg_vec) S(find_largest)(const pool_place *p, const T *x, int64_t n, S(mask) * which) {
  S(pg_vec) best = S(load_lanes)(x + S(tap_at)(p, 0), n);
  *which = (S(mask)){0};
  for (int64_t t = 1; t < p->nh * p->nw; t++) {
    const S(pg_vec) v = S(load_lanes)(x + S(tap_at)(p, t), n);
    const S(mask) larger = S(is_larger)(best, v);
    best = S(choose)(larger, v, best);
    *which = (larger & (M)t) | (~larger & *which);
  }
  return best;
}

static inline void S(pool_max)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)other, (void)large;
  S(mask) which;
  S(store_lanes)(small, S(find_largest)(p, x, n, &which), n);
}

// other: a cotangent of the windows, added to `large` where each window's largest element is.
static inline void S(pool_route)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)small;
  S(mask) which;
  S(find_largest)(p, x, n, &which);
  const S(pg_vec) ct = S(load_lanes)(other, n);
  for (int64_t t = 0; t < p->nh * p->nw; t++) {
    T *to = large + S(tap_at)(p, t);
    S(store_lanes)(to, S(load_lanes)(to, n) + S(choose)(which == (M)t, ct, (S(pg_vec)){0}), n);
  }
}

// other: a tensor like x, of which the element at the place of each window's largest of x is taken.
static inline void S(pool_pick)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)large;
  S(mask) which;
  S(find_largest)(p, x, n, &which);
  S(pg_vec) picked = {0};
  for (int64_t t = 0; t < p->nh * p->nw; t++)
    picked = S(choose)(which == (M)t, S(load_lanes)(other + S(tap_at)(p, t), n), picked);
  S(store_lanes)(small, picked, n);
}

static inline void S(pool_sum)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)other, (void)large;
  S(pg_vec) sum = {0};
  for (int64_t t = 0; t < p->nh * p->nw; t++) sum += S(load_lanes)(x + S(tap_at)(p, t), n);
  S(store_lanes)(small, sum, n);
}

// The windows' values (other) added to every element that each covers.
static inline void S(pool_spread)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {
  (void)x, (void)small;
  const S(pg_vec) v = S(load_lanes)(other, n);
  for (int64_t t = 0; t < p->nh * p->nw; t++) {
    T *to = large + S(tap_at)(p, t);
    S(store_lanes)(to, S(load_lanes)(to, n) + v, n);
  }
}

// One window for n examples, a vector of them at a time.
#define EACH_VECTOR(kind)                                                                                              \
  static void S(kind##_window)(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n) {       \
    for (int64_t i = 0; i < n; i += S(PG_WIDTH)) S(kind)                                                               \
    (p, x ? x + i : NULL, other ? other + i : NULL, small ? small + i : NULL, large ? large + i : NULL, n - i);        \
  }
EACH_VECTOR(pool_max)
EACH_VECTOR(pool_route)
EACH_VECTOR(pool_sum)
EACH_VECTOR(pool_spread)
EACH_VECTOR(pool_pick)

typedef void (*S(pool_fn))(const pool_place *p, const T *x, const T *other, T *small, T *large, int64_t n);

// Task t: one channel and slab of examples, all windows in order.
static void S(pool_channels)(void *arg, int64_t first, int64_t last) {
  const pool *c = arg;
  static const S(pool_fn) kinds[] = {S(pool_max_window), S(pool_route_window), S(pool_pick_window), S(pool_sum_window),
                                     S(pool_spread_window)};
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

#undef EACH_VECTOR
#undef T
#undef M
#undef S
