// dataset.c: sparse matrices and named fields; see dataset.h.
#include "engine/data/dataset.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"

// ---- sparse matrices ----

// One block: values, row starts, columns, in the order of their alignment.
static size_t block_bytes(int64_t rows, int64_t entries) {
  return (size_t)entries * sizeof(double) + (size_t)(rows + 1) * sizeof(int64_t) + (size_t)entries * sizeof(int32_t);
}

pg_status pg_sparse_new(int64_t rows, int64_t columns, int64_t entries, pg_sparse **out) {
  *out = NULL;
  if (rows < 0 || entries < 0 || columns < 0 || columns > INT32_MAX || rows > INT64_MAX / 64 ||
      entries > INT64_MAX / 64)
    return pg_fail(PG_ERR_ARGUMENT, "a sparse matrix of %lld x %lld with %lld entries is not possible", (long long)rows,
                   (long long)columns, (long long)entries);
  pg_sparse *s = pg_alloc(1, sizeof *s);
  if (!s) return PG_ERR_MEMORY;
  s->value = pg_aligned_alloc(block_bytes(rows, entries));
  if (!s->value) {
    pg_free(s);
    return PG_ERR_MEMORY;
  }
  s->start = (int64_t *)(s->value + entries);
  s->column = (int32_t *)(s->start + rows + 1);
  s->rows = rows;
  s->columns = columns;
  s->start[rows] = entries;
  s->references = 1;
  *out = s;
  return PG_OK;
}

pg_sparse *pg_sparse_retain(pg_sparse *s) {
  s->references++;
  return s;
}

void pg_sparse_release(pg_sparse *s) {
  if (!s || --s->references > 0) return;
  pg_aligned_free(s->value, block_bytes(s->rows, s->start[s->rows]));
  pg_free(s);
}

// ---- data sets ----

struct pg_dataset {
  pg_field *fields;
  size_t count, cap;
  int64_t rows;
};

pg_status pg_dataset_new(pg_dataset **out) {
  *out = pg_alloc(1, sizeof **out);
  return *out ? PG_OK : PG_ERR_MEMORY;
}

void pg_dataset_free(pg_dataset *d) {
  if (!d) return;
  for (size_t i = 0; i < d->count; i++) {
    pg_tensor_release(d->fields[i].dense);
    pg_sparse_release(d->fields[i].sparse);
    pg_free(d->fields[i].name);
  }
  pg_free(d->fields);
  pg_free(d);
}

// A new last field that owns nothing but its name.
static pg_status add_field(pg_dataset *d, const char *name, int64_t rows, pg_field **out) {
  if (d->count && rows != d->rows)
    return pg_fail(PG_ERR_SHAPE, "field %s has %lld rows, the fields before %lld", name, (long long)rows,
                   (long long)d->rows);
  if (pg_dataset_find(d, name)) return pg_fail(PG_ERR_ARGUMENT, "field %s is there already", name);
  PG_TRY(pg_grow(&d->fields, &d->cap, d->count + 1, sizeof *d->fields));
  pg_field *field = &d->fields[d->count];
  field->name = pg_strdup(name);
  if (!field->name) return PG_ERR_MEMORY;
  d->rows = rows;
  d->count++;
  *out = field;
  return PG_OK;
}

pg_status pg_dataset_add(pg_dataset *d, const char *name, pg_tensor *dense) {
  pg_field *field = NULL;
  if (pg_tensor_ndim(dense) < 1) return pg_fail(PG_ERR_SHAPE, "field %s is a scalar: a field has rows", name);
  PG_TRY(add_field(d, name, pg_tensor_shape(dense)[0], &field));
  field->dense = pg_tensor_retain(dense);
  return PG_OK;
}

pg_status pg_dataset_add_sparse(pg_dataset *d, const char *name, pg_sparse *sparse) {
  pg_field *field = NULL;
  PG_TRY(add_field(d, name, sparse->rows, &field));
  field->sparse = pg_sparse_retain(sparse);
  return PG_OK;
}

int64_t pg_dataset_rows(const pg_dataset *d) {
  return d->rows;
}

int pg_dataset_count(const pg_dataset *d) {
  return (int)d->count;
}

const pg_field *pg_dataset_at(const pg_dataset *d, int i) {
  return &d->fields[i];
}

const pg_field *pg_dataset_find(const pg_dataset *d, const char *name) {
  for (size_t i = 0; i < d->count; i++)
    if (!strcmp(d->fields[i].name, name)) return &d->fields[i];
  return NULL;
}
