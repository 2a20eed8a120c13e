// test_quantize: codes of engine/core/quantize.h against the definition: the code of a number is how many boundaries,
// half-way between neighbouring values, lie below it. Also at the boundaries themselves and right beside them, where a
// table of bins could err; and what blocks, tiles that are kept whole and numbers that are not finite give.
#include "engine/core/quantize.h"
#include "tests/c/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANDOM_NUMBERS = 20000 };

static const int64_t START[2] = {0, 0};

static uint64_t sample_state = 7;
static uint64_t sample(void) { // splitmix64
  uint64_t z = (sample_state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// The code of x by the definition; boundaries rounded to float where floats are coded.
static int defined_code(int kind, double x, bool rounded) {
  const float *v = pg_codes_values(kind);
  int code = 0;
  for (int i = 0; i < 255; i++) {
    const double boundary = ((double)v[i] + (double)v[i + 1]) / 2;
    code += x > (rounded ? (double)(float)boundary : boundary);
  }
  const bool signs = !(kind & PG_CODES_UNSIGNED) && !(kind & PG_CODES_LOSE_SIGN);
  return signs && x < 0 && code == PG_CODES_ZERO ? PG_CODES_ZERO - 1 : code;
}

// The code of x, of [-1, 1], in a block whose scale is 1.
static void check_f32(int kind, float x) {
  const float block[2] = {1, x};
  uint8_t codes[2];
  float scale;
  pg_encode_f32(kind, 2, START, block, 0, 2, codes, &scale);
  CHECK(scale == 1 && codes[0] == 255);
  CHECK(codes[1] == defined_code(kind, x, true));
}

static void check_f64(int kind, double x) {
  const double block[2] = {1, x};
  uint8_t codes[2];
  double scale;
  pg_encode_f64(kind, 2, START, block, 0, 2, codes, &scale);
  CHECK(scale == 1 && codes[0] == 255);
  CHECK(codes[1] == defined_code(kind, x, false));
}

static void check_both(int kind, double x) {
  if ((kind & PG_CODES_UNSIGNED) && x < 0) x = -x;
  check_f32(kind, (float)x);
  check_f64(kind, x);
}

static void codes_are_those_of_the_definition(void) {
  for (int kind = 0; kind < PG_CODES_KINDS; kind++)
    for (int i = 0; i < RANDOM_NUMBERS; i++) {
      const double u = (double)(sample() >> 11) * 0x1p-53;
      check_both(kind, pow(u, i % 16) * (i & 1 ? -1 : 1));
    }
}

static void codes_are_right_at_and_beside_every_boundary(void) {
  for (int kind = 0; kind < PG_CODES_KINDS; kind++) {
    const float *v = pg_codes_values(kind);
    for (int i = 0; i < 255; i++) {
      const double boundary = ((double)v[i] + (double)v[i + 1]) / 2;
      const float rounded = (float)boundary;
      check_both(kind, boundary);
      check_f32(kind, (kind & PG_CODES_UNSIGNED) ? fabsf(rounded) : rounded);
      check_both(kind, nextafterf(rounded, 2));
      check_both(kind, nextafterf(rounded, -2));
      check_f64(kind, fmax(nextafter(boundary, 2), kind & PG_CODES_UNSIGNED ? 0 : -1));
      check_both(kind, v[i]);
    }
    static const double small[] = {0, -0.0, 1e-45, -1e-45, 1e-30, -1e-30, 2e-7, -2e-7};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) check_both(kind, small[i]);
  }
}

static void maps_ascend_and_stand_for_themselves(void) {
  for (int kind = 0; kind < 4; kind++) {
    const float *v = pg_codes_values(kind);
    const int zero = kind & PG_CODES_UNSIGNED ? 0 : PG_CODES_ZERO;
    CHECK(v[zero] == 0 && !signbit(v[zero]) && v[255] == 1);
    for (int i = 0; i < 255; i++) CHECK(v[i] < v[i + 1]);
    for (int i = 0; i < 256; i++) CHECK(defined_code(kind, v[i], true) == i);
  }
}

static void blocks_of_a_tile_have_scales_of_their_own(void) {
  enum { N = 1000, BLOCK = 64, BLOCKS = (N + BLOCK - 1) / BLOCK };
  const int64_t place[2] = {5, 3};
  float x[N], back[N], scales[BLOCKS + 4];
  uint8_t codes[N + 6];
  for (int i = 0; i < N; i++) x[i] = (float)((double)(sample() >> 11) * 0x1p-53 - 0.5) * (float)(i / BLOCK);
  memset(codes, 77, sizeof codes);
  memset(scales, 0, sizeof scales);
  pg_encode_f32(0, BLOCK, place, x, 0, N, codes, scales);
  CHECK(codes[4] == 77 && codes[N + 5] == 77 && scales[2] == 0 && scales[BLOCKS + 3] == 0);
  for (int b = 0; b < BLOCKS; b++) {
    float most = 0;
    for (int i = b * BLOCK; i < N && i < (b + 1) * BLOCK; i++) most = fmaxf(most, fabsf(x[i]));
    CHECK(scales[3 + b] == most);
  }
  pg_decode_f32(0, BLOCK, place, codes, scales, 0, N, back);
  for (int i = 0; i < N; i++) CHECK(back[i] == pg_codes_values(0)[codes[5 + i]] * scales[3 + i / BLOCK]);
  // in pieces that begin a block, or anywhere for decoding
  uint8_t again[N + 6];
  float scales_again[BLOCKS + 4], part[100];
  memset(again, 77, sizeof again);
  memset(scales_again, 0, sizeof scales_again);
  for (int i = 0; i < N; i += 2 * BLOCK)
    pg_encode_f32(0, BLOCK, place, x + i, i, N - i < 2 * BLOCK ? N - i : 2 * BLOCK, again, scales_again);
  CHECK(memcmp(codes, again, sizeof codes) == 0 && memcmp(scales, scales_again, sizeof scales) == 0);
  pg_decode_f32(0, BLOCK, place, codes, scales, 70, 100, part);
  CHECK(memcmp(part, back + 70, sizeof part) == 0);
}

static void what_is_kept_whole_is_kept(void) {
  const int64_t place[2] = {-1, 2};
  const double x[3] = {1e-300, -0.0, NAN};
  double scales[6] = {0}, back[3];
  pg_encode_f64(PG_CODES_UNSIGNED, 4, place, x, 1, 2, NULL, scales);
  CHECK(memcmp(scales + 3, x, 2 * sizeof *x) == 0 && scales[2] == 0 && scales[5] == 0);
  pg_decode_f64(PG_CODES_UNSIGNED, 4, place, NULL, scales, 1, 2, back);
  CHECK(memcmp(back, x, 2 * sizeof *x) == 0);
}

static void blocks_of_zeros_and_of_what_is_not_finite_say_so(void) {
  static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 0};
  for (int kind = 0; kind < PG_CODES_KINDS; kind++)
    for (int i = 0; i < 5; i++) {
      const float x[4] = {i < 4 ? 1 : 0, bad[i], i < 4 ? 2 : 0, 0};
      float scale, back[4];
      uint8_t codes[4];
      pg_encode_f32(kind, 4, START, x, 0, 4, codes, &scale);
      pg_decode_f32(kind, 4, START, codes, &scale, 0, 4, back);
      for (int k = 0; k < 4; k++) CHECK(i < 4 ? !isfinite(back[k]) : back[k] == 0);
    }
}

int main(void) {
  pg_codes_prepare();
  CHECK_RUN(codes_are_those_of_the_definition);
  CHECK_RUN(codes_are_right_at_and_beside_every_boundary);
  CHECK_RUN(maps_ascend_and_stand_for_themselves);
  CHECK_RUN(blocks_of_a_tile_have_scales_of_their_own);
  CHECK_RUN(what_is_kept_whole_is_kept);
  CHECK_RUN(blocks_of_zeros_and_of_what_is_not_finite_say_so);
  return check_result();
}
