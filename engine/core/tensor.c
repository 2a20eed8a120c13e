// tensor.c: dtypes and tensors: reference-counted aligned memory with a shape.
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"

typedef struct buffer {
  int references;
  size_t bytes;
  void *data;
  bool in_file;
} buffer;

struct pg_tensor {
  int references;
  buffer *buffer;
  void *data;
  pg_dtype dtype;
  int ndim;
  int64_t shape[PG_MAX_NDIM];
  int64_t size;
  pg_layout *layout;
};

static const struct {
  const char *name;
  size_t size;
} dtypes[PG_NUM_DTYPES] = {
    [PG_F32] = {"f32", 4}, [PG_F64] = {"f64", 8},   [PG_I32] = {"i32", 4},  [PG_I64] = {"i64", 8},
    [PG_U8] = {"u8", 1},   [PG_BOOL] = {"bool", 1}, [PG_KEY] = {"key", 16},
};

size_t pg_dtype_size(pg_dtype dtype) {
  return dtypes[dtype].size;
}

const char *pg_dtype_name(pg_dtype dtype) {
  return dtypes[dtype].name;
}

bool pg_dtype_is_float(pg_dtype dtype) {
  return dtype == PG_F32 || dtype == PG_F64;
}

bool pg_dtype_is_int(pg_dtype dtype) {
  return dtype == PG_I32 || dtype == PG_I64 || dtype == PG_U8;
}

static void release_buffer(buffer *b) {
  if (!b || --b->references > 0) return;
  if (b->in_file)
    pg_file_free(b->data, b->bytes);
  else
    pg_aligned_free(b->data, b->bytes);
  pg_free(b);
}

// directory: of the file that it lies in; NULL: memory.
static pg_status new_buffer(size_t bytes, const char *directory, buffer **out) {
  buffer *b = pg_alloc(1, sizeof *b);
  if (!b) return PG_ERR_MEMORY;
  b->references = 1;
  b->bytes = bytes;
  b->in_file = directory != NULL;
  pg_status status = PG_OK;
  if (directory)
    status = pg_file_alloc(bytes, directory, &b->data);
  else if (!(b->data = pg_aligned_alloc(bytes)))
    status = PG_ERR_MEMORY;
  if (status != PG_OK) {
    pg_free(b);
    return status;
  }
  *out = b;
  return PG_OK;
}

static pg_status set_shape(pg_tensor *t, int ndim, const int64_t *shape) {
  if (ndim < 0 || ndim > PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "a tensor has at most %d dimensions, not %d", PG_MAX_NDIM, ndim);
  t->ndim = ndim;
  t->size = 1;
  int64_t bytes;
  for (int i = 0; i < ndim; i++) {
    t->shape[i] = shape[i];
    if (shape[i] < 0 || __builtin_mul_overflow(t->size, shape[i], &t->size))
      return pg_fail(PG_ERR_SHAPE, "impossible size of axis %d: %lld", i + 1, (long long)shape[i]);
  }
  if (__builtin_mul_overflow(t->size, (int64_t)pg_dtype_size(t->dtype), &bytes))
    return pg_fail(PG_ERR_SHAPE, "a tensor of %lld elements is too large", (long long)t->size);
  return PG_OK;
}

static pg_status make(pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout, const char *directory,
                      pg_tensor **out) {
  *out = NULL;
  int64_t padded = layout ? pg_layout_padded(layout) : 0;
  pg_tensor *t = pg_alloc(1, sizeof *t);
  if (!t) return PG_ERR_MEMORY;
  t->references = 1;
  t->dtype = dtype;
  pg_status status = layout ? set_shape(t, 1, &padded) : set_shape(t, ndim, shape);
  if (status == PG_OK) status = new_buffer((size_t)t->size * pg_dtype_size(dtype), directory, &t->buffer);
  if (status != PG_OK) {
    pg_free(t);
    return status;
  }
  t->data = t->buffer->data;
  t->layout = pg_layout_retain(layout);
  *out = t;
  return PG_OK;
}

pg_status pg_tensor_new(pg_dtype dtype, int ndim, const int64_t *shape, const pg_layout *layout, pg_tensor **out) {
  return make(dtype, ndim, shape, layout, NULL, out);
}

pg_status pg_tensor_new_in_file(pg_dtype dtype, int ndim, const int64_t *shape, const char *directory,
                                pg_tensor **out) {
  return make(dtype, ndim, shape, NULL, directory, out);
}

pg_status pg_tensor_view(pg_tensor *base, int64_t offset, int ndim, const int64_t *shape, pg_tensor **out) {
  *out = NULL;
  pg_tensor *t = pg_alloc(1, sizeof *t);
  if (!t) return PG_ERR_MEMORY;
  t->references = 1;
  t->dtype = base->dtype;
  pg_status status = set_shape(t, ndim, shape);
  if (status == PG_OK && (offset < 0 || t->size > base->size || offset > base->size - t->size))
    status = pg_fail(PG_ERR_SHAPE, "a view of %lld elements at %lld does not fit into %lld", (long long)t->size,
                     (long long)offset, (long long)base->size);
  if (status != PG_OK) {
    pg_free(t);
    return status;
  }
  t->buffer = base->buffer;
  t->buffer->references++;
  t->data = (char *)base->data + (size_t)offset * pg_dtype_size(t->dtype);
  *out = t;
  return PG_OK;
}

pg_status pg_tensor_clone(const pg_tensor *t, pg_tensor **out) {
  PG_TRY(pg_tensor_new(t->dtype, t->ndim, t->shape, t->layout, out));
  memcpy((*out)->data, t->data, pg_tensor_bytes(t));
  return PG_OK;
}

pg_tensor *pg_tensor_retain(pg_tensor *t) {
  t->references++;
  return t;
}

void pg_tensor_release(pg_tensor *t) {
  if (!t || --t->references > 0) return;
  release_buffer(t->buffer);
  pg_layout_release(t->layout);
  pg_free(t);
}

void *pg_tensor_data(const pg_tensor *t) {
  return t->data;
}

pg_dtype pg_tensor_dtype(const pg_tensor *t) {
  return t->dtype;
}

int pg_tensor_ndim(const pg_tensor *t) {
  return t->ndim;
}

const int64_t *pg_tensor_shape(const pg_tensor *t) {
  return t->shape;
}

int64_t pg_tensor_size(const pg_tensor *t) {
  return t->size;
}

size_t pg_tensor_bytes(const pg_tensor *t) {
  return (size_t)t->size * pg_dtype_size(t->dtype);
}

const pg_layout *pg_tensor_layout(const pg_tensor *t) {
  return t->layout;
}
