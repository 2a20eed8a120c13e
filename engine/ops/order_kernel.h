// order_kernel.h: sorting and selection by unsigned keys of KEY_BITS bits, included by order.c once for 32 and once for
// 64 bits. KEY: the type of a key; ENTRY: a key with the place of its element; S(name): the name for this width.

// ---- sorting -------------------------------------------------------------------------------------------------------

// One pass of a radix sort: entries move to where their digit, the RADIX_BITS bits from `shift` on, puts them. The row
// is cut into chunks, which threads share; each has a count of every digit.
typedef struct S(pass) {
  const ENTRY *from;
  ENTRY *to;
  int64_t n, chunk;
  uint32_t *counts; // [chunks][RADIX]
  int shift;
} S(pass);

static inline unsigned S(digit_of)(ENTRY e, int shift) {
  return (unsigned)(S(key_of)(e) >> shift) & (RADIX - 1);
}

static void S(count_digits)(void *arg, int64_t first, int64_t last) {
  const S(pass) *p = arg;
  for (int64_t c = first; c < last; c++) {
    uint32_t *count = p->counts + c * RADIX;
    const int64_t end = pg_smaller((c + 1) * p->chunk, p->n);
    memset(count, 0, RADIX * sizeof *count);
    for (int64_t i = c * p->chunk; i < end; i++) count[S(digit_of)(p->from[i], p->shift)]++;
  }
}

static void S(move_entries)(void *arg, int64_t first, int64_t last) {
  const S(pass) *p = arg;
  for (int64_t c = first; c < last; c++) {
    uint32_t *at = p->counts + c * RADIX;
    const int64_t end = pg_smaller((c + 1) * p->chunk, p->n);
    for (int64_t i = c * p->chunk; i < end; i++) p->to[at[S(digit_of)(p->from[i], p->shift)]++] = p->from[i];
  }
}

static void S(sort_by_insertion)(ENTRY *e, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const ENTRY mine = e[i];
    int64_t j = i;
    for (; j > 0 && S(key_of)(e[j - 1]) > S(key_of)(mine); j--) e[j] = e[j - 1];
    e[j] = mine;
  }
}

// Sort e [n], using `spare` [n] and counts; → whichever of the two holds the result.
static ENTRY *S(sort)(ENTRY *e, ENTRY *spare, int64_t n, uint32_t *counts) {
  if (n <= SHORT) {
    S(sort_by_insertion)(e, n);
    return e;
  }
  const int64_t chunk = chunk_of(n), chunks = pg_divide_up(n, chunk);
  for (int shift = 0; shift < KEY_BITS; shift += RADIX_BITS) {
    S(pass) p = {.from = e, .to = spare, .n = n, .chunk = chunk, .counts = counts, .shift = shift};
    pg_parallel_for(chunks, (double)n, S(count_digits), &p);
    if (!find_places(counts, chunks, n)) continue;
    pg_parallel_for(chunks, 4.0 * (double)n, S(move_entries), &p);
    spare = e;
    e = p.to;
  }
  return e;
}

// ---- reading -------------------------------------------------------------------------------------------------------

// The row of an ordering at hand.
typedef struct S(row) {
  const pg_ordering *o;
  int64_t row;
  ENTRY *entries;
  KEY prefix, mask; // of a selection: keys with (key & mask) == prefix are counted
  int shift;
  uint32_t *counts; // [chunks][RADIX], of a selection [chunks][SELECT_RADIX]
} S(row);

// Keys at … at + count - 1.
static void S(load_keys)(const S(row) * r, int64_t at, int64_t count, KEY *keys) {
  const pg_ordering *o = r->o;
  const char *x = (const char *)o->x + (size_t)(r->row * o->n + at) * pg_dtype_size(o->dtype);
  S(key_readers)[o->dtype](x, count, keys);
  if (o->descending)
    for (int64_t i = 0; i < count; i++) keys[i] = ~keys[i];
}

static void S(load_entries)(void *arg, int64_t first, int64_t last) {
  const S(row) *r = arg;
  KEY keys[BLOCK];
  for (int64_t block = first; block < last; block++) {
    const int64_t at = block * BLOCK, count = pg_smaller(BLOCK, r->o->n - at);
    S(load_keys)(r, at, count, keys);
    for (int64_t i = 0; i < count; i++) r->entries[at + i] = S(enter)(keys[i], at + i);
  }
}

// ---- selection -----------------------------------------------------------------------------------------------------

