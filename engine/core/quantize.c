// quantize.c: see quantize.h. The code of a float is found by one look into a table: the range of magnitudes is cut
// into bins by exponent and the first BIN_BITS bits of the fraction, so fine that no bin has more than one boundary
// between neighbouring values. An entry has the lower code of its bin and the rest of the boundary's bits, and
// comparing bits compares magnitudes. Doubles, which are for checking, look for theirs by halving.
#include "engine/core/quantize.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/scalar.h"

enum {
  DECADES = 7,
  MAGNITUDES = 256, // at most; signed maps have 129
  BIN_BITS = 7,
  REST_BITS = 23 - BIN_BITS, // of a fraction
  OCTAVES = 23,              // from 2^-23, below all boundaries, to 1
  LOWEST = (127 - OCTAVES) << 23,
  HIGHEST = 127 << 23,
  BINS = (OCTAVES << BIN_BITS) + 1,
  REST = (1 << REST_BITS) - 1,
  NO_BOUNDARY = (2 << REST_BITS) - 1 // above all rests
};

typedef struct map {
  float values[256];
  int count;                     // of magnitudes, 0 the first of them
  double boundaries[MAGNITUDES]; // between magnitude i and the next
  uint32_t bins[BINS];           // (number of the lower magnitude) << (REST_BITS + 1) | rest of the boundary
} map;

static map maps[4]; // by PG_CODES_UNSIGNED and PG_CODES_LINEAR
static bool prepared;

static const map *map_of(int kind) {
  return &maps[kind & (PG_CODES_UNSIGNED | PG_CODES_LINEAR)];
}

const float *pg_codes_values(int kind) {
  return map_of(kind)->values;
}

// ---- tables -------------------------------------------------------------------------------------------------------

static int dynamic_magnitudes(bool is_unsigned, float *out) {
  int n = 0;
  double power = 1e-6;
  out[n++] = 0;
  for (int e = 0; e < DECADES; e++, power *= 10) {
    const int cells = 1 << (e + is_unsigned);
    const double scale = e == DECADES - 1 ? 1 : power;
    for (int i = 0; i < cells; i++) out[n++] = (float)((0.1 + 0.9 * (i + 0.5) / cells) * scale);
  }
  out[n++] = 1;
  return n;
}

static int linear_magnitudes(bool is_unsigned, float *out) {
  const int last = is_unsigned ? 255 : 128;
  for (int i = 0; i <= last; i++) out[i] = (float)((double)i / last);
  return last + 1;
}

static void fill_bins(map *m) {
  int below = 0;
  for (int i = 0; i < BINS; i++) {
    const uint32_t start = LOWEST + ((uint32_t)i << REST_BITS);
    uint32_t rest = NO_BOUNDARY;
    const uint32_t boundary = below + 1 < m->count ? pg_bits_f32((float)m->boundaries[below]) : UINT32_MAX;
    const int lower = below;
    if (boundary - start <= REST) {
      rest = boundary - start;
      below++;
    }
    m->bins[i] = (uint32_t)lower << (REST_BITS + 1) | rest;
  }
}

static void make_map(map *m, bool is_unsigned, bool is_linear) {
  float magnitude[MAGNITUDES];
  m->count = (is_linear ? linear_magnitudes : dynamic_magnitudes)(is_unsigned, magnitude);
  for (int i = 0; i + 1 < m->count; i++) m->boundaries[i] = ((double)magnitude[i] + (double)magnitude[i + 1]) / 2;
  for (int i = 0; i < m->count; i++) {
    m->values[(is_unsigned ? 0 : PG_CODES_ZERO) + i] = magnitude[i];
    if (!is_unsigned && i <= PG_CODES_ZERO) m->values[PG_CODES_ZERO - i] = -magnitude[i];
  }
  m->values[is_unsigned ? 0 : PG_CODES_ZERO] = 0;
  fill_bins(m);
}

void pg_codes_prepare(void) {
  if (prepared) return;
  for (int i = 0; i < 4; i++) make_map(&maps[i], i & PG_CODES_UNSIGNED, i & PG_CODES_LINEAR);
  prepared = true;
}

// ---- one number ---------------------------------------------------------------------------------------------------

// From the number of a magnitude to a code. A number that is half-way gets the lower code, whatever its sign.
PG_INLINE uint32_t code_of(int kind, uint32_t magnitude, uint32_t negative, uint32_t is_zero) {
  if (kind & PG_CODES_UNSIGNED) return negative ? 0 : magnitude;
  if (!(kind & PG_CODES_LOSE_SIGN)) magnitude += (magnitude == 0) & negative & (is_zero ^ 1);
  const uint32_t below = magnitude > PG_CODES_ZERO ? PG_CODES_ZERO : magnitude;
  return negative ? PG_CODES_ZERO - below : PG_CODES_ZERO + magnitude;
}

