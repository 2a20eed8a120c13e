// order.c: sorting and selection within rows. Elements are read as unsigned keys of 32 or 64 bits that have their
// order, so one radix sort, least significant digit first and stable, and one radix selection serve all dtypes; short
// rows are sorted by insertion. Long rows are worked on by all threads in chunks, short ones by a thread each.
#include <string.h>

#include "engine/core/integers.h"
#include "engine/core/parallel.h"
#include "engine/ops/order.h"

enum {
  RADIX_BITS = 8,
  RADIX = 1 << RADIX_BITS,
  SELECT_BITS = 11,
  SELECT_RADIX = 1 << SELECT_BITS,
  WAYS = 2,            // tables that a selection counts in
  BLOCK = 512,         // elements read as keys at once
  SHORT = 40,          // rows that are sorted by insertion
  LONG_ROW = 32 * 1024 // rows from here on are shared out
};

// ---- how a row is worked on ----------------------------------------------------------------------------------------

// Elements of a chunk: enough for its counts not to matter.
static int64_t chunk_of(int64_t n) {
  return n < LONG_ROW ? LONG_ROW : 32 * BLOCK;
}

// Whether to look for one rank after the other: a selection reads a row two or three times, sorting takes longer than
// two of them.
static bool selects(const pg_ordering *o) {
  return o->ranked && o->wanted <= 2 && o->n > 2 * BLOCK;
}

// Whether to look for the last of the first few and sort these.
static bool wants_few(const pg_ordering *o) {
  return !o->ranked && o->wanted > 0 && o->n > 2 * BLOCK && o->wanted <= o->n / 8;
}

// Entries that are sorted at most, once a selection has narrowed them down.
static int64_t most_entries(const pg_ordering *o) {
  if (selects(o)) return o->n / 32;
  return wants_few(o) ? o->wanted + o->n / 32 : o->n;
}

static int64_t rank_at(const pg_ordering *o, int64_t row, int64_t j) {
  const int64_t rank = o->ranks[row * o->rank_stride + j];
  return rank < 0 ? 0 : pg_smaller(rank, o->n - 1);
}

static size_t bytes_of_counts(const pg_ordering *o) {
  const int64_t radix = selects(o) || wants_few(o) ? WAYS * SELECT_RADIX : RADIX;
  return (size_t)(pg_divide_up(o->n, chunk_of(o->n)) * radix) * sizeof(uint32_t);
}

// Counts of digits → the place of the first entry of each digit in each chunk; false where all share one digit, so that
// nothing would move.
static bool find_places(uint32_t *counts, int64_t chunks, int64_t n) {
  uint32_t at = 0;
  for (int digit = 0; digit < RADIX; digit++) {
    const uint32_t before = at;
    for (int64_t c = 0; c < chunks; c++) {
      const uint32_t count = counts[c * RADIX + digit];
      counts[c * RADIX + digit] = at;
      at += count;
    }
    if (at - before == n) return false;
  }
  return true;
}

// Bits of the next digit of a selection, of `left` that are open.
static int digit_bits(int left) {
  return left < SELECT_BITS ? left : SELECT_BITS;
}

// The digit of the candidate with this rank, by tables of counts. The rank becomes that among the candidates with the
// same digit, whose number is left.
static unsigned find_digit(const uint32_t *counts, int64_t tables, int64_t *rank, int64_t *number) {
  for (unsigned digit = 0;; digit++) {
    *number = 0;
    for (int64_t t = 0; t < tables; t++) *number += counts[t * SELECT_RADIX + digit];
    if (*rank < *number || digit == SELECT_RADIX - 1) return digit;
    *rank -= *number;
  }
}

// ---- keys ----------------------------------------------------------------------------------------------------------

// Floating-point numbers as unsigned integers in the same order: -0 as 0, all NaNs as the largest there is.
static inline uint32_t key_of_f32(float x) {
  const float zero_signed = x + 0.0f;
  uint32_t bits;
  memcpy(&bits, &zero_signed, sizeof bits);
  bits ^= bits >> 31 ? UINT32_MAX : UINT32_C(1) << 31;
  return x != x ? UINT32_MAX : bits;
}

static inline uint64_t key_of_f64(double x) {
  const double zero_signed = x + 0.0;
  uint64_t bits;
  memcpy(&bits, &zero_signed, sizeof bits);
  bits ^= bits >> 63 ? UINT64_MAX : UINT64_C(1) << 63;
  return x != x ? UINT64_MAX : bits;
}

static inline uint32_t key_of_i32(int32_t x) {
  return (uint32_t)x ^ UINT32_C(1) << 31;
}

static inline uint64_t key_of_i64(int64_t x) {
  return (uint64_t)x ^ UINT64_C(1) << 63;
}

static inline uint32_t key_of_u8(uint8_t x) {
  return x;
}

#define READER(S, T, KEY)                                                                                              \
  static void read_keys_##S(const void *data, int64_t n, KEY *keys) {                                                  \
    const T *x = data;                                                                                                 \
    for (int64_t i = 0; i < n; i++) keys[i] = key_of_##S(x[i]);                                                        \
  }
READER(f32, float, uint32_t)
READER(f64, double, uint64_t)
READER(i32, int32_t, uint32_t)
READER(i64, int64_t, uint64_t)
READER(u8, uint8_t, uint32_t)

