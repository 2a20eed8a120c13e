// random.c: keys, and the draws that random.h defines. Bulk draws run Philox on several counters at once in 64-bit
// lanes, where one instruction multiplies 32 by 32 bits, and leave the words in two streams: one of the words at even
// places and one of those at odd places, from which plain loops make the numbers. A draw goes through the same
// arithmetic in whatever company it is computed, so its bits depend on nothing but key and index. Little-endian
// machines only.
#include "engine/core/random.h"
#include "engine/core/vmath.h"

#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

enum {
  LANES = 4,               // counters per vector
  BLOCKS = PG_MOST_BLOCKS, // blocks per batch: the words fit well into the first cache
  WORDS = 4 * BLOCKS,      // 32-bit words per batch
  ROUNDS = 10
};
static const uint32_t MULTIPLIER[2] = {0xD2511F53, 0xCD9E8D57}, WEYL[2] = {0x9E3779B9, 0xBB67AE85};

static int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// ---- Philox -------------------------------------------------------------------------------------------------------

void pg_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t words[4]) {
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  uint32_t x0 = (uint32_t)counter_low, x1 = (uint32_t)(counter_low >> 32);
  uint32_t x2 = (uint32_t)counter_high, x3 = (uint32_t)(counter_high >> 32);
  for (int round = 0; round < ROUNDS; round++) {
    uint64_t p0 = (uint64_t)MULTIPLIER[0] * x0, p1 = (uint64_t)MULTIPLIER[1] * x2;
    x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
    x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
    x1 = (uint32_t)p1;
    x3 = (uint32_t)p0;
    k0 += WEYL[0];
    k1 += WEYL[1];
  }
  words[0] = x0, words[1] = x1, words[2] = x2, words[3] = x3;
}

// Four counters side by side; only the low halves of the lanes count.
typedef uint64_t lanes __attribute__((vector_size(8 * LANES)));

#define LOW_HALVES ((uint64_t)0xffffffff)

// Products of the low halves. Of generic C, compilers make three times the work for lack of knowing the high halves.
static inline __attribute__((always_inline)) void multiply_low_halves(const lanes *x, uint32_t m, lanes *product) {
#ifdef __AVX2__
  *product = (lanes)_mm256_mul_epu32((__m256i)*x, _mm256_set1_epi64x(m));
#else
  *product = (*x & LOW_HALVES) * (uint64_t)m;
#endif
}

// Both words of a key, one per lane or the same in all.
typedef struct lane_keys {
  lanes k0, k1;
} lane_keys;

// The rounds for two independent vectors of counters x[0..1][0..3], in place: the second keeps the multiplier busy
// while the first waits for its products.
static inline __attribute__((always_inline)) void philox_lanes(lanes x[2][4], const lane_keys *keys) {
  lanes k0[2] = {keys[0].k0, keys[1].k0}, k1[2] = {keys[0].k1, keys[1].k1};
  for (int round = 0; round < ROUNDS; round++) {
    lanes p[2][2];
    for (int v = 0; v < 2; v++) {
      multiply_low_halves(&x[v][0], MULTIPLIER[0], &p[v][0]);
      multiply_low_halves(&x[v][2], MULTIPLIER[1], &p[v][1]);
    }
    for (int v = 0; v < 2; v++) {
      x[v][0] = (p[v][1] >> 32) ^ x[v][1] ^ k0[v];
      x[v][2] = (p[v][0] >> 32) ^ x[v][3] ^ k1[v];
      x[v][1] = p[v][1];
      x[v][3] = p[v][0];
      k0[v] += WEYL[0];
      k1[v] += WEYL[1];
    }
  }
}

// The words of a batch of blocks, in two streams that a pair of draws reads side by side: 32-bit words 0 and 2 of
// each block, and 1 and 3; or its first 64-bit words, and its second ones.
typedef union stream {
  lanes vector[BLOCKS / LANES];
  uint64_t wide[BLOCKS];
  uint32_t narrow[2 * BLOCKS];
} stream;
typedef struct batch {
  stream even, odd;
} batch;

static inline __attribute__((always_inline)) void store_lanes(batch *b, int vector, const lanes x[4], bool wide) {
  lanes next_even = wide ? x[1] : x[2], first_odd = wide ? x[2] : x[1];
  b->even.vector[vector] = (x[0] & LOW_HALVES) | (next_even << 32);
  b->odd.vector[vector] = (first_odd & LOW_HALVES) | (x[3] << 32);
}

