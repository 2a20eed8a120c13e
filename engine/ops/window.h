// window.h: the geometry of sliding windows, shared by convolutions and pooling. Activations lie batch-innermost,
// [channels, height, width, batch]: every element of a window is then a run of adjacent numbers, one per example, and
// kernels vectorize over them whatever the number of channels.
//
// Attributes of every windowed operation (pg_attrs): a = stride h, w; padding h, w; dilation h, w; groups.
// b = height and width of the input; height and width of the window.
#ifndef PG_OPS_WINDOW_H
#define PG_OPS_WINDOW_H

#include "engine/ops/ops.h"

// One axis of a window: out[o] looks at in[o * stride - pad + t * dilation] for the taps t in [0, size) that fall
// inside.
typedef struct pg_window_axis {
  int64_t in, out, size, stride, pad, dilation;
} pg_window_axis;

typedef struct pg_window {
  pg_window_axis h, w;
  int64_t groups;
} pg_window;

pg_window pg_window_of(const pg_attrs *attrs);
// Check the attributes for possible sizes, in the words of a user of `op`.
pg_status pg_window_check(const char *op, const pg_attrs *attrs);

// Which taps meet which places: for place p the entries [start[p], start[p + 1]), ascending in the tap.
typedef struct pg_tap {
  int32_t tap, at;
} pg_tap;
typedef struct pg_taps {
  int64_t *start;
  pg_tap *entry;
} pg_taps;

// Bytes that the lists of one axis take; and filling them in memory of that size. forward: places are outputs and
// `at` is an input; else places are inputs and `at` is an output.
size_t pg_taps_bytes(const pg_window_axis *axis, bool forward);
pg_taps pg_taps_fill(const pg_window_axis *axis, bool forward, void *memory);

#endif
