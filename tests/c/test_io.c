// test_io.c: streams, atomic files, text, JSON, hashes, safetensors and npy: round trips to the bit, and damaged or
// lying files, which must be refused with a message naming the file and never crash (run it under the sanitizers).
#include <lzma.h>
#include <signal.h>
#include <sys/resource.h>
#include <zlib.h>

#include "engine/core/memory.h"
#include "engine/io/atomic.h"
#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "engine/io/sha256.h"
#include "engine/io/stream.h"
#include "engine/io/text.h"
#include "tests/c/scratch.h"

// ---- streams
// ---------------------------------------------------------------------------------------------------------

typedef struct blob {
  uint8_t *bytes;
  size_t n;
} blob;

static blob make_content(size_t n) {
  blob b = {malloc(n + 1), n};
  for (size_t i = 0; i < n; i++) b.bytes[i] = (uint8_t)(scratch_random() % 5 * (i / 1000 + 1));
  return b;
}

static blob compress_gzip(blob b) {
  z_stream z = {0};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  blob out = {malloc(deflateBound(&z, b.n) + 64), 0};
  z.next_in = b.bytes;
  z.avail_in = (uInt)b.n;
  z.next_out = out.bytes;
  z.avail_out = (uInt)deflateBound(&z, b.n) + 64;
  deflate(&z, Z_FINISH);
  out.n = z.total_out;
  deflateEnd(&z);
  return out;
}

static blob compress_xz(blob b) {
  size_t cap = lzma_stream_buffer_bound(b.n);
  blob out = {malloc(cap), 0};
  lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, NULL, b.bytes, b.n, out.bytes, &out.n, cap);
  return out;
}

static void check_content(const char *path, blob expected) {
  uint8_t *data;
  size_t n;
  CHECK_STATUS(pg_read_file(path, &data, &n), PG_OK);
  CHECK_THAT(n == expected.n, "%zu bytes, expected %zu", n, expected.n);
  CHECK(!memcmp(data, expected.bytes, n));
  pg_free(data);
}

static void streams_read_plain_gzip_and_xz_alike(void) {
  static const size_t sizes[] = {0, 1, 2, 5, 1000, 65535, 65536, 65537, 1000003};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    blob b = make_content(sizes[i]), gz = compress_gzip(b), xz = compress_xz(b);
    check_content(scratch_write("a", b.bytes, b.n), b);
    check_content(scratch_write("a", gz.bytes, gz.n), b);
    check_content(scratch_write("a", xz.bytes, xz.n), b);
    free(b.bytes), free(gz.bytes), free(xz.bytes);
  }
}

static void streams_join_members_and_refuse_what_follows_them(void) {
  blob b = make_content(3000), half = {b.bytes, 1000}, rest = {b.bytes + 1000, 2000};
  blob one = compress_gzip(half), two = compress_gzip(rest);
  uint8_t *joined = calloc(one.n + two.n + 16, 1);
  memcpy(joined, one.bytes, one.n);
  memcpy(joined + one.n, two.bytes, two.n);
  check_content(scratch_write("a", joined, one.n + two.n), b);
  check_content(scratch_write("a", joined, one.n + two.n + 16), b); // zero padding
  joined[one.n + two.n] = 'x';
  const char *path = scratch_write("a", joined, one.n + two.n + 1);
  uint8_t *data;
  size_t n;
  CHECK_REFUSED(pg_read_file(path, &data, &n), path);
  free(joined), free(b.bytes), free(one.bytes), free(two.bytes);
}

// Whatever is cut off or flipped: an error, or the very same content (a flipped time stamp in a gzip header).
static void check_damaged(blob file, blob content, int tries) {
  uint8_t *copy = malloc(file.n), *data;
  size_t n;
  int refused = 0;
  for (int i = 0; i < tries; i++) {
    memcpy(copy, file.bytes, file.n);
    bool cut = i % 2;
    size_t at = scratch_random() % file.n;
    if (!cut) copy[at] ^= (uint8_t)(1 + scratch_random() % 255);
    const char *path = scratch_write("damaged", copy, cut ? at : file.n);
    if (pg_read_file(path, &data, &n) == PG_OK) {
      bool plain = at < 6; // the magic itself is damaged: read as a plain file
      CHECK_THAT(plain || (n == content.n && !memcmp(data, content.bytes, n)), "%s at %zu", cut ? "cut" : "flip", at);
      pg_free(data);
    } else {
      CHECK(strstr(pg_last_error(), path) == pg_last_error());
      refused++;
    }
  }
  CHECK_THAT(refused > tries / 2, "only %d of %d refused", refused, tries);
  free(copy);
}

