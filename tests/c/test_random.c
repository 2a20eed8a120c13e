// test_random: keys and draws of engine/core/random.h: Philox against its published answers and the Random123 library,
// every way to draw against one written from the definitions in random.h, and the distribution of what comes out.
#include "engine/core/random.h"
#include "engine/codegen/kernel.h"
#include "tests/c/check.h"

#include <Random123/philox.h>
#include <stdlib.h>
#include <string.h>

enum { SEED = 20240607, MANY = 1 << 20 };

static float drawn_f32[MANY];
static double drawn_f64[MANY];

// Numbers that steer the tests: not from the code under test.
static uint64_t sample_state = SEED;
static uint64_t sample(void) { // splitmix64
  uint64_t z = (sample_state += 0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// ---- the definitions, by way of Random123 -------------------------------------------------------------------------

static philox4x32_ctr_t reference_block(pg_key key, uint64_t block) {
  philox4x32_ctr_t counter = {{(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)key.b, (uint32_t)(key.b >> 32)}};
  philox4x32_key_t philox_key = {{(uint32_t)key.a, (uint32_t)(key.a >> 32)}};
  return philox4x32(counter, philox_key);
}
static uint32_t reference_word_32(pg_key key, uint64_t index) {
  return reference_block(key, index / 4).v[index % 4];
}
static uint64_t reference_word_64(pg_key key, uint64_t index) {
  philox4x32_ctr_t w = reference_block(key, index / 2);
  return index % 2 ? w.v[2] | (uint64_t)w.v[3] << 32 : w.v[0] | (uint64_t)w.v[1] << 32;
}

static const long double TURN = 6.283185307179586476925286766559L;

static double reference_f32(bool normal, pg_key key, uint64_t index) {
  if (!normal) return (reference_word_32(key, index) >> 8) * 0x1p-24;
  uint32_t v = reference_word_32(key, index & ~1ull), w = reference_word_32(key, index | 1);
  float u = fmaf((float)(v >> 1), 0x1p-31f, 0x1p-32f);
  long double radius = sqrtl(-2 * logl(u)), angle = TURN * w * 0x1p-32L;
  return (double)(radius * (index % 2 ? sinl(angle) : cosl(angle)));
}
static double reference_f64(bool normal, pg_key key, uint64_t index) {
  if (!normal) return (double)(reference_word_64(key, index) >> 11) * 0x1p-53;
  uint64_t v = reference_word_64(key, index & ~1ull), w = reference_word_64(key, index | 1);
  long double radius = sqrtl(-2 * logl(((v >> 12) + 0.5L) * 0x1p-52L)), angle = TURN * (w >> 10) * 0x1p-54L;
  return (double)(radius * (index % 2 ? sinl(angle) : cosl(angle)));
}

// ---- Philox -------------------------------------------------------------------------------------------------------

static void philox_gives_the_published_answers(void) {
  static const struct {
    uint64_t key, low, high;
    uint32_t words[4];
  } known[] = {
      {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    uint32_t words[4];
    pg_philox(known[i].key, known[i].low, known[i].high, words);
    CHECK_THAT(memcmp(words, known[i].words, sizeof words) == 0, "vector %zu: %08x %08x %08x %08x", i, words[0],
               words[1], words[2], words[3]);
  }
}

static void philox_is_that_of_random123(void) {
  for (int i = 0; i < 100000; i++) {
    pg_key key = {sample(), sample()};
    uint64_t block = sample();
    uint32_t words[4];
    pg_philox(key.a, block, key.b, words);
    philox4x32_ctr_t want = reference_block(key, block);
    CHECK(memcmp(words, want.v, sizeof words) == 0);
  }
}

// ---- draws --------------------------------------------------------------------------------------------------------

// Everything the bulk generator can be asked for, against the definitions: uniforms to the bit, normals to rounding.
static void compare_draws(bool normal, const pg_key *keys, int64_t key_stride, uint64_t index, int64_t index_stride,
                          int64_t n) {
  pg_draw_f32(normal, keys, key_stride, index, index_stride, n, drawn_f32);
  pg_draw_f64(normal, keys, key_stride, index, index_stride, n, drawn_f64);
  for (int64_t i = 0; i < n; i++) {
    pg_key key = keys[i * key_stride];
    uint64_t at = index + (uint64_t)i * (uint64_t)index_stride;
    CHECK_NEAR(drawn_f32[i], reference_f32(normal, key, at), normal ? 1.2e-6 : 0);
    CHECK_NEAR(drawn_f64[i], reference_f64(normal, key, at), normal ? 4e-15 : 0);
  }
}

static void draws_follow_their_definition(void) {
  pg_key keys[64];
  for (int i = 0; i < 64; i++) keys[i] = (pg_key){sample(), sample()};
  for (int round = 0; round < 400; round++) {
    bool normal = round % 2;
    uint64_t index = round % 5 == 0 ? sample() >> 1 : sample() % 1000;
    if (round % 7 == 0) index = 0xfffffffcull * 4 + sample() % 64; // the block number passes 2^32 within a vector
    int64_t n = (int64_t)(sample() % 700);
    compare_draws(normal, &keys[round % 64], 0, index, 1, n);
    compare_draws(normal, &keys[round % 64], 0, index, (int64_t)(sample() % 9) - 4 + 4 * (index < 4000), n);
    compare_draws(normal, keys, 1, index, 0, n % 64);
    compare_draws(normal, keys, 3, index, 5, n % 21);
    compare_draws(normal, keys + 63, -1, index, 1, n % 64);
  }
}

static void a_draw_does_not_depend_on_its_company(void) {
  enum { SIZE = 3000 };
  static float all_f32[SIZE], part_f32[SIZE + 2];
  static double all_f64[SIZE], part_f64[SIZE + 2];
  pg_key key = {sample(), sample()};
  for (int normal = 0; normal < 2; normal++) {
    pg_draw_f32(normal, &key, 0, 1000, 1, SIZE, all_f32);
    pg_draw_f64(normal, &key, 0, 1000, 1, SIZE, all_f64);
    for (int round = 0; round < 3000; round++) {
      int64_t from = (int64_t)(sample() % SIZE);
      int64_t n =
          (int64_t)(sample() % (uint64_t)(round % 2 ? SIZE - from : (SIZE - from) % 20 + 1)) + (from < SIZE - 1);
      int64_t stride = round % 3 ? 1 : 2;
      n = stride == 2 ? n / 2 : n;
      part_f32[n] = part_f32[n + 1] = 77, part_f64[n] = part_f64[n + 1] = 77;
      pg_draw_f32(normal, &key, 0, 1000 + (uint64_t)from, stride, n, part_f32);
      pg_draw_f64(normal, &key, 0, 1000 + (uint64_t)from, stride, n, part_f64);
      for (int64_t i = 0; i < n; i++) {
        CHECK(part_f32[i] == all_f32[from + i * stride] && part_f64[i] == all_f64[from + i * stride]);
      }
      CHECK(part_f32[n] == 77 && part_f64[n] == 77); // nothing beyond n is written
    }
  }
}

static void services_are_these_draws(void) {
  CHECK(pg_services.draw_f32 == pg_draw_f32 && pg_services.draw_f64 == pg_draw_f64);
}

// ---- distributions ------------------------------------------------------------------------------------------------

// Draw MANY numbers in both dtypes; sample 0 is f32, sample 1 f64.
static void draw_many(bool normal, uint64_t seed) {
  pg_key key = pg_key_fold(pg_key_seed(SEED), seed);
  pg_draw_f32(normal, &key, 0, 0, 1, MANY, drawn_f32);
  pg_draw_f64(normal, &key, 0, 0, 1, MANY, drawn_f64);
}
static double drawn(int which, int i) {
  return which == 0 ? drawn_f32[i] : drawn_f64[i];
}

// A mean of MANY terms of standard deviation `deviation` lies within 4.5 standard errors of what is expected.
static void check_mean(const char *what, double sum, double expected, double deviation) {
  double z = (sum / MANY - expected) / (deviation / sqrt(MANY));
  CHECK_THAT(fabs(z) < 4.5, "%s: %.3g standard errors away from %.9g", what, z, expected);
}

static void uniforms_have_uniform_moments(void) {
  draw_many(false, 1);
  for (int which = 0; which < 2; which++) {
    double sum = 0, squares = 0, pairs = 0, apart = 0;
    static int bins[256];
    memset(bins, 0, sizeof bins);
    for (int i = 0; i < MANY; i++) {
      double u = drawn(which, i);
      CHECK(u >= 0 && u < 1);
      bins[(int)(u * 256)]++;
      sum += u, squares += u * u;
      pairs += (u - 0.5) * (drawn(which, i ^ 1) - 0.5) * 12,
          apart += (u - 0.5) * (drawn(which, (i + 4) % MANY) - 0.5) * 12;
    }
    check_mean("mean", sum, 0.5, sqrt(1 / 12.0));
    check_mean("square", squares, 1 / 3.0, sqrt(4 / 45.0));
    check_mean("neighbours", pairs / sqrt(2), 0, 1); // each pair counts twice
    check_mean("blocks", apart, 0, 1);
    double chi2 = 0;
    for (int b = 0; b < 256; b++) chi2 += pow(bins[b] - MANY / 256.0, 2) / (MANY / 256.0);
    CHECK_THAT(fabs(chi2 - 255) < 4.5 * sqrt(2 * 255), "chi squared %.1f of 255", chi2);
  }
}

static void normals_have_normal_moments(void) {
  draw_many(true, 2);
  for (int which = 0; which < 2; which++) {
    double power[7] = {0}, pairs = 0, pair_squares = 0, largest = 0;
    for (int i = 0; i < MANY; i++) {
      double x = drawn(which, i), y = drawn(which, i ^ 1), p = 1;
      CHECK(isfinite(x));
      for (int k = 1; k <= 6; k++) power[k] += p *= x;
      pairs += x * y, pair_squares += (x * x - 1) * (y * y - 1) / 2;
      largest = fmax(largest, fabs(x));
    }
    // E x^2k = (2k-1)!!; the variance of x^k is E x^2k - (E x^k)^2.
    static const double moment[] = {1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395};
    for (int k = 1; k <= 6; k++) {
      char what[20];
      snprintf(what, sizeof what, "moment %d", k);
      check_mean(what, power[k], moment[k], sqrt(moment[2 * k] - moment[k] * moment[k]));
    }
    check_mean("pair", pairs / sqrt(2), 0, 1);
    check_mean("pair of squares", pair_squares / sqrt(2), 0, 1);
    CHECK_THAT(largest > 4.3 && largest < 6.8, "largest %g", largest); // the expected largest of 2^20 is about 5
  }
}

static void normals_have_the_normal_distribution(void) {
  draw_many(true, 3);
  for (int which = 0; which < 2; which++) {
    static const double edges[] = {-4.5, -4,   -3,  -2,  -1.5, -1, -0.5, -0.25, -0.01,
                                   0,    0.01, 0.3, 0.7, 1.2,  2,  3,    4,     4.5};
    for (size_t e = 0; e < sizeof edges / sizeof *edges; e++) {
      int below = 0;
      for (int i = 0; i < MANY; i++) below += drawn(which, i) < edges[e];
      double p = 0.5 * erfc(-edges[e] / sqrt(2));
      CHECK_THAT(fabs(below - p * MANY) < 4.5 * sqrt(p * (1 - p) * MANY) + 1, "P(x < %g) is %g, not %g", edges[e],
                 (double)below / MANY, p);
    }
  }
}

static void the_tail_of_many_normals_is_as_long_as_it_should(void) {
  double largest = 0;
  pg_key key = pg_key_seed(5);
  for (int part = 0; part < 16; part++) {
    pg_draw_f32(true, &key, 0, (uint64_t)part * MANY, 1, MANY, drawn_f32);
    for (int i = 0; i < MANY; i++) largest = fmax(largest, fabsf(drawn_f32[i]));
  }
  CHECK_THAT(largest > 4.9 && largest < 6.67, "largest of 2^24 normals: %g", largest);
}

// ---- keys ---------------------------------------------------------------------------------------------------------

static int compare_keys(const void *a, const void *b) {
  return memcmp(a, b, sizeof(pg_key));
}

static void folding_gives_distinct_keys(void) {
  enum { KEYS = 1 << 17 };
  pg_key *keys = malloc(KEYS * sizeof *keys);
  CHECK(keys != NULL);
  pg_key root = pg_key_seed(1);
  for (int i = 0; i < KEYS; i++) {
    pg_key child = pg_key_fold(root, (uint64_t)(i / 4));
    // Children, grandchildren, the other way around, and other roots.
    if (i % 4 == 0) keys[i] = child;
    if (i % 4 == 1) keys[i] = pg_key_fold(child, 1);
    if (i % 4 == 2) keys[i] = pg_key_fold(pg_key_fold(root, 1ull << 40), (uint64_t)(i / 4));
    if (i % 4 == 3) keys[i] = pg_key_seed((uint64_t)(i / 4) + 2);
  }
  qsort(keys, KEYS, sizeof *keys, compare_keys);
  int same = 0;
  for (int i = 1; i < KEYS; i++) same += memcmp(&keys[i], &keys[i - 1], sizeof *keys) == 0;
  free(keys);
  CHECK_THAT(same == 0, "%d pairs of equal keys", same);
}

static void keys_are_folded_as_documented(void) {
  for (int i = 0; i < 100; i++) {
    pg_key key = {sample(), sample()};
    uint64_t data = sample();
    uint32_t w[4];
    pg_philox(key.a ^ 0x5851F42D4C957F2D, data, key.b, w);
    pg_key child = pg_key_fold(key, data);
    CHECK(child.a == (w[0] | (uint64_t)w[1] << 32) && child.b == (w[2] | (uint64_t)w[3] << 32));
  }
}

static void names_hash_as_fnv1a(void) {
  CHECK(pg_hash_name("", 0) == 0xcbf29ce484222325);
  CHECK(pg_hash_name("a", 1) == 0xaf63dc4c8601ec8c);
  CHECK(pg_hash_name("foobar", 6) == 0x85944171f73967e8);
  CHECK(pg_hash_name("a\0b", 3) != pg_hash_name("a\0c", 3));
}

// Streams of sibling keys are uncorrelated, and half of the bits change with one bit of the key.
static void sibling_streams_are_independent(void) {
  pg_key root = pg_key_seed(SEED);
  double sum = 0;
  for (int i = 0; i < 256; i++) {
    pg_key a = pg_key_fold(root, (uint64_t)i), b = pg_key_fold(root, (uint64_t)i + 1);
    int part = MANY / 256;
    pg_draw_f32(true, &a, 0, 0, 1, part, drawn_f32);
    pg_draw_f64(true, &b, 0, 0, 1, part, drawn_f64);
    for (int j = 0; j < part; j++) sum += drawn_f32[j] * drawn_f64[j];
    pg_draw_f32(true, &b, 0, 0, 1, part, drawn_f32 + part);
    for (int j = 0; j < part; j++) sum += drawn_f32[j] * drawn_f32[part + j];
  }
  check_mean("siblings", sum / sqrt(2), 0, 1);
}

static void bulk_folds_and_blocks_are_single_ones(void) {
  for (int n = 1; n <= PG_MOST_BLOCKS; n += 21) {
    const pg_key key = pg_key_seed(sample());
    const uint64_t first = sample() >> n % 40 >> 1, block = sample() >> 2;
    pg_key children[PG_MOST_BLOCKS];
    uint64_t words[2][PG_MOST_BLOCKS];
    pg_fold_range(key, first, n, children);
    pg_read_blocks(children, block, n, words[0], words[1]);
    for (int i = 0; i < n; i++) {
      const pg_key child = pg_key_fold(key, first + (uint64_t)i);
      CHECK(children[i].a == child.a && children[i].b == child.b);
      for (int w = 0; w < 2; w++) CHECK(words[w][i] == reference_word_64(child, 2 * block + (uint64_t)w));
    }
  }
}

// ---- permutations -------------------------------------------------------------------------------------------------

static void permutations_hold_every_number_once(void) {
  static const int64_t sizes[] = {0, 1, 2, 3, 17, 128, 129, 1000, 60000};
  static int64_t order[60001];
  static bool seen[60000];
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    int64_t n = sizes[s];
    memset(seen, 0, sizeof seen);
    order[n] = -5;
    pg_permutation(pg_key_seed(s), n, order);
    for (int64_t i = 0; i < n; i++) {
      CHECK(order[i] >= 0 && order[i] < n && !seen[order[i]]);
      seen[order[i]] = true;
    }
    CHECK(order[n] == -5);
  }
}

static void permutations_are_equally_likely(void) {
  enum { TRIALS = 48000, ORDERS = 256 };
  static int count[ORDERS];
  memset(count, 0, sizeof count);
  for (int t = 0; t < TRIALS; t++) {
    int64_t p[4];
    pg_permutation(pg_key_fold(pg_key_seed(SEED), (uint64_t)t), 4, p);
    count[p[0] * 64 + p[1] * 16 + p[2] * 4 + p[3]]++;
  }
  double chi2 = 0;
  int orders = 0;
  for (int i = 0; i < ORDERS; i++) {
    if (count[i] == 0) continue;
    orders++;
    chi2 += pow(count[i] - TRIALS / 24.0, 2) / (TRIALS / 24.0);
  }
  CHECK_THAT(orders == 24 && chi2 < 23 + 4.5 * sqrt(46), "%d orders, chi squared %.1f of 23", orders, chi2);
}

// No fixed points but the one that is expected on average, whatever the position.
static void large_permutations_have_one_fixed_point_on_average(void) {
  enum { SIZE = 1000, TRIALS = 2000 };
  static int64_t order[SIZE];
  double fixed = 0, product = 0;
  for (int t = 0; t < TRIALS; t++) {
    pg_permutation(pg_key_fold(pg_key_seed(9), (uint64_t)t), SIZE, order);
    for (int i = 0; i < SIZE; i++) {
      fixed += order[i] == i;
      product += (order[i] - (SIZE - 1) / 2.0) * (i - (SIZE - 1) / 2.0);
    }
  }
  CHECK_NEAR(fixed / TRIALS, 1, 4.5 / sqrt(TRIALS));
  double variance = ((double)SIZE * SIZE - 1) / 12; // the rank correlation has variance 1 / (SIZE - 1)
  CHECK_NEAR(product / TRIALS / SIZE / variance, 0, 4.5 / sqrt((SIZE - 1.0) * TRIALS));
}

static void the_same_key_gives_the_same_permutation(void) {
  static int64_t a[5000], b[5000];
  pg_permutation(pg_key_seed(3), 5000, a);
  pg_permutation(pg_key_seed(3), 5000, b);
  CHECK(memcmp(a, b, sizeof a) == 0);
  pg_permutation(pg_key_seed(4), 5000, b);
  CHECK(memcmp(a, b, sizeof a) != 0);
}

int main(void) {
  printf("# seed %d\n", SEED);
  CHECK_RUN(philox_gives_the_published_answers);
  CHECK_RUN(philox_is_that_of_random123);
  CHECK_RUN(draws_follow_their_definition);
  CHECK_RUN(a_draw_does_not_depend_on_its_company);
  CHECK_RUN(services_are_these_draws);
  CHECK_RUN(uniforms_have_uniform_moments);
  CHECK_RUN(normals_have_normal_moments);
  CHECK_RUN(normals_have_the_normal_distribution);
  CHECK_RUN(the_tail_of_many_normals_is_as_long_as_it_should);
  CHECK_RUN(folding_gives_distinct_keys);
  CHECK_RUN(keys_are_folded_as_documented);
  CHECK_RUN(bulk_folds_and_blocks_are_single_ones);
  CHECK_RUN(names_hash_as_fnv1a);
  CHECK_RUN(sibling_streams_are_independent);
  CHECK_RUN(permutations_hold_every_number_once);
  CHECK_RUN(permutations_are_equally_likely);
  CHECK_RUN(large_permutations_have_one_fixed_point_on_average);
  CHECK_RUN(the_same_key_gives_the_same_permutation);
  return check_result();
}