// Blocks first, first + 1, … of one key; `count` is rounded up to pairs of vectors.
static inline __attribute__((always_inline)) void fill_run(batch *b, pg_key key, uint64_t first, int count, bool wide) {
  lane_keys same = {(lanes){0} + (uint32_t)key.a, (lanes){0} + (key.a >> 32)}, keys[2] = {same, same};
  lanes high = (lanes){0} + key.b, block = (lanes){0, 1, 2, 3} + first;
  for (int vector = 0; vector * LANES < count; vector += 2, block += 2 * LANES) {
    lanes next = block + LANES;
    lanes x[2][4] = {{block, block >> 32, high, high >> 32}, {next, next >> 32, high, high >> 32}};
    philox_lanes(x, keys);
    store_lanes(b, vector, x[0], wide);
    store_lanes(b, vector + 1, x[1], wide);
  }
}

// One block for each of `count` draws at index + i * index_stride of keys[i * key_stride].
static void fill_scattered(batch *b, const pg_key *keys, int64_t key_stride, uint64_t index, int64_t index_stride,
                           int count, bool wide) {
  for (int start = 0; start < count; start += 2 * LANES) {
    lanes x[2][4];
    lane_keys split[2];
    for (int v = 0; v < 2; v++) {
      lanes a, low, high;
      for (int lane = 0; lane < LANES; lane++) {
        int64_t i = smaller(start + v * LANES + lane, count - 1);
        pg_key key = keys[i * key_stride];
        a[lane] = key.a;
        low[lane] = (index + (uint64_t)i * (uint64_t)index_stride) / (wide ? 2 : 4);
        high[lane] = key.b;
      }
      split[v] = (lane_keys){a, a >> 32};
      x[v][0] = low, x[v][1] = low >> 32, x[v][2] = high, x[v][3] = high >> 32;
    }
    philox_lanes(x, split);
    store_lanes(b, start / LANES, x[0], wide);
    store_lanes(b, start / LANES + 1, x[1], wide);
  }
}

// ---- from words to numbers ----------------------------------------------------------------------------------------

static void uniforms_f32(const batch *b, int pairs, float *restrict out) {
  for (int i = 0; i < pairs; i++) {
    out[2 * i] = (float)(int32_t)(b->even.narrow[i] >> 8) * 0x1p-24f;
    out[2 * i + 1] = (float)(int32_t)(b->odd.narrow[i] >> 8) * 0x1p-24f;
  }
}

// The angle 2 pi t is a quadrant, rounded to nearest, and a rest within an eighth of a turn, exact in the bits of w.
static void normals_f32(const batch *b, int pairs, float *restrict out) {
  for (int i = 0; i < pairs; i++) {
    float u = pg_fma_f32((float)(int32_t)(b->even.narrow[i] >> 1), 0x1p-31f, 0x1p-32f);
    pg_split_f32 split = pg_split_exponent_f32(u);
    float radius = __builtin_sqrtf(-2.0f * pg_log_reduced_f32(split.f, split.n));
    uint32_t w = b->odd.narrow[i], quadrant = (w + 0x20000000u) >> 30;
    float angle = (float)(int32_t)(w << 2) * 0x1.921fb6p-32f;
    float sine = pg_sin_reduced_f32(angle), cosine = pg_cos_reduced_f32(angle);
    float x = quadrant & 1 ? sine : cosine, y = quadrant & 1 ? cosine : sine;
    out[2 * i] = radius * pg_from_bits_f32(pg_bits_f32(x) ^ ((quadrant + 1) & 2) << 30);
    out[2 * i + 1] = radius * pg_from_bits_f32(pg_bits_f32(y) ^ (quadrant & 2) << 30);
  }
}

// The top 52 bits as the mantissa of a number in [1, 2), minus 1: AVX2 does not convert 64-bit integers.
PG_INLINE double fraction_f64(uint64_t word) {
  return pg_from_bits_f64(word >> 12 | 0x3ff0000000000000u) - 1.0;
}

PG_INLINE double uniform_f64(uint64_t word) {
  return fraction_f64(word) + (word & 0x800 ? 0x1p-53 : 0.0);
}
static void uniforms_f64(const batch *b, int pairs, double *restrict out) {
  for (int i = 0; i < pairs; i++) {
    out[2 * i] = uniform_f64(b->even.wide[i]);
    out[2 * i + 1] = uniform_f64(b->odd.wide[i]);
  }
}