static void streams_refuse_damaged_compression(void) {
  blob b = make_content(5000), gz = compress_gzip(b), xz = compress_xz(b);
  check_damaged(gz, b, 1500);
  check_damaged(xz, b, 1500);
  free(b.bytes), free(gz.bytes), free(xz.bytes);
}

static void streams_stop_bombs_at_the_limit(void) {
  blob zeros = {calloc(1 << 26, 1), 1 << 26}, gz = compress_gzip(zeros), xz = compress_xz(zeros);
  CHECK(gz.n < 1 << 17);
  uint8_t *data;
  size_t n;
  pg_stream_set_limit(1 << 20);
  CHECK_STATUS(pg_read_file(scratch_write("bomb", gz.bytes, gz.n), &data, &n), PG_ERR_MEMORY);
  CHECK_STATUS(pg_read_file(scratch_write("bomb", xz.bytes, xz.n), &data, &n), PG_ERR_MEMORY);
  pg_stream_set_limit(1 << 26);
  CHECK_STATUS(pg_read_file(scratch_path("bomb"), &data, &n), PG_OK); // exactly at the limit
  CHECK(n == 1 << 26);
  pg_free(data);
  pg_stream_set_limit(0);
  CHECK(pg_stream_limit() > 1 << 28);
  free(zeros.bytes), free(gz.bytes), free(xz.bytes);
}

static void streams_refuse_what_is_not_a_file(void) {
  uint8_t *data;
  size_t n;
  const char *path = scratch_path("fifo");
  CHECK(mkfifo(path, 0600) == 0);
  CHECK_REFUSED(pg_read_file(path, &data, &n), path); // and does not wait for a writer
  CHECK_REFUSED(pg_read_file(scratch_directory, &data, &n), scratch_directory);
  path = scratch_path("none");
  CHECK_REFUSED(pg_read_file(path, &data, &n), path);
}

// ---- atomic files
// ----------------------------------------------------------------------------------------------------

static void check_file(const char *path, const char *text) {
  size_t n;
  uint8_t *bytes = scratch_read(path, &n);
  CHECK(n == strlen(text) && !memcmp(bytes, text, n));
  free(bytes);
}

static void atomic_files_are_whole_or_not_there(void) {
  const char *path = scratch_path("atomic");
  pg_atomic *a;
  CHECK_STATUS(pg_write_file_atomic(path, "old", 3), PG_OK);
  int files = scratch_count_files();
  CHECK_STATUS(pg_atomic_begin(path, &a), PG_OK);
  CHECK_STATUS(pg_atomic_write(a, "new", 3), PG_OK);
  check_file(path, "old");
  pg_atomic_abort(a);
  check_file(path, "old");
  CHECK_STATUS(pg_atomic_begin(path, &a), PG_OK);
  CHECK_STATUS(pg_atomic_write(a, "ne", 2), PG_OK);
  CHECK_STATUS(pg_atomic_write(a, "wer", 3), PG_OK);
  CHECK_STATUS(pg_atomic_commit(a), PG_OK);
  check_file(path, "newer");
  CHECK(scratch_count_files() == files);
}

static void atomic_writes_fail_without_traces(void) {
  int files = scratch_count_files();
  const char *path = scratch_path("no/such/directory");
  CHECK_REFUSED(pg_write_file_atomic(path, "x", 1), path);
  path = scratch_path("a-directory");
  CHECK(mkdir(path, 0700) == 0);
  CHECK_REFUSED(pg_write_file_atomic(path, "x", 1), path); // a file cannot replace a directory
  rmdir(path);
  CHECK(scratch_count_files() == files);
}

static void atomic_names_may_be_as_long_as_the_system_allows(void) {
  char name[256];
  memset(name, 'n', 255);
  name[255] = 0;
  const char *path = scratch_path(name);
  CHECK_STATUS(pg_write_file_atomic(path, "x", 1), PG_OK);
  check_file(path, "x");
}

