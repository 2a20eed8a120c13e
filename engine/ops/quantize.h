// quantize.h: where the codes and scales of a vector lie (ops/quantize.c). A vector is coded tensor by tensor: blocks
// begin anew with each. Tensors that a second layout, that of the codes, names as well have codes; the others are kept
// whole, among the scales.
#ifndef PG_OPS_QUANTIZE_H
#define PG_OPS_QUANTIZE_H

#include "engine/perigee.h"

// The tensor of the codes that holds segment s, or NULL.
const pg_segment *pg_codes_of(const pg_layout *coded, const pg_segment *s);
// How many scales segment s has.
int64_t pg_scales_of(const pg_layout *coded, const pg_segment *s, int64_t block);

#endif
