// simd.h: vectors as wide as the machine's registers, with a fused multiply-add, for the kernels of engine/ops that are
// written by hand (products and convolutions). Every lane does the same IEEE operations on every machine, so the width
// shows in speed and never in the bits.
//
// For each of f32 and f64: pg_vec_T the vector, PG_WIDTH_T its lanes, pg_load_T, pg_load_part_T (the first n lanes, the
// others 0; no byte beyond them is touched), pg_store_T, pg_store_part_T, pg_splat_T, pg_keep_T, pg_vfma_T (a * b + c
// rounded once).
#ifndef PG_CORE_SIMD_H
#define PG_CORE_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define PG_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define PG_VECTOR_BYTES 32
#else
#define PG_VECTOR_BYTES 16
#endif

// In front of a loop of few, known rounds over an array of vectors: written out, so that each has a register.
#ifdef __clang__
#define PG_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PG_UNROLL _Pragma("GCC unroll 16")
#endif

typedef float pg_vec_f32 __attribute__((vector_size(PG_VECTOR_BYTES)));
typedef double pg_vec_f64 __attribute__((vector_size(PG_VECTOR_BYTES)));
enum { PG_WIDTH_f32 = PG_VECTOR_BYTES / 4, PG_WIDTH_f64 = PG_VECTOR_BYTES / 8 };

#if PG_VECTOR_BYTES == 64
static inline pg_vec_f32 pg_vfma_f32(pg_vec_f32 a, pg_vec_f32 b, pg_vec_f32 c) {
  return (pg_vec_f32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
static inline pg_vec_f64 pg_vfma_f64(pg_vec_f64 a, pg_vec_f64 b, pg_vec_f64 c) {
  return (pg_vec_f64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
static inline pg_vec_f32 pg_load_part_f32(const float *p, int64_t n) {
  return (pg_vec_f32)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
static inline pg_vec_f64 pg_load_part_f64(const double *p, int64_t n) {
  return (pg_vec_f64)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
static inline void pg_store_part_f32(float *p, pg_vec_f32 v, int64_t n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
static inline void pg_store_part_f64(double *p, pg_vec_f64 v, int64_t n) {
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
}
#else
#if PG_VECTOR_BYTES == 32
static inline pg_vec_f32 pg_vfma_f32(pg_vec_f32 a, pg_vec_f32 b, pg_vec_f32 c) {
  return (pg_vec_f32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
static inline pg_vec_f64 pg_vfma_f64(pg_vec_f64 a, pg_vec_f64 b, pg_vec_f64 c) {
  return (pg_vec_f64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#else
static inline pg_vec_f32 pg_vfma_f32(pg_vec_f32 a, pg_vec_f32 b, pg_vec_f32 c) {
  for (int i = 0; i < PG_WIDTH_f32; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
static inline pg_vec_f64 pg_vfma_f64(pg_vec_f64 a, pg_vec_f64 b, pg_vec_f64 c) {
  for (int i = 0; i < PG_WIDTH_f64; i++) c[i] = __builtin_fma(a[i], b[i], c[i]);
  return c;
}
#endif
static inline pg_vec_f32 pg_load_part_f32(const float *p, int64_t n) {
  float lane[PG_WIDTH_f32] = {0};
  pg_vec_f32 v;
  for (int64_t i = 0; i < n; i++) lane[i] = p[i];
  memcpy(&v, lane, sizeof v);
  return v;
}
static inline pg_vec_f64 pg_load_part_f64(const double *p, int64_t n) {
  double lane[PG_WIDTH_f64] = {0};
  pg_vec_f64 v;
  for (int64_t i = 0; i < n; i++) lane[i] = p[i];
  memcpy(&v, lane, sizeof v);
  return v;
}
static inline void pg_store_part_f32(float *p, pg_vec_f32 v, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
static inline void pg_store_part_f64(double *p, pg_vec_f64 v, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = v[i];
}
#endif

static inline pg_vec_f32 pg_load_f32(const float *p) {
  pg_vec_f32 v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline pg_vec_f64 pg_load_f64(const double *p) {
  pg_vec_f64 v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void pg_store_f32(float *p, pg_vec_f32 v) {
  memcpy(p, &v, sizeof v);
}
static inline void pg_store_f64(double *p, pg_vec_f64 v) {
  memcpy(p, &v, sizeof v);
}
// v, in a register from here on: compilers like to read a value again for each use, which costs more than it saves
// where loads are what a loop waits for.
static inline pg_vec_f32 pg_keep_f32(pg_vec_f32 v) {
#if PG_VECTOR_BYTES >= 32
  __asm__("" : "+v"(v));
#endif
  return v;
}
static inline pg_vec_f64 pg_keep_f64(pg_vec_f64 v) {
#if PG_VECTOR_BYTES >= 32
  __asm__("" : "+v"(v));
#endif
  return v;
}
static inline pg_vec_f32 pg_splat_f32(float x) {
  return x - (pg_vec_f32){0};
}
static inline pg_vec_f64 pg_splat_f64(double x) {
  return x - (pg_vec_f64){0};
}

// Transpose a square block: to[j * to_row + i] = from[i * from_row + j] for i, j below PG_SQUARE_T.
enum { PG_SQUARE_f32 = 8, PG_SQUARE_f64 = 4 };

static inline void pg_transpose_f32(const float *from, int64_t from_row, float *to, int64_t to_row) {
  typedef float row __attribute__((vector_size(32)));
  row r[8], t[8];
  for (int i = 0; i < 8; i++) memcpy(&r[i], from + i * from_row, sizeof r[i]);
  for (int i = 0; i < 8; i += 2) { // single elements change places,
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) // then pairs,
    for (int k = 0; k < 2; k++) {
      r[i + 2 * k] = __builtin_shufflevector(t[i + k], t[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      r[i + 2 * k + 1] = __builtin_shufflevector(t[i + k], t[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; i++) { // then halves
    t[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    t[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < 8; i++) memcpy(to + i * to_row, &t[i], sizeof t[i]);
}

static inline void pg_transpose_f64(const double *from, int64_t from_row, double *to, int64_t to_row) {
  typedef double row __attribute__((vector_size(32)));
  row r[4], t[4];
  for (int i = 0; i < 4; i++) memcpy(&r[i], from + i * from_row, sizeof r[i]);
  for (int i = 0; i < 4; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 4, 2, 6);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 5, 3, 7);
  }
  for (int i = 0; i < 2; i++) {
    r[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 4, 5);
    r[i + 2] = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 6, 7);
  }
  for (int i = 0; i < 4; i++) memcpy(to + i * to_row, &r[i], sizeof r[i]);
}

#endif
