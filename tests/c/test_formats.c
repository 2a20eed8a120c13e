// test_formats.c: safetensors and npy: round trips to the bit, files of other programs, and damaged or lying files,
// which must be refused with a message naming the file and never crash (run it under the sanitizers).
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "tests/c/scratch.h"

// ---- safetensors ----

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

// ---- npy ----

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