static void normals_f64(const batch *b, int pairs, double *restrict out) {
  for (int i = 0; i < pairs; i++) {
    pg_split_f64 split = pg_split_exponent_f64(fraction_f64(b->even.wide[i]) + 0x1p-53);
    double radius = __builtin_sqrt(-2.0 * pg_log_reduced_f64(split.f, split.n));
    uint64_t w = b->odd.wide[i] + 0x2000000000000000u, quadrant = w >> 62;
    double angle = (fraction_f64(w << 2) - 0.5) * 0x1.921fb54442d18p+0;
    double sine = pg_sin_reduced_f64(angle), cosine = pg_cos_reduced_f64(angle);
    double x = quadrant & 1 ? sine : cosine, y = quadrant & 1 ? cosine : sine;
    out[2 * i] = radius * pg_from_bits_f64(pg_bits_f64(x) ^ ((quadrant + 1) & 2) << 62);
    out[2 * i + 1] = radius * pg_from_bits_f64(pg_bits_f64(y) ^ (quadrant & 2) << 62);
  }
}

// ---- draws --------------------------------------------------------------------------------------------------------

// `count` blocks of one key as numbers; a multiple of 2 LANES, at most BLOCKS.
static void draw_blocks_f32(bool normal, pg_key key, uint64_t first, int count, float *out) {
  batch b;
  fill_run(&b, key, first, count, false);
  (normal ? normals_f32 : uniforms_f32)(&b, 2 * count, out);
}
static void draw_blocks_f64(bool normal, pg_key key, uint64_t first, int count, double *out) {
  batch b;
  fill_run(&b, key, first, count, true);
  (normal ? normals_f64 : uniforms_f64)(&b, count, out);
}

// Blocks that hold n numbers of `per_block` each, in whole pairs of vectors: the loops over them then have no
// remainder.
static int blocks_for(int64_t n, int per_block) {
  int step = 2 * LANES * per_block;
  return (int)((n + step - 1) / step) * 2 * LANES;
}

// Whole batches go straight to their place, the ends by way of a buffer.
static void draw_run_f32(bool normal, pg_key key, uint64_t index, int64_t n, float *out) {
  enum { PER_BLOCK = 4, SIZE = PER_BLOCK * BLOCKS };
  while (n > 0) {
    int64_t skip = (int64_t)(index % PER_BLOCK), done = smaller(SIZE - skip, n);
    if (done == SIZE) {
      draw_blocks_f32(normal, key, index / PER_BLOCK, BLOCKS, out);
    } else {
      float buffer[SIZE];
      draw_blocks_f32(normal, key, index / PER_BLOCK, blocks_for(skip + done, PER_BLOCK), buffer);
      memcpy(out, buffer + skip, (size_t)done * sizeof *out);
    }
    index += (uint64_t)done, out += done, n -= done;
  }
}
static void draw_run_f64(bool normal, pg_key key, uint64_t index, int64_t n, double *out) {
  enum { PER_BLOCK = 2, SIZE = PER_BLOCK * BLOCKS };
  while (n > 0) {
    int64_t skip = (int64_t)(index % PER_BLOCK), done = smaller(SIZE - skip, n);
    if (done == SIZE) {
      draw_blocks_f64(normal, key, index / PER_BLOCK, BLOCKS, out);
    } else {
      double buffer[SIZE];
      draw_blocks_f64(normal, key, index / PER_BLOCK, blocks_for(skip + done, PER_BLOCK), buffer);
      memcpy(out, buffer + skip, (size_t)done * sizeof *out);
    }
    index += (uint64_t)done, out += done, n -= done;
  }
}

