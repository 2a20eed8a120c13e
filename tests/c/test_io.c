// test_io.c: streams, atomic files, text, JSON and hashes; damaged and lying files must be refused with a message
// naming the file and never crash (run it under the sanitizers).
#include <lzma.h>
#include <signal.h>
#include <sys/resource.h>
#include <zlib.h>

#include "engine/core/memory.h"
#include "engine/io/atomic.h"
#include "engine/io/json.h"
#include "engine/core/sha256.h"
#include "engine/io/stream.h"
#include "engine/io/text.h"
#include "tests/c/scratch.h"

// ---- streams ----

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

// ---- atomic files ----

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

// ---- text ----

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
  scratch_end();
  return check_result();
}
