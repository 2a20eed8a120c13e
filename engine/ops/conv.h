// conv.h: what the rows of convolutions (conv.c) ask of their CPU kernels (conv_kernel.c). Tensors are batch-innermost:
// x [C, H, W, N], w [O, C / groups, KH, KW], y [O, OH, OW, N]; all contiguous, f32 or f64. Attributes: window.h.
#ifndef PG_OPS_CONV_H
#define PG_OPS_CONV_H

#include "engine/ops/window.h"

// A flag of CONV_WEIGHTS: the gradient of each image by itself, [O, C / groups, KH, KW, N].
enum { PG_CONV_EACH = 1 };

// y from x, w.
void pg_conv_run(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch);
// x-like from y, w: the gradient of the input.
void pg_conv_input_run(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch);
// Bytes of scratch of either, by channels.
size_t pg_conv_scratch(const pg_attrs *attrs, bool forward, int64_t outputs, int64_t inputs, pg_dtype dtype);

// w-like from x, y: the gradient of the weights.
void pg_conv_weights_run(const pg_operand *out, const pg_operand *in, int nin, const pg_attrs *attrs, void *scratch);
size_t pg_conv_weights_scratch(const pg_attrs *attrs, int64_t outputs, int64_t inputs, int64_t batch, pg_dtype dtype);

#endif