void pg_draw_f32(bool normal, const void *keys, int64_t key_stride, uint64_t index, int64_t index_stride, int64_t n,
                 float *out) {
  const pg_key *key = keys;
  if (key_stride == 0 && index_stride == 1) {
    if (n > 0) draw_run_f32(normal, *key, index, n, out);
    return;
  }
  for (int64_t start = 0; start < n; start += BLOCKS) {
    int count = (int)smaller(BLOCKS, n - start);
    uint64_t from = index + (uint64_t)start * (uint64_t)index_stride;
    float drawn[WORDS];
    batch b;
    fill_scattered(&b, key + start * key_stride, key_stride, from, index_stride, count, false);
    (normal ? normals_f32 : uniforms_f32)(&b, 2 * count, drawn);
    for (int i = 0; i < count; i++) out[start + i] = drawn[4 * i + (from + (uint64_t)i * (uint64_t)index_stride) % 4];
  }
}
void pg_draw_f64(bool normal, const void *keys, int64_t key_stride, uint64_t index, int64_t index_stride, int64_t n,
                 double *out) {
  const pg_key *key = keys;
  if (key_stride == 0 && index_stride == 1) {
    if (n > 0) draw_run_f64(normal, *key, index, n, out);
    return;
  }
  for (int64_t start = 0; start < n; start += BLOCKS) {
    int count = (int)smaller(BLOCKS, n - start);
    uint64_t from = index + (uint64_t)start * (uint64_t)index_stride;
    double drawn[WORDS / 2];
    batch b;
    fill_scattered(&b, key + start * key_stride, key_stride, from, index_stride, count, true);
    (normal ? normals_f64 : uniforms_f64)(&b, count, drawn);
    for (int i = 0; i < count; i++) out[start + i] = drawn[2 * i + (from + (uint64_t)i * (uint64_t)index_stride) % 2];
  }
}

// ---- keys ---------------------------------------------------------------------------------------------------------

// Folding uses another Philox key than drawing, so that no child key is a word that the parent hands out as a draw.
#define FOLD_TWEAK ((uint64_t)0x5851F42D4C957F2D)
#define ROOT_KEY ((pg_key){0x243F6A8885A308D3, 0x13198A2E03707344}) // pi

pg_key pg_key_fold(pg_key key, uint64_t data) {
  uint32_t w[4];
  pg_philox(key.a ^ FOLD_TWEAK, data, key.b, w);
  return (pg_key){w[0] | (uint64_t)w[1] << 32, w[2] | (uint64_t)w[3] << 32};
}

void pg_fold_range(pg_key key, uint64_t first, int n, pg_key *out) {
  const pg_key tweaked = {key.a ^ FOLD_TWEAK, key.b};
  batch b;
  fill_scattered(&b, &tweaked, 0, 2 * first, 2, n, true);
  for (int i = 0; i < n; i++) out[i] = (pg_key){b.even.wide[i], b.odd.wide[i]};
}

void pg_read_blocks(const pg_key *keys, uint64_t block, int n, uint64_t *words_0, uint64_t *words_1) {
  batch b;
  fill_scattered(&b, keys, 1, 2 * block, 0, n, true);
  memcpy(words_0, b.even.wide, (size_t)n * sizeof *words_0);
  memcpy(words_1, b.odd.wide, (size_t)n * sizeof *words_1);
}

pg_key pg_key_seed(uint64_t seed) {
  return pg_key_fold(ROOT_KEY, seed);
}

// FNV-1a, 64 bits.
uint64_t pg_hash_name(const char *name, size_t len) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < len; i++) hash = (hash ^ (unsigned char)name[i]) * 0x100000001b3;
  return hash;
}

// ---- permutations -------------------------------------------------------------------------------------------------

// 64-bit words of a key in order.
typedef struct words {
  batch b;
  pg_key key;
  uint64_t next;
} words;

static uint64_t next_word(words *w) {
  uint64_t i = w->next++ % (2 * BLOCKS);
  if (i == 0) fill_run(&w->b, w->key, (w->next - 1) / 2, BLOCKS, true);
  return (i & 1 ? &w->b.odd : &w->b.even)->wide[i / 2];
}

// Uniform in [0, n): the high half of word * n; words that fall into the uneven rest of 2^64 are drawn again.
static uint64_t uniform_below(words *w, uint64_t n) {
  unsigned __int128 product = (unsigned __int128)next_word(w) * n;
  if ((uint64_t)product < n) {
    for (uint64_t uneven = -n % n; (uint64_t)product < uneven;) product = (unsigned __int128)next_word(w) * n;
  }
  return (uint64_t)(product >> 64);
}

void pg_permutation(pg_key key, int64_t n, int64_t *out) {
  words w = {.key = key, .next = 0};
  for (int64_t i = 0; i < n; i++) {
    int64_t j = (int64_t)uniform_below(&w, (uint64_t)i + 1); // i joins the permutation of those before it
    out[i] = out[j];
    out[j] = i;
  }
}
