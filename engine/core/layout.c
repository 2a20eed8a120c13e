// layout.c: layouts of flat vectors: names, shapes and padded offsets of the tensors inside. Immutable once made,
// shared by reference count.
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/memory.h"

enum { PAD_ELEMENTS = 16 };

struct pg_layout {
  int references;
  int count;
  int64_t padded, size;
  pg_segment *segments;
};

static pg_status fill_segment(pg_segment *s, const char *name, int ndim, const int64_t *shape) {
  if (ndim < 0 || ndim > PG_MAX_NDIM)
    return pg_fail(PG_ERR_SHAPE, "layout: tensor '%s' has %d dimensions, at most %d are allowed", name, ndim,
                   PG_MAX_NDIM);
  s->ndim = ndim;
  s->size = 1;
  for (int i = 0; i < ndim; i++) {
    s->shape[i] = shape[i];
    if (shape[i] < 0 || __builtin_mul_overflow(s->size, shape[i], &s->size))
      return pg_fail(PG_ERR_SHAPE, "layout: tensor '%s' has an impossible size on axis %d: %lld", name, i + 1,
                     (long long)shape[i]);
  }
  s->name = pg_strdup(name);
  return s->name ? PG_OK : PG_ERR_MEMORY;
}

pg_status pg_layout_new(int n, const char *const *names, const int *ndims, const int64_t (*shapes)[PG_MAX_NDIM],
                        pg_layout **out) {
  *out = NULL;
  pg_layout *l = pg_alloc(1, sizeof *l);
  if (!l) return PG_ERR_MEMORY;
  l->references = 1;
  l->segments = pg_alloc((size_t)n, sizeof *l->segments);
  pg_status status = l->segments ? PG_OK : PG_ERR_MEMORY;
  for (int i = 0; i < n && status == PG_OK; i++) {
    pg_segment *s = &l->segments[i];
    if (pg_layout_find(l, names[i]) >= 0) {
      status = pg_fail(PG_ERR_ARGUMENT, "layout: two tensors are named '%s'", names[i]);
      break;
    }
    l->count = i + 1; // so that release frees the name of a half-filled segment
    status = fill_segment(s, names[i], ndims[i], shapes[i]);
    if (status != PG_OK) break;
    s->offset = l->padded;
    s->logical = l->size;
    l->size += s->size;
    l->padded += (s->size + PAD_ELEMENTS - 1) / PAD_ELEMENTS * PAD_ELEMENTS;
  }
  if (status != PG_OK) {
    pg_layout_release(l);
    return status;
  }
  *out = l;
  return PG_OK;
}

pg_layout *pg_layout_retain(const pg_layout *layout) {
  pg_layout *l = (pg_layout *)layout;
  if (l) l->references++;
  return l;
}

// The layout of these names whose tensors' shapes lack the first axis (by = -1) or have one of n more (by = 1).
static pg_status change_axes(const pg_layout *l, int by, int64_t n, pg_layout **out) {
  const char **names = pg_alloc((size_t)l->count, sizeof *names);
  int *ndims = pg_alloc((size_t)l->count, sizeof *ndims);
  int64_t(*shapes)[PG_MAX_NDIM] = pg_alloc((size_t)l->count, sizeof *shapes);
  pg_status status = names && ndims && shapes ? PG_OK : PG_ERR_MEMORY;
  for (int i = 0; status == PG_OK && i < l->count; i++) {
    const pg_segment *s = &l->segments[i];
    names[i] = s->name;
    ndims[i] = s->ndim + by;
    if (by > 0) shapes[i][0] = n;
    for (int d = by > 0 ? 0 : 1; d < s->ndim && d + by < PG_MAX_NDIM; d++) shapes[i][d + by] = s->shape[d];
  }
  *out = NULL;
  if (status == PG_OK) status = pg_layout_new(l->count, names, ndims, (const int64_t(*)[PG_MAX_NDIM])shapes, out);
  pg_free(names), pg_free(ndims), pg_free(shapes);
  return status;
}

pg_status pg_layout_stacked(const pg_layout *layout, int64_t n, pg_layout **out) {
  return change_axes(layout, 1, n, out);
}

pg_status pg_layout_slice(const pg_layout *layout, int64_t *n, pg_layout **out) {
  *out = NULL;
  *n = layout->count && layout->segments[0].ndim ? layout->segments[0].shape[0] : 0;
  for (int i = 0; i < layout->count; i++) {
    const pg_segment *s = &layout->segments[i];
    if (s->ndim == 0) return pg_fail(PG_ERR_SHAPE, "tensor '%s' of a stacked vector has no first axis", s->name);
    if (s->shape[0] != *n)
      return pg_fail(PG_ERR_SHAPE,
                     "the tensors of a stacked vector differ in their first axis: '%s' has %lld, not %lld", s->name,
                     (long long)s->shape[0], (long long)*n);
  }
  return change_axes(layout, -1, 0, out);
}

void pg_layout_release(const pg_layout *layout) {
  pg_layout *l = (pg_layout *)layout;
  if (!l || --l->references > 0) return;
  for (int i = 0; l->segments && i < l->count; i++) pg_free((char *)l->segments[i].name);
  pg_free(l->segments);
  pg_free(l);
}

int pg_layout_count(const pg_layout *layout) {
  return layout->count;
}

const pg_segment *pg_layout_segment(const pg_layout *layout, int i) {
  return &layout->segments[i];
}

int pg_layout_find(const pg_layout *layout, const char *name) {
  for (int i = 0; i < layout->count; i++)
    if (strcmp(layout->segments[i].name, name) == 0) return i;
  return -1;
}

int64_t pg_layout_padded(const pg_layout *layout) {
  return layout->padded;
}

int64_t pg_layout_size(const pg_layout *layout) {
  return layout->size;
}

bool pg_layout_equal(const pg_layout *a, const pg_layout *b) {
  if (a == b) return true;
  if (!a || !b || a->count != b->count || a->padded != b->padded) return false;
  for (int i = 0; i < a->count; i++) {
    const pg_segment *s = &a->segments[i], *t = &b->segments[i];
    if (s->ndim != t->ndim || memcmp(s->shape, t->shape, sizeof s->shape) != 0 || strcmp(s->name, t->name) != 0)
      return false;
  }
  return true;
}