// A full disk, played by a limit on file sizes: the write is cut short, then refused.
static void atomic_writes_leave_the_old_file_when_the_disk_is_full(void) {
  const char *path = scratch_path("full");
  CHECK_STATUS(pg_write_file_atomic(path, "old", 3), PG_OK);
  int files = scratch_count_files();
  struct rlimit old, small;
  getrlimit(RLIMIT_FSIZE, &old);
  small = old;
  small.rlim_cur = 1 << 16;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  char *big = calloc(1 << 20, 1);
  pg_status status = pg_write_file_atomic(path, big, 1 << 20);
  pg_atomic *a;
  CHECK_STATUS(pg_atomic_begin(path, &a), PG_OK);
  pg_status write = pg_atomic_write(a, big, 1 << 20), commit = pg_atomic_commit(a); // the failure is remembered
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, SIG_DFL);
  free(big);
  CHECK(status == PG_ERR_IO && write == PG_ERR_IO && commit == PG_ERR_IO);
  check_file(path, "old");
  CHECK(scratch_count_files() == files);
}

// ---- text
// ------------------------------------------------------------------------------------------------------------

static bool same_bits(double a, double b) {
  return !memcmp(&a, &b, sizeof a);
}

static void numbers_parse_to_the_nearest_double(void) {
  char text[64];
  for (int i = 0; i < 200000; i++) {
    uint64_t r = scratch_random();
    double x, parsed;
    memcpy(&x, &r, sizeof x);
    if (i % 2) x = (double)(int64_t)(r % 2000001 - 1000000) / 1000;
    if (!isfinite(x)) continue;
    static const char *const formats[] = {"%.17g", "%.6f", "%.3g", "%+.15e", "%.20g"};
    snprintf(text, sizeof text, fabs(x) < 1e20 ? formats[r % 5] : "%.17g", x);
    const char *end = pg_parse_double(text, text + strlen(text), &parsed);
    CHECK_THAT(end == text + strlen(text), "'%s'", text);
    CHECK_THAT(same_bits(parsed, strtod(text, NULL)), "'%s' gave %.17g", text, parsed);
  }
}

static void numbers_stop_at_the_end_they_are_given(void) {
  double x;
  const char *text = "12345";
  CHECK(pg_parse_double(text, text + 2, &x) == text + 2 && x == 12);
  text = "1e5";
  CHECK(pg_parse_double(text, text + 2, &x) == text + 1 && x == 1);
  text = "0.000000000000000000000000000000000000000000000000000000000000000000000000000000000000012";
  CHECK(pg_parse_double(text, text + strlen(text), &x) && x == 1.2e-86);
  text = "-0";
  CHECK(pg_parse_double(text, text + 2, &x) && signbit(x));
}

static void what_is_no_number_is_refused(void) {
  static const char *const bad[] = {"", "-", ".", "+.", "e5", "nan", "inf", "-inf", "x", " 1", "1e999", "--1", "NaN"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    double x;
    CHECK_THAT(!pg_parse_double(bad[i], bad[i] + strlen(bad[i]), &x), "'%s'", bad[i]);
  }
  int64_t n;
  const char *text = "2147483648";
  CHECK(!pg_parse_index(text, text + 10, INT32_MAX, &n));
  CHECK(pg_parse_index(text, text + 10, 2147483648, &n) && n == 2147483648);
  text = "9223372036854775808";
  CHECK(!pg_parse_index(text, text + 19, INT64_MAX, &n));
  text = "-1";
  CHECK(!pg_parse_index(text, text + 2, 10, &n));
}

static void messages_hold_no_control_characters(void) {
  char quoted[PG_QUOTE_SIZE];
  CHECK(!strcmp(pg_quote("a\x1b[31m\n", 7, quoted), "a?[31m?"));
  char longer[100];
  memset(longer, 'x', sizeof longer);
  CHECK(strlen(pg_quote(longer, sizeof longer, quoted)) == 51);
}

static void json_numbers_read_back_to_the_bit(void) {
  char text[PG_JSON_NUMBER_SIZE];
  for (int i = 0; i < 100000; i++) {
    uint64_t r = scratch_random();
    double x;
    memcpy(&x, &r, sizeof x);
    if (isfinite(x)) CHECK(same_bits(strtod(pg_json_number(x, text), NULL), x));
  }
  CHECK(!strcmp(pg_json_number(NAN, text), "\"nan\"") && !strcmp(pg_json_number(-INFINITY, text), "\"-inf\""));
  CHECK(!strcmp(pg_json_number(0.1, text), "0.10000000000000001"));
}

