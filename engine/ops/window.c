// window.c: the geometry of sliding windows. See window.h.
#include "engine/ops/window.h"

static int64_t extent_out(int64_t in, int64_t size, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = in + 2 * pad - dilation * (size - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

static pg_window_axis axis_of(const pg_attrs *attrs, int i) {
  pg_window_axis axis = {.in = attrs->b[i],
                         .size = attrs->b[2 + i],
                         .stride = attrs->a[i],
                         .pad = attrs->a[2 + i],
                         .dilation = attrs->a[4 + i]};
  axis.out = extent_out(axis.in, axis.size, axis.stride, axis.pad, axis.dilation);
  return axis;
}

pg_window pg_window_of(const pg_attrs *attrs) {
  return (pg_window){axis_of(attrs, 0), axis_of(attrs, 1), attrs->a[6]};
}

enum { LARGEST = 1 << 24 }; // of any of these numbers: products of a few of them must fit

static pg_status want_range(const char *op, const char *what, int64_t x, int64_t least) {
  if (x >= least && x <= LARGEST) return PG_OK;
  return pg_fail(PG_ERR_ARGUMENT, "%s: the %s is %lld; expected a whole number of at least %lld", op, what,
                 (long long)x, (long long)least);
}

pg_status pg_window_check(const char *op, const pg_attrs *attrs) {
  for (int i = 0; i < 2; i++) {
    PG_TRY(want_range(op, "kernel size", attrs->b[2 + i], 1));
    PG_TRY(want_range(op, "stride", attrs->a[i], 1));
    PG_TRY(want_range(op, "padding", attrs->a[2 + i], 0));
    PG_TRY(want_range(op, "dilation", attrs->a[4 + i], 1));
  }
  PG_TRY(want_range(op, "number of groups", attrs->a[6], 1));
  const pg_window w = pg_window_of(attrs);
  const int64_t reach_h = w.h.dilation * (w.h.size - 1) + 1, reach_w = w.w.dilation * (w.w.size - 1) + 1;
  if (w.h.out > 0 && w.w.out > 0) return PG_OK;
  return pg_fail(PG_ERR_SHAPE, "%s: a window of %lld by %lld is larger than the input of %lld by %lld%s", op,
                 (long long)reach_h, (long long)reach_w, (long long)(w.h.in + 2 * w.h.pad),
                 (long long)(w.w.in + 2 * w.w.pad), w.h.pad || w.w.pad ? " (with its padding)" : "");
}

static int64_t count_places(const pg_window_axis *axis, bool forward) {
  return forward ? axis->out : axis->in;
}

size_t pg_taps_bytes(const pg_window_axis *axis, bool forward) {
  const size_t places = (size_t)count_places(axis, forward);
  const size_t bytes = (places + 1) * sizeof(int64_t) + places * (size_t)axis->size * sizeof(pg_tap);
  return (bytes + 63) / 64 * 64;
}

// The place on the other side that tap t of place p meets, or -1.
static int64_t find_partner(const pg_window_axis *axis, bool forward, int64_t p, int64_t t) {
  if (forward) {
    const int64_t at = p * axis->stride - axis->pad + t * axis->dilation;
    return at >= 0 && at < axis->in ? at : -1;
  }
  const int64_t scaled = p + axis->pad - t * axis->dilation;
  return scaled >= 0 && scaled % axis->stride == 0 && scaled / axis->stride < axis->out ? scaled / axis->stride : -1;
}

pg_taps pg_taps_fill(const pg_window_axis *axis, bool forward, void *memory) {
  const int64_t places = count_places(axis, forward);
  pg_taps taps = {.start = memory, .entry = (pg_tap *)((int64_t *)memory + places + 1)};
  int64_t n = 0;
  for (int64_t p = 0; p < places; p++) {
    taps.start[p] = n;
    for (int64_t t = 0; t < axis->size; t++) {
      const int64_t at = find_partner(axis, forward, p, t);
      if (at >= 0) taps.entry[n++] = (pg_tap){(int32_t)t, (int32_t)at};
    }
  }
  taps.start[places] = n;
  return taps;
}