static void S(count_candidates)(void *arg, int64_t first, int64_t last) {
  const S(row) *r = arg;
  const int64_t chunk = chunk_of(r->o->n);
  KEY keys[BLOCK];
  for (int64_t c = first; c < last; c++) {
    uint32_t *count = r->counts + c * SELECT_RADIX;
    const int64_t end = pg_smaller((c + 1) * chunk, r->o->n);
    memset(count, 0, SELECT_RADIX * sizeof *count);
    for (int64_t at = c * chunk; at < end; at += BLOCK) {
      const int64_t size = pg_smaller(BLOCK, end - at);
      S(load_keys)(r, at, size, keys);
      for (int64_t i = 0; i < size; i++)
        if ((keys[i] & r->mask) == r->prefix) count[keys[i] >> r->shift & (SELECT_RADIX - 1)]++;
    }
  }
}

// The key of this rank, a digit at a time from the top; *ties: the rank of its element among those with the same key.
static KEY S(find_key)(S(row) * r, int64_t rank, int64_t *ties) {
  const int64_t chunks = pg_divide_up(r->o->n, chunk_of(r->o->n));
  int left = KEY_BITS;
  r->prefix = r->mask = 0;
  while (left > 0) {
    const int bits = left < SELECT_BITS ? left : SELECT_BITS;
    r->shift = left - bits;
    pg_parallel_for(chunks, 2.0 * (double)r->o->n, S(count_candidates), r);
    const KEY digit = (KEY)find_digit(r->counts, chunks, &rank) & (((KEY)1 << bits) - 1);
    r->prefix |= digit << r->shift;
    r->mask |= (((KEY)1 << bits) - 1) << r->shift;
    left -= bits;
  }
  *ties = rank;
  return r->prefix;
}

// The place of element number `ties` of those with this key.
static int64_t S(find_place)(const S(row) * r, KEY key, int64_t ties) {
  KEY keys[BLOCK];
  for (int64_t at = 0; at < r->o->n; at += BLOCK) {
    const int64_t count = pg_smaller(BLOCK, r->o->n - at);
    S(load_keys)(r, at, count, keys);
    for (int64_t i = 0; i < count; i++)
      if (keys[i] == key && ties-- == 0) return at + i;
  }
  return 0;
}

// Enter the elements below `key`, and the first ties + 1 of those with it.
static int64_t S(enter_first)(const S(row) * r, KEY key, int64_t ties) {
  KEY keys[BLOCK];
  int64_t found = 0;
  for (int64_t at = 0; at < r->o->n; at += BLOCK) {
    const int64_t count = pg_smaller(BLOCK, r->o->n - at);
    S(load_keys)(r, at, count, keys);
    for (int64_t i = 0; i < count; i++) {
      if (keys[i] < key || (keys[i] == key && ties-- >= 0)) r->entries[found++] = S(enter)(keys[i], at + i);
    }
  }
  return found;
}

// ---- a row ---------------------------------------------------------------------------------------------------------

// The wanted ranks one by one.
static void S(select_ranks)(S(row) * r, int64_t *out) {
  for (int64_t j = 0; j < r->o->wanted; j++) {
    int64_t ties;
    const KEY key = S(find_key)(r, rank_at(r->o, r->row, j), &ties);
    out[j] = S(find_place)(r, key, ties);
  }
}

// Sort the row, or of a row of which the first few are wanted only those.
static void S(sort_row)(S(row) * r, int64_t *out) {
  const pg_ordering *o = r->o;
  int64_t count = o->n;
  if (wants_few(o)) {
    int64_t ties;
    const KEY key = S(find_key)(r, o->wanted - 1, &ties);
    count = S(enter_first)(r, key, ties);
  } else {
    pg_parallel_for(pg_divide_up(count, BLOCK), (double)count, S(load_entries), r);
  }
  const ENTRY *sorted = S(sort)(r->entries, r->entries + count, count, r->counts);
  for (int64_t j = 0; j < o->wanted; j++) out[j] = S(place_of)(sorted[o->ranked ? rank_at(o, r->row, j) : j]);
}

static void S(order_row)(const pg_ordering *o, int64_t row, void *scratch) {
  S(row) r = {.o = o, .row = row, .counts = scratch, .entries = (ENTRY *)((char *)scratch + bytes_of_counts(o))};
  int64_t *out = o->out + row * o->wanted;
  if (selects(o))
    S(select_ranks)(&r, out);
  else
    S(sort_row)(&r, out);
}

#undef KEY_BITS
#undef KEY
#undef ENTRY
#undef S
