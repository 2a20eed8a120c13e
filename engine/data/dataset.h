// dataset.h: data in memory: named fields with one row per example. A field is a dense tensor [n, ...] or, where that
// would be far larger than the file, a sparse matrix in compressed rows.
#ifndef PG_DATA_DATASET_H
#define PG_DATA_DATASET_H

#include "engine/perigee.h"

// Row i holds the entries start[i] … start[i+1]-1: column numbers (increasing, from 0) and values.
typedef struct pg_sparse {
  int64_t rows, columns;
  int64_t *start; // [rows + 1]
  int32_t *column;
  double *value;
  int references;
} pg_sparse;

// All parts zero, with room for `entries`; one reference. Counted as tensor memory.
pg_status pg_sparse_new(int64_t rows, int64_t columns, int64_t entries, pg_sparse **out);
pg_sparse *pg_sparse_retain(pg_sparse *s);
void pg_sparse_release(pg_sparse *s); // NULL is allowed

typedef struct pg_field {
  char *name;
  pg_tensor *dense; // exactly one of the two
  pg_sparse *sparse;
} pg_field;

typedef struct pg_dataset pg_dataset;

pg_status pg_dataset_new(pg_dataset **out);
void pg_dataset_free(pg_dataset *d); // NULL is allowed
// Add a field; takes a reference of its own. Its first axis must equal that of the fields before.
pg_status pg_dataset_add(pg_dataset *d, const char *name, pg_tensor *dense);
pg_status pg_dataset_add_sparse(pg_dataset *d, const char *name, pg_sparse *sparse);
int64_t pg_dataset_rows(const pg_dataset *d); // 0 without fields
int pg_dataset_count(const pg_dataset *d);
const pg_field *pg_dataset_at(const pg_dataset *d, int i);
const pg_field *pg_dataset_find(const pg_dataset *d, const char *name); // NULL if absent

// ---- files ----
//
// All may be plain, gzip or xz. What a file claims is checked against what it holds before memory is taken for it.

// IDX (MNIST): u8 stays u8; i8, i16, i32 become i32; f32 and f64 stay.
pg_status pg_idx_read(const char *path, pg_tensor **out);

typedef struct pg_libsvm_options {
  pg_dtype dtype;     // of x: PG_F32 or PG_F64
  int64_t dims;       // columns; 0: the largest index in the file
  bool bias;          // append a column of ones
  bool dense;         // dense whatever the size
  size_t dense_limit; // bytes up to which x may be dense; 0: 1 GiB
} pg_libsvm_options;

// LIBSVM text, "label index:value … # comment", indices from 1 and increasing. Fields "x" [n, dims] and "y" f64 [n],
// the labels as they stand. x is sparse where a dense one exceeds the limit or 64 times the file's content (and 4 MiB).
pg_status pg_libsvm_read(const char *path, const pg_libsvm_options *options, pg_dataset **out);

typedef enum pg_csv_header { PG_CSV_AUTO, PG_CSV_HEADER, PG_CSV_NO_HEADER } pg_csv_header;

typedef struct pg_csv_options {
  pg_dtype dtype;       // of the table: PG_F32 or PG_F64
  char delimiter;       // 0: ','; ' ' means runs of spaces and tabs
  pg_csv_header header; // AUTO: the first line is a header if one of its fields is not a number
  int64_t skip;         // lines ignored at the start
} pg_csv_options;

// A table of numbers → [rows, columns]. names: a new array of `columns` new strings in one block (pg_free), NULL
// without a header; may itself be NULL if not wanted.
pg_status pg_csv_read(const char *path, const pg_csv_options *options, pg_tensor **out, char ***names);

#endif