static void (*const key_readers_32[])(const void *, int64_t, uint32_t *) = {
    [PG_F32] = read_keys_f32, [PG_I32] = read_keys_i32, [PG_U8] = read_keys_u8, [PG_BOOL] = read_keys_u8};
static void (*const key_readers_64[])(const void *, int64_t,
                                      uint64_t *) = {[PG_F64] = read_keys_f64, [PG_I64] = read_keys_i64};

static bool is_wide(pg_dtype dtype) {
  return pg_dtype_size(dtype) == 8;
}

// ---- the two widths ------------------------------------------------------------------------------------------------

// An entry of 32 bits: the key above the place.
static inline uint32_t key_of_32(uint64_t e) {
  return (uint32_t)(e >> 32);
}

static inline int64_t place_of_32(uint64_t e) {
  return (uint32_t)e;
}

static inline uint64_t enter_32(uint32_t key, int64_t place) {
  return (uint64_t)key << 32 | (uint64_t)place;
}

typedef struct wide_entry {
  uint64_t key;
  int64_t place;
} wide_entry;

static inline uint64_t key_of_64(wide_entry e) {
  return e.key;
}

static inline int64_t place_of_64(wide_entry e) {
  return e.place;
}

static inline wide_entry enter_64(uint64_t key, int64_t place) {
  return (wide_entry){key, place};
}

#define KEY_BITS 32
#define KEY uint32_t
#define ENTRY uint64_t
#define S(name) name##_32
#include "engine/ops/order_kernel.h"

#define KEY_BITS 64
#define KEY uint64_t
#define ENTRY wide_entry
#define S(name) name##_64
#include "engine/ops/order_kernel.h"

// ---- all rows ------------------------------------------------------------------------------------------------------

enum { MOST_GROUPS = 16 }; // of rows that one thread goes through with one piece of scratch

static int64_t groups_of(const pg_ordering *o) {
  return o->n >= LONG_ROW ? 1 : pg_smaller(o->rows, MOST_GROUPS);
}

// Bytes for one row at a time.
static size_t bytes_of_row(const pg_ordering *o) {
  const size_t entry = is_wide(o->dtype) ? sizeof(wide_entry) : sizeof(uint64_t);
  const size_t bytes = bytes_of_counts(o) + 2 * (size_t)most_entries(o) * entry;
  return (bytes + 63) / 64 * 64;
}

size_t pg_order_scratch(const pg_ordering *o) {
  return o->wanted > 0 ? (size_t)groups_of(o) * bytes_of_row(o) : 0;
}

double pg_order_cost(int64_t n) {
  double cost = 4;
  for (int64_t size = 1; size < n && cost < 60; size *= 2) cost += 3;
  return cost;
}

typedef struct order_task {
  const pg_ordering *o;
  char *scratch;
  int64_t groups;
} order_task;

static void order_groups(void *arg, int64_t first, int64_t last) {
  const order_task *t = arg;
  for (int64_t group = first; group < last; group++) {
    void *mine = t->scratch + (size_t)group * bytes_of_row(t->o);
    const int64_t end = t->o->rows * (group + 1) / t->groups;
    for (int64_t row = t->o->rows * group / t->groups; row < end; row++) {
      if (is_wide(t->o->dtype))
        order_row_64(t->o, row, mine);
      else
        order_row_32(t->o, row, mine);
    }
  }
}

void pg_find_order(const pg_ordering *o, void *scratch) {
  if (o->wanted <= 0 || o->rows <= 0) return;
  order_task t = {.o = o, .scratch = scratch, .groups = groups_of(o)};
  pg_parallel_for(t.groups, (double)o->rows * (double)o->n * pg_order_cost(o->n), order_groups, &t);
}

// ---- searching -----------------------------------------------------------------------------------------------------

#define SEARCH(S, T, KEY)                                                                                              \
  static int64_t count_below_##S(const void *sorted, int64_t n, const void *x, int64_t at, bool upper) {               \
    const KEY key = key_of_##S(((const T *)x)[at]);                                                                    \
    int64_t first = 0;                                                                                                 \
    while (n > 0) {                                                                                                    \
      const KEY middle = key_of_##S(((const T *)sorted)[first + n / 2]);                                               \
      const bool below = middle < key || (upper && middle == key);                                                     \
      first = below ? first + n / 2 + 1 : first;                                                                       \
      n = below ? n - n / 2 - 1 : n / 2;                                                                               \
    }                                                                                                                  \
    return first;                                                                                                      \
  }
SEARCH(f32, float, uint32_t)
SEARCH(f64, double, uint64_t)
SEARCH(i32, int32_t, uint32_t)
SEARCH(i64, int64_t, uint64_t)
SEARCH(u8, uint8_t, uint32_t)

int64_t pg_count_below(pg_dtype dtype, const void *sorted, int64_t n, const void *x, int64_t at, bool upper) {
  static int64_t (*const functions[])(const void *, int64_t, const void *, int64_t, bool) = {
      [PG_F32] = count_below_f32, [PG_F64] = count_below_f64, [PG_I32] = count_below_i32,
      [PG_I64] = count_below_i64, [PG_U8] = count_below_u8,   [PG_BOOL] = count_below_u8};
  return functions[dtype](sorted, n, x, at, upper);
}
