// kernel_abi.h: what a compiled kernel is called with. Included by the engine and embedded in front of every generated
// translation unit, so it may include nothing but <stdint.h> and <stdbool.h>.
#ifndef PG_KERNEL_ABI_H
#define PG_KERNEL_ABI_H

#include <stdbool.h>
#include <stdint.h>

// The grid constants are part of the numerics: reductions are cut along them, whatever executes them.
enum {
  PG_KDIMS = 5,     // dimensions of a kernel's iteration space after merging
  PG_CHUNK = 4096,  // elements of a row (or of a tensor of a vector) per tile
  PG_BLOCK = 512,   // elements handled at once inside a tile; a multiple of PG_LANES that divides PG_CHUNK
  PG_LANES = 16,    // interleaved accumulators of an inner reduction
  PG_ROWS = 256,    // rows per tile of an outer reduction
  PG_COLUMNS = 1024 // columns per tile of an outer reduction
};

// A tile of a vector: at most PG_CHUNK elements of one tensor.
typedef struct pg_vtile {
  int64_t offset;  // first element in the padded vector
  int64_t size;    // elements
  int64_t logical; // logical index of the first element
  int64_t segment; // which tensor
} pg_vtile;

// Services of the engine that compiled code calls through pointers, since it is loaded without access to our symbols.
typedef struct pg_kernel_services {
  // Fill out[0..n) with draws; element i uses keys[i * key_stride] and index + i * index_stride. normal: else uniform
  // [0,1).
  void (*draw_f32)(bool normal, const void *keys, int64_t key_stride, uint64_t index, int64_t index_stride, int64_t n,
                   float *out);
  void (*draw_f64)(bool normal, const void *keys, int64_t key_stride, uint64_t index, int64_t index_stride, int64_t n,
                   double *out);
  // Numbers kept as codes and scales of blocks: core/quantize.h.
  void (*decode_f32)(int kind, int64_t block, const int64_t place[2], const uint8_t *codes, const float *scales,
                     int64_t first, int64_t n, float *out);
  void (*decode_f64)(int kind, int64_t block, const int64_t place[2], const uint8_t *codes, const double *scales,
                     int64_t first, int64_t n, double *out);
  void (*encode_f32)(int kind, int64_t block, const int64_t place[2], const float *x, int64_t first, int64_t n,
                     uint8_t *codes, float *scales);
  void (*encode_f64)(int kind, int64_t block, const int64_t place[2], const double *x, int64_t first, int64_t n,
                     uint8_t *codes, double *scales);
} pg_kernel_services;

typedef struct pg_kcall {
  void *const *ptr;       // per argument: its memory, offset applied
  const double *num;      // weak scalars, evaluated on the host
  const int64_t *dim;     // [PG_KDIMS] extents of the iteration space, outermost first (grid)
  const int64_t *stride;  // [argument][PG_KDIMS] in elements (of keys for a key argument)
  const int64_t *dstride; // [argument][PG_KDIMS]: of the draw index, for key arguments; of the index, for iota
  int64_t rows;           // product of the outer extents
  int64_t rows_per_tile;  // map and inner reduction
  int64_t chunks;         // per row (inner: of PG_CHUNK; outer: of PG_ROWS)
  const pg_vtile *vtiles; // vector space
  void *const *partial;   // per reduction
  const pg_kernel_services *services;
} pg_kcall;

typedef void (*pg_kernel_fn)(const pg_kcall *call, int64_t tile0, int64_t tile1);

#endif
