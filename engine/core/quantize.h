// quantize.h: numbers in 8 bits, block by block (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization",
// arXiv 2110.02861). A block is divided by its largest magnitude, its scale, and each number becomes the code of the
// nearest of the 256 values of a map. Kernels keep vectors so; here is one tile of one. The maps:
//
//   dynamic  the signed one has 0, 1 and, for e = 0 … 6, the centres of 2^e equal cells of [0.1, 1] times ± 10^(e - 6);
//            the unsigned one has 2^(e + 1) cells, and no negative values. Values are rounded once from double to float
//   linear   (i - 127) / 128 for i = 0 … 255; the unsigned one i / 255
//
// In both signed maps code 127 is 0, 255 is 1 and there is no -1; in the unsigned ones 0 is 0 and 255 is 1.
#ifndef PG_CORE_QUANTIZE_H
#define PG_CORE_QUANTIZE_H

#include <stdint.h>

// How numbers are coded. A negative number nearest to 0 gets the code of the smallest negative value, as bitsandbytes'
// CUDA kernels have it, unless PG_CODES_LOSE_SIGN.
enum { PG_CODES_UNSIGNED = 1, PG_CODES_LINEAR = 2, PG_CODES_LOSE_SIGN = 4, PG_CODES_KINDS = 8 };

enum { PG_CODES_ZERO = 127 }; // the code of 0 in signed maps

// Make the tables. To be called, by one thread, before anything else here.
void pg_codes_prepare(void);

// The 256 values of a kind of codes, ascending.
const float *pg_codes_values(int kind);

// place: where a tile's codes begin among the codes, and its scales among the scales. A tile of a tensor that is kept
// whole has no codes: place[0] is -1, and its scales are its numbers.

// Numbers first … first + n - 1 of a tile: each value times its block's scale.
void pg_decode_f32(int kind, int64_t block, const int64_t place[2], const uint8_t *codes, const float *scales,
                   int64_t first, int64_t n, float *out);
void pg_decode_f64(int kind, int64_t block, const int64_t place[2], const uint8_t *codes, const double *scales,
                   int64_t first, int64_t n, double *out);

// Codes and scales of the numbers first … first + n - 1 of a tile; `first` begins a block, and n ends one or the tile.
// codes or scales may be NULL: not wanted. A block with a NaN or an infinity in it has that as its scale, so that it
// decodes to numbers that are not finite either. For unsigned maps negative numbers become 0.
void pg_encode_f32(int kind, int64_t block, const int64_t place[2], const float *x, int64_t first, int64_t n,
                   uint8_t *codes, float *scales);
void pg_encode_f64(int kind, int64_t block, const int64_t place[2], const double *x, int64_t first, int64_t n,
                   uint8_t *codes, double *scales);

#endif
