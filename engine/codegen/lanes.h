// lanes.h: how many values of a row become one: PG_LANES interleaved accumulators, folded in a fixed order. The
// numerics stand in kernel.h. Shared by the interpreter and (embedded) by generated code, so that both give the same
// bits.
#ifndef PG_CODEGEN_LANES_H
#define PG_CODEGEN_LANES_H

#include "engine/codegen/kernel_abi.h"
#include "engine/core/scalar.h"

// The reductions: M(name, dtype suffix, C type, identity, the combining function of scalar.h)
#define PG_REDUCTIONS(M)                                                                                               \
  M(sum, f32, float, 0.0f, pg_add_f32)                                                                                 \
  M(sum, f64, double, 0.0, pg_add_f64)                                                                                 \
  M(sum, i32, int32_t, 0, pg_add_i32)                                                                                  \
  M(sum, i64, int64_t, 0, pg_add_i64)                                                                                  \
  M(sum, u8, uint8_t, 0, pg_add_u8)                                                                                    \
  M(max, f32, float, -__builtin_inff(), pg_maximum_f32)                                                                \
  M(max, f64, double, -__builtin_inf(), pg_maximum_f64)                                                                \
  M(max, i32, int32_t, INT32_MIN, pg_maximum_i32)                                                                      \
  M(max, i64, int64_t, INT64_MIN, pg_maximum_i64)                                                                      \
  M(max, u8, uint8_t, 0, pg_maximum_u8)                                                                                \
  M(max, b8, bool, false, pg_maximum_b8)                                                                               \
  M(min, f32, float, __builtin_inff(), pg_minimum_f32)                                                                 \
  M(min, f64, double, __builtin_inf(), pg_minimum_f64)                                                                 \
  M(min, i32, int32_t, INT32_MAX, pg_minimum_i32)                                                                      \
  M(min, i64, int64_t, INT64_MAX, pg_minimum_i64)                                                                      \
  M(min, u8, uint8_t, UINT8_MAX, pg_minimum_u8)                                                                        \
  M(min, b8, bool, true, pg_minimum_b8)

// Called once per block or row: inlining them would only make compiling slower. The loop over lanes must stay a loop
// until it is vectorized; unrolled before, it becomes several times slower.
#define PG_OUT_OF_LINE __attribute__((noinline, unused)) static

// pg_identity_OP_T: what a reduction over nothing gives.
// pg_lanes_OP_T: add x[0..n) to the lanes, element i to lane i % PG_LANES; between calls n is a multiple of PG_LANES.
// pg_fold_OP_T: the lanes' common result; destroys them.
#define PG_DEFINE_REDUCTION(name, suffix, T, identity, combine)                                                        \
  static inline T pg_identity_##name##_##suffix(void) {                                                                \
    return identity;                                                                                                   \
  }                                                                                                                    \
  PG_OUT_OF_LINE void pg_lanes_##name##_##suffix(T *restrict lanes, const T *restrict x, int64_t n) {                  \
    int64_t i = 0;                                                                                                     \
    for (; i + PG_LANES <= n; i += PG_LANES)                                                                           \
      _Pragma("GCC unroll 1") for (int l = 0; l < PG_LANES; l++) lanes[l] = combine(lanes[l], x[i + l]);               \
    for (int l = 0; i + l < n; l++) lanes[l] = combine(lanes[l], x[i + l]);                                            \
  }                                                                                                                    \
  PG_OUT_OF_LINE T pg_fold_##name##_##suffix(T *lanes) {                                                               \
    for (int l = 0; l < 8; l++) lanes[l] = combine(lanes[l], lanes[l + 8]);                                            \
    for (int l = 0; l < 4; l++) lanes[l] = combine(lanes[l], lanes[l + 4]);                                            \
    for (int l = 0; l < 2; l++) lanes[l] = combine(lanes[l], lanes[l + 2]);                                            \
    return combine(lanes[0], lanes[1]);                                                                                \
  }
_Static_assert(PG_LANES == 16, "pg_fold is written out for 16 lanes: loops of known length vectorize");

PG_REDUCTIONS(PG_DEFINE_REDUCTION)

#endif