// The code of x, a number of [-1, 1].
PG_INLINE uint32_t code_f32(int kind, const uint32_t *bins, float x) {
  const uint32_t bits = pg_bits_f32(x), negative = bits >> 31, plain = bits & 0x7fffffff;
  const uint32_t within = plain < LOWEST ? LOWEST : plain > HIGHEST ? HIGHEST : plain, rest = within & REST;
  const uint32_t bin = bins[(within - LOWEST) >> REST_BITS];
  const uint32_t magnitude = (bin >> (REST_BITS + 1)) + (rest + negative > (bin & NO_BOUNDARY));
  return code_of(kind, magnitude, negative, plain == 0);
}

static uint32_t code_f64(int kind, const map *m, double x) {
  const double plain = __builtin_fabs(x);
  const bool negative = x < 0;
  uint32_t magnitude = 0;
  for (uint32_t step = 128; step > 0; step /= 2) {
    const uint32_t next = magnitude + step;
    if (next >= (uint32_t)m->count) continue;
    const double boundary = m->boundaries[next - 1];
    if (plain > boundary || (negative && plain == boundary)) magnitude = next;
  }
  return code_of(kind, magnitude, negative, plain == 0);
}

// ---- blocks -------------------------------------------------------------------------------------------------------

// One block; the bits of magnitudes are ordered as magnitudes are, and NaNs come last.
static float scale_f32(const float *x, int64_t n) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint32_t plain = pg_bits_f32(x[i]) & 0x7fffffff;
    most = plain > most ? plain : most;
  }
  return pg_from_bits_f32(most);
}

static double scale_f64(const double *x, int64_t n) {
  uint64_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    const uint64_t plain = pg_bits_f64(x[i]) & INT64_MAX;
    most = plain > most ? plain : most;
  }
  return pg_from_bits_f64(most);
}

// `kind` is known where this is written out, which leaves one plain loop for each.
PG_INLINE void codes_f32(int kind, const float *x, int64_t n, float divisor, uint8_t *restrict out) {
  const uint32_t *bins = map_of(kind)->bins;
  for (int64_t i = 0; i < n; i++) out[i] = (uint8_t)code_f32(kind, bins, x[i] / divisor);
}

static void encode_block_f32(int kind, const float *x, int64_t n, float divisor, uint8_t *out) {
  switch (kind & (PG_CODES_UNSIGNED | PG_CODES_LOSE_SIGN)) {
  case 0:
    codes_f32(kind & PG_CODES_LINEAR, x, n, divisor, out);
    break;
  case PG_CODES_LOSE_SIGN:
    codes_f32((kind & PG_CODES_LINEAR) | PG_CODES_LOSE_SIGN, x, n, divisor, out);
    break;
  default:
    codes_f32((kind & PG_CODES_LINEAR) | PG_CODES_UNSIGNED, x, n, divisor, out);
    break;
  }
}

static void encode_block_f64(int kind, const double *x, int64_t n, double divisor, uint8_t *out) {
  for (int64_t i = 0; i < n; i++) out[i] = (uint8_t)code_f64(kind, map_of(kind), x[i] / divisor);
}

static void decode_block_f32(const float *values, float scale, const uint8_t *codes, int64_t n, float *restrict out) {
  for (int64_t i = 0; i < n; i++) out[i] = values[codes[i]] * scale;
}

static void decode_block_f64(const float *values, double scale, const uint8_t *codes, int64_t n, double *restrict out) {
  for (int64_t i = 0; i < n; i++) out[i] = (double)values[codes[i]] * scale;
}

// ---- tiles --------------------------------------------------------------------------------------------------------

#define TILES(T, S)                                                                                                    \
  void pg_decode_##S(int kind, int64_t block, const int64_t place[2], const uint8_t *codes, const T *scales,           \
                     int64_t first, int64_t n, T *out) {                                                               \
    if (place[0] < 0) {                                                                                                \
      memcpy(out, scales + place[1] + first, (size_t)n * sizeof *out);                                                 \
      return;                                                                                                          \
    }                                                                                                                  \
    for (int64_t i = first, end = first + n; i < end;) {                                                               \
      const int64_t number = i / block, next = (number + 1) * block, m = (next < end ? next : end) - i;                \
      decode_block_##S(map_of(kind)->values, scales[place[1] + number], codes + place[0] + i, m, out + (i - first));   \
      i += m;                                                                                                          \
    }                                                                                                                  \
  }                                                                                                                    \
  void pg_encode_##S(int kind, int64_t block, const int64_t place[2], const T *x, int64_t first, int64_t n,            \
                     uint8_t *codes, T *scales) {                                                                      \
    if (place[0] < 0) {                                                                                                \
      if (scales) memcpy(scales + place[1] + first, x, (size_t)n * sizeof *x);                                         \
      return;                                                                                                          \
    }                                                                                                                  \
    for (int64_t i = 0; i < n; i += block) {                                                                           \
      const int64_t m = n - i < block ? n - i : block;                                                                 \
      const T scale = scale_##S(x + i, m);                                                                             \
      if (scales) scales[place[1] + (first + i) / block] = scale;                                                      \
      if (codes) encode_block_##S(kind, x + i, m, scale == 0 ? 1 : scale, codes + place[0] + first + i);               \
    }                                                                                                                  \
  }
TILES(float, f32)
TILES(double, f64)
