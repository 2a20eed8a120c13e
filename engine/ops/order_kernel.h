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
  uint32_t *counts; // [chunks][RADIX], of a selection [chunks][WAYS][SELECT_RADIX]
  // Of a selection: how many bits of its keys are still open, the candidates, whose keys have (key & mask) == prefix,
  // and the rank of the wanted one among them.
  int left;
  KEY prefix, mask;
  int64_t candidates, rank;
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

// Counts of the candidates' next digit, in several ways at once: a counter that has just been written is not yet ready
// to be read.
static void S(count_candidates)(void *arg, int64_t first, int64_t last) {
  const S(row) *r = arg;
  const int64_t chunk = chunk_of(r->o->n);
  const int shift = r->left - digit_bits(r->left);
  const KEY prefix = r->prefix, mask = r->mask;
  KEY keys[BLOCK];
  for (int64_t c = first; c < last; c++) {
    uint32_t(*count)[SELECT_RADIX] = (uint32_t(*)[SELECT_RADIX])r->counts + c * WAYS;
    const int64_t end = pg_smaller((c + 1) * chunk, r->o->n);
    memset(count, 0, WAYS * sizeof *count);
    for (int64_t at = c * chunk; at < end; at += BLOCK) {
      const int64_t size = pg_smaller(BLOCK, end - at);
      S(load_keys)(r, at, size, keys);
      for (int64_t i = 0; i < size; i++)
        if ((keys[i] & mask) == prefix) count[i % WAYS][keys[i] >> shift & (SELECT_RADIX - 1)]++;
    }
  }
}

// Candidates for this rank of the row, a digit at a time from the top, until no more than `most` are left; smaller:
// they count together with the elements below them.
static void S(narrow)(S(row) * r, int64_t rank, int64_t most, bool smaller) {
  const int64_t n = r->o->n, chunks = pg_divide_up(n, chunk_of(n));
  r->left = KEY_BITS;
  r->prefix = r->mask = 0;
  r->candidates = n;
  r->rank = rank;
  while (r->left > 0 && r->candidates + (smaller ? rank - r->rank : 0) > most) {
    const int bits = digit_bits(r->left);
    const KEY ones = ((KEY)1 << bits) - 1;
    pg_parallel_for(chunks, 2.0 * (double)n, S(count_candidates), r);
    const KEY digit = find_digit(r->counts, chunks * WAYS, &r->rank, &r->candidates) & ones;
    r->left -= bits;
    r->prefix |= digit << r->left;
    r->mask |= ones << r->left;
  }
}

// The place of candidate number r->rank, all of them having the same key.
static int64_t S(find_place)(const S(row) * r) {
  KEY keys[BLOCK];
  int64_t before = r->rank;
  for (int64_t at = 0; at < r->o->n; at += BLOCK) {
    const int64_t count = pg_smaller(BLOCK, r->o->n - at);
    S(load_keys)(r, at, count, keys);
    for (int64_t i = 0; i < count; i++)
      if (keys[i] == r->prefix && before-- == 0) return at + i;
  }
  return 0;
}

// Enter the first `most` candidates and, smaller: the elements below them; how many these are together.
static int64_t S(enter_candidates)(const S(row) * r, int64_t most, bool smaller) {
  const KEY prefix = r->prefix, mask = r->mask;
  KEY keys[BLOCK];
  int64_t found = 0;
  for (int64_t at = 0; at < r->o->n; at += BLOCK) {
    const int64_t count = pg_smaller(BLOCK, r->o->n - at);
    S(load_keys)(r, at, count, keys);
    for (int64_t i = 0; i < count; i++) {
      const KEY top = keys[i] & mask;
      if (top > prefix || (top < prefix && !smaller) || (top == prefix && most-- <= 0)) continue;
      r->entries[found++] = S(enter)(keys[i], at + i);
    }
  }
  return found;
}

// ---- a row ---------------------------------------------------------------------------------------------------------

// The wanted ranks one by one; neighbours mostly lie among the same candidates.
static void S(select_ranks)(S(row) * r, int64_t *out) {
  const ENTRY *sorted = NULL;
  int64_t before = 0; // elements below the sorted candidates
  for (int64_t j = 0; j < r->o->wanted; j++) {
    const int64_t rank = rank_at(r->o, r->row, j);
    if (!sorted || rank < before || rank >= before + r->candidates) {
      S(narrow)(r, rank, most_entries(r->o), false);
      const int64_t count = r->left > 0 ? S(enter_candidates)(r, r->candidates, false) : 0;
      sorted = count > 0 ? S(sort)(r->entries, r->entries + count, count, r->counts) : NULL;
      before = rank - r->rank;
    }
    out[j] = sorted ? S(place_of)(sorted[rank - before]) : S(find_place)(r);
  }
}

// Sort the row or, of a row of which the first few are wanted, these and a few more.
static void S(sort_row)(S(row) * r, int64_t *out) {
  const pg_ordering *o = r->o;
  int64_t count = o->n;
  if (wants_few(o)) {
    S(narrow)(r, o->wanted - 1, most_entries(o), true);
    count = S(enter_candidates)(r, r->left == 0 ? r->rank + 1 : r->candidates, true);
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