static void json_refuses_duplicates_depth_and_rests(void) {
  static const char *const bad[] = {"{\"a\":1,\"a\":2}", "[1", "[1] 2", "", "{", "[1,]", "\"\\u0000\"", "nan", "\xff"};
  json_t *tree;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    CHECK_REFUSED(pg_json_parse(bad[i], strlen(bad[i]), "name", 0, &tree), "name");
    CHECK(!tree);
  }
  char deep[100000];
  memset(deep, '[', sizeof deep);
  CHECK_REFUSED(pg_json_parse(deep, sizeof deep, "name", 0, &tree), "name");
}

static void sha256_agrees_with_the_standard(void) {
  static const struct {
    const char *text, *hex;
    int times;
  } cases[] = {{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 1},
               {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 1},
               {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", 1},
               {"aaaaaaaaaa", "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", 100000}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    pg_sha256 s;
    uint8_t digest[32];
    char hex[65];
    pg_sha256_begin(&s);
    for (int k = 0; k < cases[i].times; k++) pg_sha256_add(&s, cases[i].text, strlen(cases[i].text));
    pg_sha256_end(&s, digest);
    pg_sha256_hex(digest, hex);
    CHECK_THAT(!strcmp(hex, cases[i].hex), "%s", hex);
  }
}

// ---- safetensors
// -----------------------------------------------------------------------------------------------------

enum { SAMPLES = 10 };

static void make_samples(pg_named_tensor samples[SAMPLES]) {
  static const struct {
    const char *name;
    pg_dtype dtype;
    int ndim;
    int64_t shape[3];
  } rows[SAMPLES] = {{"w", PG_F32, 2, {3, 5}},       {"bytes", PG_U8, 1, {7}},     {"d", PG_F64, 3, {2, 1, 3}},
                     {"scalar", PG_F32, 0, {0}},     {"empty", PG_I32, 2, {0, 4}}, {"i", PG_I32, 1, {4}},
                     {"long", PG_I64, 1, {2}},       {"mask", PG_BOOL, 1, {9}},    {"key", PG_KEY, 0, {0}},
                     {"keys \"x\"é", PG_KEY, 1, {3}}};
  for (int i = 0; i < SAMPLES; i++)
    samples[i] = (pg_named_tensor){rows[i].name, random_tensor(rows[i].dtype, rows[i].ndim, rows[i].shape)};
}

static void free_samples(pg_named_tensor samples[SAMPLES]) {
  for (int i = 0; i < SAMPLES; i++) pg_tensor_release((pg_tensor *)samples[i].tensor);
}

static const char *write_samples(pg_named_tensor samples[SAMPLES]) {
  static const pg_string_pair metadata[] = {{"who", "perigee"}, {"utf-8", "käse"}};
  const char *path = scratch_path("samples.safetensors");
  make_samples(samples);
  CHECK_STATUS(pg_safetensors_write(path, SAMPLES, samples, 2, metadata), PG_OK);
  return path;
}

static void safetensors_round_trip_to_the_bit(void) {
  pg_named_tensor samples[SAMPLES];
  const char *path = write_samples(samples);
  pg_safetensors *s;
  CHECK_STATUS(pg_safetensors_open(path, &s), PG_OK);
  CHECK(pg_safetensors_count(s) == SAMPLES);
  CHECK_STATUS(pg_safetensors_verify(s), PG_OK);
  CHECK(!strcmp(pg_safetensors_metadata(s, "who"), "perigee") && !strcmp(pg_safetensors_metadata(s, "utf-8"), "käse"));
  for (int i = 0; i < SAMPLES; i++) {
    pg_tensor *t;
    int at = pg_safetensors_find(s, samples[i].name);
    CHECK_THAT(at >= 0, "%s", samples[i].name);
    CHECK_STATUS(pg_safetensors_load(s, at, &t), PG_OK);
    CHECK_THAT(same_tensor(t, samples[i].tensor), "%s", samples[i].name);
    pg_tensor_release(t);
  }
  CHECK(pg_safetensors_find(s, "none") == -1);
  pg_safetensors_close(s);
  free_samples(samples);
}

static void safetensors_data_are_aligned_and_in_the_order_given(void) {
  pg_named_tensor samples[SAMPLES];
  const char *path = write_samples(samples);
  size_t n;
  uint8_t *bytes = scratch_read(path, &n);
  uint64_t header = bytes[0] | (uint64_t)bytes[1] << 8;
  CHECK(header % 8 == 0 && bytes[8] == '{');
  size_t at = 8 + header;
  for (int i = 0; i < SAMPLES; i++) {
    size_t size = pg_tensor_bytes(samples[i].tensor);
    CHECK(at + size <= n && !memcmp(bytes + at, pg_tensor_data(samples[i].tensor), size));
    at += size;
  }
  CHECK(at == n);
  free(bytes);
  free_samples(samples);
}

// Open, verify and load everything; the status of the first thing that failed.
static pg_status load_all(const char *path) {
  pg_safetensors *s;
  pg_status status = pg_safetensors_open(path, &s);
  if (status != PG_OK) return status;
  status = pg_safetensors_verify(s);
  for (int i = 0; status == PG_OK && i < pg_safetensors_count(s); i++) {
    pg_tensor *t = NULL;
    status = pg_safetensors_load(s, i, &t);
    pg_tensor_release(t);
  }
  pg_safetensors_close(s);
  return status;
}

static void safetensors_refuse_every_truncation_and_every_flip_of_data(void) {
  pg_named_tensor samples[SAMPLES];
  const char *path = write_samples(samples), *cut;
  size_t n;
  uint8_t *bytes = scratch_read(path, &n);
  uint64_t header = bytes[0] | (uint64_t)bytes[1] << 8;
  for (size_t k = 0; k < n; k++) {
    cut = scratch_write("cut", bytes, k);
    CHECK_REFUSED(load_all(cut), cut);
  }
  for (size_t k = 8 + header; k < n; k++) {
    bytes[k] ^= (uint8_t)(1 + scratch_random() % 255);
    cut = scratch_write("cut", bytes, n);
    CHECK_REFUSED(load_all(cut), cut);
    free(bytes);
    bytes = scratch_read(path, &n);
  }
  bytes = realloc(bytes, n + 1);
  bytes[n] = 0;
  cut = scratch_write("cut", bytes, n + 1);
  CHECK_REFUSED(load_all(cut), cut);
  free(bytes);
  free_samples(samples);
}

// A flipped header may still be a header (another letter in a name); it must not crash, and refusals name the file.
static void safetensors_survive_flips_of_the_header(void) {
  pg_named_tensor samples[SAMPLES];
  const char *path = write_samples(samples);
  size_t n;
  uint8_t *bytes = scratch_read(path, &n);
  uint64_t header = bytes[0] | (uint64_t)bytes[1] << 8;
  int refused = 0;
  for (int i = 0; i < 4000; i++) {
    size_t at = scratch_random() % (8 + header);
    uint8_t was = bytes[at];
    bytes[at] ^= (uint8_t)(1 + scratch_random() % 255);
    const char *flipped = scratch_write("flip", bytes, n);
    bytes[at] = was;
    if (load_all(flipped) == PG_OK) continue;
    CHECK_THAT(strstr(pg_last_error(), flipped) == pg_last_error(), "message '%s'", pg_last_error());
    refused++;
  }
  CHECK_THAT(refused > 3000, "%d", refused);
  free(bytes);
  free_samples(samples);
}

static const char *write_header(const char *json, size_t data) {
  static uint8_t bytes[65536];
  uint64_t n = strlen(json);
  memset(bytes, 0, sizeof bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(n >> 8 * i);
  memcpy(bytes + 8, json, n);
  return scratch_write("bad.safetensors", bytes, 8 + n + data);
}

static void safetensors_refuse_lying_headers(void) {
#define T(dtype, shape, offsets) "\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define U(offsets) "\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" offsets "}"
  static const struct {
    const char *json;
    size_t data;
  } bad[] = {
      {"", 0},
      {"[]", 0},
      {"{", 0},
      {" {}", 0},
      {"{} x", 0},
      {"{}", 1},                                                        // bytes no one accounts for
      {"{" T("F32", "[2]", "[0,8]") "}", 7},                            // too few
      {"{" T("F32", "[2]", "[0,8]") "}", 9},                            // too many
      {"{" T("F32", "[2]", "[0,4]") "}", 4},                            // shape against offsets
      {"{" T("F32", "[2]", "[4,12]") "}", 12},                          // a hole at the start
      {"{" T("U8", "[4]", "[0,4]") "," U("[2,6]") "}", 6},              // overlap
      {"{" T("U8", "[4]", "[0,4]") "," U("[0,4]") "}", 4},              // the same bytes twice
      {"{" T("U8", "[4]", "[0,4]") "," U("[5,9]") "}", 9},              // a hole
      {"{" T("U8", "[4]", "[0,4]") "," T("U8", "[4]", "[4,8]") "}", 8}, // the same name twice
      {"{" T("F32", "[2]", "[8,0]") "}", 8},
      {"{" T("F32", "[2]", "[-8,0]") "}", 8},
      {"{" T("F32", "[-2]", "[0,8]") "}", 8},
      {"{" T("F32", "[2.0]", "[0,8]") "}", 8},
      {"{" T("F32", "[\"2\"]", "[0,8]") "}", 8},
      {"{" T("F32", "2", "[0,8]") "}", 8},
      {"{" T("F32", "[2]", "[0]") "}", 8},
      {"{" T("F32", "[2]", "[0,8,8]") "}", 8},
      {"{" T("F32", "[2]", "{}") "}", 8},
      {"{" T("F32", "[4611686018427387904,4]", "[0,0]") "}", 0}, // 2^62 * 4 * 4 overflows to 0
      {"{" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0},
      {"{" T("F32", "[99999999999999999999]", "[0,8]") "}", 8},
      {"{" T("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1}, // nine axes
      {"{" T("F31", "[2]", "[0,8]") "}", 8},
      {"{\"t\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
      {"{\"t\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
      {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"extra\":1}}", 8},
      {"{\"t\":[]}", 0},
      {"{\"__metadata__\":[]}", 0},
      {"{\"__metadata__\":{\"a\":1}}", 0},
      {"{\"__metadata__\":{\"perigee.crc32\":\"zzzzzzzz\"}}", 0},
      {"{\"__metadata__\":{\"perigee.crc32\":\"00000001\"}}", 0},
      {"{\"__metadata__\":{\"perigee.dtype:t\":\"key\"}," T("I64", "[3]", "[0,24]") "}", 24},
      {"{\"__metadata__\":{\"perigee.dtype:t\":\"key\"}," T("F64", "[2]", "[0,16]") "}", 16},
      {"{\"__metadata__\":{\"perigee.dtype:t\":\"cat\"}," T("I64", "[2]", "[0,16]") "}", 16},
      {"{" T("BF16", "[2]", "[0,4]") "}", 4}, // well formed, but not a dtype of ours
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const char *path = write_header(bad[i].json, bad[i].data);
    CHECK_THAT(load_all(path) != PG_OK, "accepted: %s", bad[i].json);
    CHECK_THAT(strstr(pg_last_error(), path) == pg_last_error(), "%s: message '%s'", bad[i].json, pg_last_error());
  }
  CHECK_STATUS(load_all(write_header("{}   ", 0)), PG_OK);
  CHECK_STATUS(load_all(write_header("{" T("U8", "[4]", "[4,8]") "," U("[0,4]") "}", 8)), PG_OK); // any order of names
#undef T
#undef U
}

static void safetensors_refuse_headers_longer_than_the_file(void) {
  static const uint64_t lengths[] = {1, 100, 100000001, (uint64_t)1 << 62, UINT64_MAX, UINT64_MAX - 7};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    const char *path = scratch_write("long", &lengths[i], 8);
    CHECK_REFUSED(load_all(path), path);
  }
  const char *path = scratch_write("long", "", 0);
  CHECK_REFUSED(load_all(path), path);
}

static void safetensors_writer_refuses_what_it_cannot_name(void) {
  pg_tensor *t = random_tensor(PG_F32, 0, NULL);
  const char *path = scratch_path("never");
  pg_named_tensor twice[] = {{"a", t}, {"a", t}}, reserved[] = {{"__metadata__", t}}, broken[] = {{"\xff", t}};
  pg_string_pair ours[] = {{"perigee.crc32", "0"}}, bytes[] = {{"a", "\xff"}};
  CHECK_REFUSED(pg_safetensors_write(path, 2, twice, 0, NULL), path);
  CHECK_REFUSED(pg_safetensors_write(path, 1, reserved, 0, NULL), path);
  CHECK_REFUSED(pg_safetensors_write(path, 1, broken, 0, NULL), path);
  CHECK_REFUSED(pg_safetensors_write(path, 1, twice, 1, ours), path);
  CHECK_REFUSED(pg_safetensors_write(path, 1, twice, 1, bytes), path);
  CHECK(access(path, F_OK) != 0);
  pg_tensor_release(t);
}

static void safetensors_of_other_programs_load(void) {
  static const struct {
    const char *path, *name;
    pg_dtype dtype;
    int64_t size;
  } files[] = {{"../shared/data/models/mnist_mlp_784_128_10.safetensors", "l1.weight", PG_F32, 128 * 784},
               {"../shared/data/models/tiny_mlp_10_20_10.safetensors", "fc2.bias", PG_F32, 10},
               {"../shared/data/models/int64_codes.safetensors", "codes", PG_I64, 2 * 828}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    if (access(files[i].path, R_OK)) CHECK_SKIP("%s is not here", files[i].path);
    pg_safetensors *s;
    pg_tensor *t;
    CHECK_STATUS(pg_safetensors_open(files[i].path, &s), PG_OK);
    CHECK_STATUS(pg_safetensors_verify(s), PG_OK);
    CHECK_STATUS(pg_safetensors_load(s, pg_safetensors_find(s, files[i].name), &t), PG_OK);
    CHECK(pg_tensor_dtype(t) == files[i].dtype && pg_tensor_size(t) == files[i].size);
    pg_tensor_release(t);
    pg_safetensors_close(s);
  }
}

// ---- npy
// -------------------------------------------------------------------------------------------------------------

static void npy_round_trips_to_the_bit(void) {
  static const pg_dtype dtypes[] = {PG_F32, PG_F64, PG_I32, PG_I64, PG_U8, PG_BOOL};
  static const struct {
    int ndim;
    int64_t shape[PG_MAX_NDIM];
  } shapes[] = {{0, {0}}, {1, {0}}, {1, {5}}, {2, {3, 4}}, {3, {2, 0, 3}}, {8, {1, 2, 1, 2, 1, 2, 1, 2}}};
  for (int d = 0; d < 6; d++)
    for (int k = 0; k < 6; k++) {
      pg_tensor *t = random_tensor(dtypes[d], shapes[k].ndim, shapes[k].shape), *back;
      const char *path = scratch_path("a.npy");
      CHECK_STATUS(pg_npy_write(path, t), PG_OK);
      CHECK_STATUS(pg_npy_read(path, &back), PG_OK);
      CHECK(same_tensor(t, back));
      pg_tensor_release(t);
      pg_tensor_release(back);
    }
  pg_tensor *key = random_tensor(PG_KEY, 0, NULL);
  CHECK_STATUS(pg_npy_write(scratch_path("key.npy"), key), PG_ERR_DTYPE);
  pg_tensor_release(key);
}

static const char *write_npy(int version, const char *header, const void *data, size_t n) {
  static uint8_t bytes[65536];
  size_t length = strlen(header), at = version == 1 ? 10 : 12;
  memcpy(bytes, "\x93NUMPY", 6);
  bytes[6] = (uint8_t)version;
  bytes[7] = 0;
  for (size_t i = 8; i < at; i++) bytes[i] = (uint8_t)(length >> 8 * (i - 8));
  memcpy(bytes + at, header, length);
  if (n) memcpy(bytes + at + length, data, n);
  return scratch_write("made.npy", bytes, at + length + n);
}

static void npy_reads_fortran_order_and_all_versions(void) {
  uint8_t data[24];
  for (int i = 0; i < 24; i++) data[i] = (uint8_t)i;
  for (int version = 1; version <= 3; version++) {
    pg_tensor *t;
    const char *header = "{\"shape\": (2, 3, 4), 'fortran_order': True, 'descr': '|u1'}    \n";
    CHECK_STATUS(pg_npy_read(write_npy(version, header, data, 24), &t), PG_OK);
    const uint8_t *p = pg_tensor_data(t);
    for (int i = 0; i < 2; i++)
      for (int j = 0; j < 3; j++)
        for (int k = 0; k < 4; k++) CHECK(p[(i * 3 + j) * 4 + k] == i + 2 * j + 6 * k);
    pg_tensor_release(t);
  }
}

static void npy_refuses_lying_headers(void) {
  static const char *const bad[] = {"",
                                    "{}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), ",
                                    "{'descr': '<f4', 'shape': (4,)}",
                                    "{'descr': '<f4', 'fortran_order': 0, 'shape': (4,)}",
                                    "{'descr': '>f4', 'fortran_order': False, 'shape': (4,)}",
                                    "{'descr': '<f2', 'fortran_order': False, 'shape': (8,)}",
                                    "{'descr': '|O8', 'fortran_order': False, 'shape': (2,)}",
                                    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (-4,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,4)}",
                                    "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (4,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4,)} x",
                                    "{'descr': '<f4",
                                    "{'descr': '|b1', 'fortran_order': False, 'shape': (16,)}",
                                    "{'descr': '<f4' 'fortran_order': False, 'shape': (4,)}",
                                    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"};
  uint8_t data[16];
  memset(data, 7, sizeof data);
  pg_tensor *t;
  pg_memory_limit(pg_memory_used() + (1 << 20)); // a tensor of the promised size would be PG_ERR_MEMORY
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const char *path = write_npy(1, bad[i], data, sizeof data);
    pg_status status = pg_npy_read(path, &t);
    CHECK_THAT(status == PG_ERR_FORMAT || status == PG_ERR_UNSUPPORTED, "%s: %d %s", bad[i], status, pg_last_error());
    CHECK_THAT(strstr(pg_last_error(), path) == pg_last_error(), "message '%s'", pg_last_error());
  }
  pg_memory_limit(0);
  CHECK_STATUS(pg_npy_read(write_npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}", data, 16), &t),
               PG_OK);
  pg_tensor_release(t);
}

static void npy_refuses_every_truncation_and_survives_flips(void) {
  pg_tensor *t = random_tensor(PG_F64, 2, (int64_t[]){3, 2}), *back;
  const char *path = scratch_path("whole.npy");
  CHECK_STATUS(pg_npy_write(path, t), PG_OK);
  size_t n;
  uint8_t *bytes = scratch_read(path, &n);
  CHECK((n - 48) % 64 == 0);
  for (size_t k = 0; k < n; k++) {
    const char *cut = scratch_write("cut.npy", bytes, k);
    CHECK_REFUSED(pg_npy_read(cut, &back), cut);
  }
  for (int i = 0; i < 3000; i++) {
    size_t at = scratch_random() % (n - 48);
    uint8_t was = bytes[at];
    bytes[at] ^= (uint8_t)(1 + scratch_random() % 255);
    const char *flipped = scratch_write("flip.npy", bytes, n);
    bytes[at] = was;
    if (pg_npy_read(flipped, &back) != PG_OK) {
      CHECK_THAT(strstr(pg_last_error(), flipped) == pg_last_error(), "message '%s'", pg_last_error());
      continue;
    }
    CHECK(pg_tensor_bytes(back) == 48); // e.g. <f8 became <i8
    pg_tensor_release(back);
  }
  free(bytes);
  pg_tensor_release(t);
}

int main(void) {
  scratch_begin();
  CHECK_RUN(streams_read_plain_gzip_and_xz_alike);
  CHECK_RUN(streams_join_members_and_refuse_what_follows_them);
  CHECK_RUN(streams_refuse_damaged_compression);
  CHECK_RUN(streams_stop_bombs_at_the_limit);
  CHECK_RUN(streams_refuse_what_is_not_a_file);
  CHECK_RUN(atomic_files_are_whole_or_not_there);
  CHECK_RUN(atomic_writes_fail_without_traces);
  CHECK_RUN(atomic_names_may_be_as_long_as_the_system_allows);
  CHECK_RUN(atomic_writes_leave_the_old_file_when_the_disk_is_full);
  CHECK_RUN(numbers_parse_to_the_nearest_double);
  CHECK_RUN(numbers_stop_at_the_end_they_are_given);
  CHECK_RUN(what_is_no_number_is_refused);
  CHECK_RUN(messages_hold_no_control_characters);
  CHECK_RUN(json_numbers_read_back_to_the_bit);
  CHECK_RUN(json_refuses_duplicates_depth_and_rests);
  CHECK_RUN(sha256_agrees_with_the_standard);
  CHECK_RUN(safetensors_round_trip_to_the_bit);
  CHECK_RUN(safetensors_data_are_aligned_and_in_the_order_given);
  CHECK_RUN(safetensors_refuse_every_truncation_and_every_flip_of_data);
  CHECK_RUN(safetensors_survive_flips_of_the_header);
  CHECK_RUN(safetensors_refuse_lying_headers);
  CHECK_RUN(safetensors_refuse_headers_longer_than_the_file);
  CHECK_RUN(safetensors_writer_refuses_what_it_cannot_name);
  CHECK_RUN(safetensors_of_other_programs_load);
  CHECK_RUN(npy_round_trips_to_the_bit);
  CHECK_RUN(npy_reads_fortran_order_and_all_versions);
  CHECK_RUN(npy_refuses_lying_headers);
  CHECK_RUN(npy_refuses_every_truncation_and_survives_flips);
  scratch_end();
  return check_result();
}
