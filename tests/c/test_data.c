// test_data.c: IDX, LIBSVM and CSV files: real data sets against known facts, generated files against what went in,
// damaged and lying files against refusal with a message naming the file.
#include "engine/core/memory.h"
#include "engine/data/batch.h"
#include "engine/data/dataset.h"
#include "engine/core/sha256.h"
#include "engine/io/stream.h"
#include "tests/c/scratch.h"

#define FASHION "/usr/share/datasets/fashion-mnist/"
#define SHARED "../shared/data/"

static void need(const char *path) {
  if (access(path, R_OK)) CHECK_SKIP("%s is not here", path);
}

// ---- IDX ----

static void idx_reads_all_types_as_big_endian(void) {
  static const struct {
    uint8_t type, bytes[16];
    size_t n;
    pg_dtype dtype;
    double first, second;
  } cases[] = {
      {0x08, {7, 255}, 2, PG_U8, 7, 255},
      {0x09, {0x80, 0x7f}, 2, PG_I32, -128, 127},
      {0x0B, {0xff, 0xfe, 0x12, 0x34}, 4, PG_I32, -2, 0x1234},
      {0x0C, {0xff, 0xff, 0xff, 0xfd, 0x01, 0x02, 0x03, 0x04}, 8, PG_I32, -3, 0x01020304},
      {0x0D, {0x3f, 0xc0, 0, 0, 0xc0, 0, 0, 0}, 8, PG_F32, 1.5, -2},
      {0x0E, {0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0}, 16, PG_F64, 1.5, -2},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint8_t file[64] = {0, 0, cases[i].type, 2, 0, 0, 0, 2, 0, 0, 0, 1};
    memcpy(file + 12, cases[i].bytes, cases[i].n);
    pg_tensor *t, *as_f64;
    CHECK_STATUS(pg_idx_read(scratch_write("a.idx", file, 12 + cases[i].n), &t), PG_OK);
    CHECK(pg_tensor_dtype(t) == cases[i].dtype && pg_tensor_ndim(t) == 2);
    CHECK(pg_tensor_shape(t)[0] == 2 && pg_tensor_shape(t)[1] == 1);
    CHECK_STATUS(pg_tensor_new(PG_F64, 2, (int64_t[]){2, 1}, NULL, &as_f64), PG_OK);
    CHECK_STATUS(pg_gather_rows(t, (int64_t[]){0, 1}, 2, 1, 0, as_f64), PG_OK);
    const double *x = pg_tensor_data(as_f64);
    CHECK_THAT(x[0] == cases[i].first && x[1] == cases[i].second, "type %02x: %g %g", cases[i].type, x[0], x[1]);
    pg_tensor_release(t);
    pg_tensor_release(as_f64);
  }
}

static void idx_refuses_lies(void) {
  static const struct {
    const char *why;
    uint8_t bytes[40];
    size_t n;
  } bad[] = {
      {"empty", {0}, 0},
      {"magic", {1, 0, 8, 1, 0, 0, 0, 1, 5}, 9},
      {"type 0a", {0, 0, 0x0a, 1, 0, 0, 0, 1, 5}, 9},
      {"no axes", {0, 0, 8, 0}, 4},
      {"nine axes", {0, 0, 8, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}, 40},
      {"short", {0, 0, 8, 1, 0, 0, 0, 3, 1, 2}, 10},
      {"long", {0, 0, 8, 1, 0, 0, 0, 1, 1, 2}, 10},
      {"4 GiB promised", {0, 0, 8, 1, 255, 255, 255, 255, 1, 2}, 10},
      {"2^64 promised", {0, 0, 8, 2, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2}, 14},
      {"overflow to 0", {0, 0, 8, 3, 128, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 4}, 16},
  };
  pg_tensor *t;
  pg_memory_limit(pg_memory_used() + (1 << 20)); // a tensor of the promised size would be PG_ERR_MEMORY
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const char *path = scratch_write("bad.idx", bad[i].bytes, bad[i].n);
    CHECK_THAT(pg_idx_read(path, &t) == PG_ERR_FORMAT, "%s: %s", bad[i].why, pg_last_error());
    CHECK_THAT(strstr(pg_last_error(), path) == pg_last_error(), "message '%s'", pg_last_error());
    CHECK(strstr(pg_last_error(), "byte "));
  }
  pg_memory_limit(0);
}

static void idx_refuses_every_truncation_and_survives_flips(void) {
  uint8_t file[16 + 24] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4};
  pg_tensor *t;
  for (size_t k = 0; k < sizeof file; k++) {
    const char *path = scratch_write("cut.idx", file, k);
    CHECK_REFUSED(pg_idx_read(path, &t), path);
  }
  for (int i = 0; i < 2000; i++) {
    size_t at = scratch_random() % 16;
    uint8_t was = file[at];
    file[at] ^= (uint8_t)(1 + scratch_random() % 255);
    const char *path = scratch_write("flip.idx", file, sizeof file);
    file[at] = was;
    if (pg_idx_read(path, &t) == PG_OK) {
      CHECK_THAT(at == 2 && pg_tensor_size(t) == 24, "flip at %zu", at); // u8 to i8 only
      pg_tensor_release(t);
    } else {
      CHECK(strstr(pg_last_error(), path) == pg_last_error());
    }
  }
}

static void fashion_mnist_is_what_it_is_known_to_be(void) {
  static const struct {
    const char *path, *sha256;
    int ndim;
    int64_t n;
  } files[] = {{FASHION "train-images-idx3-ubyte.gz",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 3, 60000},
               {FASHION "train-labels-idx1-ubyte.gz",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 1, 60000},
               {FASHION "t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                3, 10000},
               {FASHION "t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                1, 10000}};
  for (int i = 0; i < 4; i++) {
    need(files[i].path);
    uint8_t *content, digest[32];
    char hex[65];
    size_t n;
    pg_tensor *t;
    pg_sha256 s;
    CHECK_STATUS(pg_read_file(files[i].path, &content, &n), PG_OK);
    pg_sha256_begin(&s);
    pg_sha256_add(&s, content, n);
    pg_sha256_end(&s, digest);
    pg_sha256_hex(digest, hex);
    CHECK_THAT(!strcmp(hex, files[i].sha256), "%s", hex);
    CHECK_STATUS(pg_idx_read(files[i].path, &t), PG_OK);
    CHECK(pg_tensor_ndim(t) == files[i].ndim && pg_tensor_shape(t)[0] == files[i].n);
    CHECK(!memcmp(pg_tensor_data(t), content + n - pg_tensor_bytes(t), pg_tensor_bytes(t)));
    int counts[10] = {0};
    if (files[i].ndim == 1)
      for (int64_t k = 0; k < files[i].n; k++) counts[((uint8_t *)pg_tensor_data(t))[k]]++;
    for (int c = 0; files[i].ndim == 1 && c < 10; c++) CHECK(counts[c] == files[i].n / 10);
    pg_tensor_release(t);
    pg_free(content);
  }
}

// ---- LIBSVM ----

static const pg_libsvm_options F64 = {.dtype = PG_F64};

static pg_status read_svm_text(const char *text, const pg_libsvm_options *o, pg_dataset **d) {
  return pg_libsvm_read(scratch_write("a.svm", text, strlen(text)), o, d);
}

static void check_f64(const pg_tensor *t, const double *expected, int64_t n) {
  CHECK(pg_tensor_dtype(t) == PG_F64 && pg_tensor_size(t) == n);
  for (int64_t i = 0; i < n; i++) CHECK_NEAR(((double *)pg_tensor_data(t))[i], expected[i], 0);
}

static void libsvm_reads_what_is_written(void) {
  pg_dataset *d;
  const char *text = "# a comment\n+1 1:0.5 3:-2e1 # rest\n\n -1\t2:7 \r\n0.25\n3 3:1"; // no line feed at the end
  CHECK_STATUS(read_svm_text(text, &F64, &d), PG_OK);
  check_f64(pg_dataset_find(d, "x")->dense, (double[]){0.5, 0, -20, 0, 7, 0, 0, 0, 0, 0, 0, 1}, 12);
  check_f64(pg_dataset_find(d, "y")->dense, (double[]){1, -1, 0.25, 3}, 4);
  CHECK(pg_dataset_rows(d) == 4 && pg_dataset_count(d) == 2 && !pg_dataset_find(d, "z"));
  pg_dataset_free(d);
  pg_libsvm_options o = {.dtype = PG_F64, .dims = 4, .bias = true};
  CHECK_STATUS(read_svm_text("1 2:3\n2 4:5\n", &o, &d), PG_OK);
  check_f64(pg_dataset_find(d, "x")->dense, (double[]){0, 3, 0, 0, 1, 0, 0, 0, 5, 1}, 10);
  pg_dataset_free(d);
}

static void libsvm_refuses_bad_lines_by_line_and_column(void) {
  static const struct {
    const char *text, *where;
  } bad[] = {{"", "line "},
             {"# only a comment\n", "line "},
             {"1 1:1\nx 1:1\n", "line 2, column 1"},
             {"1 1:1\n1,2 1:1\n", "line 2, column 1"},
             {"1 0:1\n", "line 1, column 3"},
             {"1 -1:1\n", "line 1, column 3"},
             {"1 2:1 2:3\n", "line 1, column 7"},
             {"1 2:1 1:3\n", "line 1, column 7"},
             {"1 1:\n", "line 1, column 5"},
             {"1 1: 2\n", "line 1, column 5"},
             {"1 1:nan\n", "line 1, column 5"},
             {"1 1:1e999\n", "line 1, column 5"},
             {"1 1:1x\n", "line 1, column 5"},
             {"1 1:1:1\n", "line 1, column 5"},
             {"1 1\n", "line 1, column 3"},
             {"1 a:1\n", "line 1, column 3"},
             {"1 qid:3 1:1\n", "qid"},
             {"1 2147483648:1\n", "line 1, column 3"},
             {"1 99999999999999999999999:1\n", "line 1, column 3"},
             {"1 5:1\n", "line 1, column 3"}, // beyond the dims given
             {"1 1.5:1\n", "line 1, column 3"}};
  pg_libsvm_options o = {.dtype = PG_F32, .dims = 4};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    pg_dataset *d;
    CHECK_REFUSED(read_svm_text(bad[i].text, &o, &d), scratch_directory);
    CHECK_THAT(strstr(pg_last_error(), bad[i].where), "'%s' gave '%s'", bad[i].text, pg_last_error());
    CHECK(!d);
  }
}

static void libsvm_stays_sparse_where_dense_would_be_out_of_proportion(void) {
  pg_dataset *d;
  pg_memory_limit(pg_memory_used() + (8 << 20));
  CHECK_STATUS(read_svm_text("1 2000000000:5 2147483647:3\n-1 7:1\n", &F64, &d), PG_OK);
  const pg_sparse *x = pg_dataset_find(d, "x")->sparse;
  CHECK(x && x->rows == 2 && x->columns == 2147483647 && x->start[2] == 3 && x->column[0] == 1999999999);
  CHECK(x->value[1] == 3 && x->start[1] == 2);
  pg_dataset_free(d);
  pg_memory_limit(0);
  pg_libsvm_options o = {.dtype = PG_F64, .dense_limit = 64};
  CHECK_STATUS(read_svm_text("1 8:1\n", &o, &d), PG_OK); // 64 bytes: dense
  CHECK(pg_dataset_find(d, "x")->dense);
  pg_dataset_free(d);
  CHECK_STATUS(read_svm_text("1 9:1\n", &o, &d), PG_OK); // 72 bytes: sparse
  CHECK(pg_dataset_find(d, "x")->sparse);
  pg_dataset_free(d);
}

// Cut anywhere, a text file is either refused or the beginning of what it was.
static void libsvm_survives_truncation_and_flips(void) {
  const char *text = "+1 1:0.5 3:-2e1\n-1 2:7 4:0.125\n+1 1:1 2:2 3:3 4:4\n";
  char copy[64];
  size_t n = strlen(text);
  for (size_t k = 0; k <= n; k++) {
    pg_dataset *d;
    const char *path = scratch_write("cut.svm", text, k);
    if (pg_libsvm_read(path, &F64, &d) == PG_OK) {
      CHECK(pg_dataset_rows(d) <= 3 && ((double *)pg_tensor_data(pg_dataset_find(d, "y")->dense))[0] == 1);
      pg_dataset_free(d);
    } else {
      CHECK(strstr(pg_last_error(), path) == pg_last_error());
    }
  }
  for (int i = 0; i < 3000; i++) {
    pg_dataset *d;
    memcpy(copy, text, n);
    copy[scratch_random() % n] = (char)scratch_random();
    const char *path = scratch_write("flip.svm", copy, n);
    if (pg_libsvm_read(path, &F64, &d) == PG_OK) {
      pg_dataset_free(d);
    } else {
      CHECK(strstr(pg_last_error(), path) == pg_last_error());
    }
  }
}

static void libsvm_real_files_have_the_known_counts(void) {
  static const struct {
    const char *path;
    int64_t rows, columns, entries, first_label; // -1: not compared
    double label;
  } files[] = {{SHARED "libsvm/a9a.xz", 32561, 123, 451592, 7841, 1},
               {SHARED "libsvm/a9a.t.xz", 16281, 122, 225731, 3846, 1},
               {SHARED "libsvm/w8a.xz", 49749, 300, 579586, 1479, 1},
               {SHARED "libsvm/mushrooms.xz", 8124, 112, 170604, 3916, 1},
               {SHARED "libsvm/news20.xz", 15935, 62061, 1272569, -1, 0},
               {SHARED "libsvm/phishing.xz", 11055, 68, 331650, 6157, 1},
               {SHARED "libsvm/diabetes.xz", 768, 8, 6144, 500, 1},
               {SHARED "libsvm/svmguide1.xz", 7089, 4, 28356, 4000, 1},
               {SHARED "libsvm/german.numer_scale.xz", 1000, 24, 23001, 300, 1},
               {SHARED "libsvm/agaricus.txt.test.xz", 1611, 126, 35442, -1, 0}};
  pg_libsvm_options o = {.dtype = PG_F32, .dense_limit = 1};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    need(files[i].path);
    pg_dataset *d;
    CHECK_STATUS(pg_libsvm_read(files[i].path, &o, &d), PG_OK);
    const pg_sparse *x = pg_dataset_find(d, "x")->sparse;
    int64_t n = 0;
    CHECK(x && x->rows == pg_dataset_rows(d));
    CHECK_THAT(x->rows == files[i].rows && x->columns == files[i].columns && x->start[x->rows] == files[i].entries,
               "%s: %lld x %lld, %lld entries", files[i].path, (long long)x->rows, (long long)x->columns,
               (long long)x->start[x->rows]);
    const double *y = pg_tensor_data(pg_dataset_find(d, "y")->dense);
    for (int64_t k = 0; k < files[i].rows; k++) n += y[k] == files[i].label;
    CHECK_THAT(files[i].first_label < 0 || n == files[i].first_label, "%s: %lld", files[i].path, (long long)n);
    pg_dataset_free(d);
  }
}

// ---- CSV ----

static pg_status read_csv_text(const char *text, pg_csv_options o, pg_tensor **t, char ***names) {
  return pg_csv_read(scratch_write("a.csv", text, strlen(text)), &o, t, names);
}

static void csv_reads_tables_headers_and_quotes(void) {
  pg_tensor *t;
  char **names;
  CHECK_STATUS(read_csv_text("a,\"b \"\"x\"\",\ny\" , c\r\n1, 2.5,-3e2\r\n\n\"4\",5 ,6",
                             (pg_csv_options){.dtype = PG_F64}, &t, &names),
               PG_OK);
  check_f64(t, (double[]){1, 2.5, -300, 4, 5, 6}, 6);
  CHECK(!strcmp(names[0], "a") && !strcmp(names[1], "b \"x\",\ny") && !strcmp(names[2], "c"));
  pg_tensor_release(t);
  pg_free(names);
  CHECK_STATUS(read_csv_text("1,2\n3,4\n", (pg_csv_options){.dtype = PG_F64}, &t, &names), PG_OK);
  CHECK(!names && pg_tensor_shape(t)[0] == 2);
  pg_tensor_release(t);
  CHECK_STATUS(read_csv_text("1,2\n3,4\n", (pg_csv_options){.dtype = PG_F64, .header = PG_CSV_HEADER}, &t, &names),
               PG_OK);
  CHECK(!strcmp(names[1], "2") && pg_tensor_shape(t)[0] == 1);
  pg_tensor_release(t);
  pg_free(names);
  CHECK_STATUS(read_csv_text("  1   2\t3 \n4 5 6\n", (pg_csv_options){.dtype = PG_F64, .delimiter = ' '}, &t, NULL),
               PG_OK);
  check_f64(t, (double[]){1, 2, 3, 4, 5, 6}, 6);
  pg_tensor_release(t);
  CHECK_STATUS(read_csv_text("1\t2\n", (pg_csv_options){.dtype = PG_F64, .delimiter = '\t'}, &t, NULL), PG_OK);
  check_f64(t, (double[]){1, 2}, 2);
  pg_tensor_release(t);
  CHECK_STATUS(
      read_csv_text("what,ever\n1;2\n", (pg_csv_options){.dtype = PG_F64, .delimiter = ';', .skip = 1}, &t, NULL),
      PG_OK);
  check_f64(t, (double[]){1, 2}, 2);
  pg_tensor_release(t);
}

static void csv_refuses_bad_tables_by_line_and_field(void) {
  static const struct {
    const char *text, *where;
    pg_csv_header header;
  } bad[] = {{"", "line 1", PG_CSV_AUTO},
             {"a,b\n", "line", PG_CSV_AUTO},
             {"1,2\n3\n", "line 2: found 1 fields, expected 2", PG_CSV_AUTO},
             {"1,2\n3,4,5\n", "line 2: found 3 fields, expected 2", PG_CSV_AUTO},
             {"a,b\n1,2,3\n", "line 2: found 3 fields, expected 2 as in the header", PG_CSV_AUTO},
             {"1,2\n3,x\n", "line 2, column 3, field 2: expected a finite number, found 'x'", PG_CSV_AUTO},
             {"1,2\n3,\n", "line 2, column 3, field 2", PG_CSV_AUTO},
             {"1,2\n3,nan\n", "field 2", PG_CSV_AUTO},
             {"1,2\n3,1e999\n", "field 2", PG_CSV_AUTO},
             {"1,2\n3,4 5\n", "field 2", PG_CSV_AUTO},
             {"1,2\n3,\"4\n", "line 2, column 3", PG_CSV_AUTO},
             {"1,2\n\"3\"x,4\n", "line 2, column 1, field 1", PG_CSV_AUTO},
             {"1,\"a\nb\"\n2,x\n", "line 1, column 3, field 2", PG_CSV_NO_HEADER},
             {"q,\"a\nb\"\n2,x\n", "line 3, column 3, field 2", PG_CSV_HEADER},
             {"x,y\n1,2\n", "line 1, column 1, field 1", PG_CSV_NO_HEADER}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    pg_tensor *t;
    char **names;
    CHECK_REFUSED(read_csv_text(bad[i].text, (pg_csv_options){.dtype = PG_F32, .header = bad[i].header}, &t, &names),
                  scratch_directory);
    CHECK_THAT(strstr(pg_last_error(), bad[i].where), "'%s' gave '%s'", bad[i].text, pg_last_error());
    CHECK(!t && !names);
  }
}

static void csv_survives_truncation_and_flips(void) {
  const char *text = "alpha,\"be\"\"ta\"\n1,2.5\n\"3\",-4e-1\n5,6\n";
  char copy[64];
  size_t n = strlen(text);
  for (int i = 0; i < 4000; i++) {
    pg_tensor *t;
    char **names;
    memcpy(copy, text, n);
    bool cut = i <= (int)n;
    if (!cut) copy[scratch_random() % n] = (char)scratch_random();
    const char *path = scratch_write("flip.csv", copy, cut ? (size_t)i : n);
    if (pg_csv_read(path, &(pg_csv_options){.dtype = PG_F64, .delimiter = i % 3 ? ',' : ' '}, &t, &names) == PG_OK) {
      CHECK(pg_tensor_size(t) <= 16);
      pg_tensor_release(t);
      pg_free(names);
    } else {
      CHECK(strstr(pg_last_error(), path) == pg_last_error());
    }
  }
}

static void csv_real_files_load(void) {
  static const struct {
    const char *path;
    pg_csv_options options;
    int64_t rows, columns;
    double first, last;
  } files[] = {{SHARED "sklearn/iris.csv", {PG_F64, 0, PG_CSV_AUTO, 0}, 150, 5, 5.1, 2},
               {SHARED "sklearn/breast_cancer.csv", {PG_F64, 0, PG_CSV_AUTO, 1}, 569, 31, 17.99, 1},
               {SHARED "sklearn/digits.csv.gz", {PG_F64, 0, PG_CSV_AUTO, 0}, 1797, 65, 0, 8},
               {SHARED "sklearn/diabetes_data_raw.csv.gz", {PG_F64, ' ', PG_CSV_AUTO, 0}, 442, 10, 59, 92},
               {SHARED "usps/zip.test.gz", {PG_F64, ' ', PG_CSV_AUTO, 0}, 2007, 257, 9, -1}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    need(files[i].path);
    pg_tensor *t;
    CHECK_STATUS(pg_csv_read(files[i].path, &files[i].options, &t, NULL), PG_OK);
    const double *x = pg_tensor_data(t);
    CHECK_THAT(pg_tensor_shape(t)[0] == files[i].rows && pg_tensor_shape(t)[1] == files[i].columns, "%s",
               files[i].path);
    CHECK_NEAR(x[0], files[i].first, 0);
    CHECK_NEAR(x[pg_tensor_size(t) - 1], files[i].last, 0);
    pg_tensor_release(t);
  }
}

int main(void) {
  scratch_begin();
  CHECK_RUN(idx_reads_all_types_as_big_endian);
  CHECK_RUN(idx_refuses_lies);
  CHECK_RUN(idx_refuses_every_truncation_and_survives_flips);
  CHECK_RUN(fashion_mnist_is_what_it_is_known_to_be);
  CHECK_RUN(libsvm_reads_what_is_written);
  CHECK_RUN(libsvm_refuses_bad_lines_by_line_and_column);
  CHECK_RUN(libsvm_stays_sparse_where_dense_would_be_out_of_proportion);
  CHECK_RUN(libsvm_survives_truncation_and_flips);
  CHECK_RUN(libsvm_real_files_have_the_known_counts);
  CHECK_RUN(csv_reads_tables_headers_and_quotes);
  CHECK_RUN(csv_refuses_bad_tables_by_line_and_field);
  CHECK_RUN(csv_survives_truncation_and_flips);
  CHECK_RUN(csv_real_files_load);
  scratch_end();
  return check_result();
}
