// batch.h: assembling batches: rows of a field, chosen by a list of indices, into a tensor, converted on the way; and
// the way back, for tables with a row for each example.
#ifndef PG_DATA_BATCH_H
#define PG_DATA_BATCH_H

#include "engine/data/dataset.h"

// dst[k] = src[index[k]] * scale + shift for k in [0, n); rows n … of dst become zero. src [N, ...], dst [m >= n, ...]
// with as many elements in a row (shapes may differ). The arithmetic is done in f64 and rounded once to dst's dtype,
// which is f32 or f64; with scale 1 and shift 0 any equal dtypes, u8 → i32, i64 and i32 → i64 are possible too. Indices
// are checked before anything is written. Errors: PG_ERR_ARGUMENT, PG_ERR_SHAPE, PG_ERR_DTYPE.
pg_status pg_gather_rows(const pg_tensor *src, const int64_t *index, int64_t n, double scale, double shift,
                         pg_tensor *dst);

// The way back: dst[index[k]] = src[k] for k in [0, n), of one dtype; src [m >= n, ...], dst [N, ...] with as many
// elements in a row. The indices are checked before anything is written: none may occur twice, since what the row then
// holds would not be defined. Errors: PG_ERR_ARGUMENT, PG_ERR_SHAPE, PG_ERR_DTYPE, PG_ERR_MEMORY.
pg_status pg_put_rows(const pg_tensor *src, const int64_t *index, int64_t n, pg_tensor *dst);
// Its last check by itself: PG_ERR_ARGUMENT if one of n indices occurs twice.
pg_status pg_check_distinct(const int64_t *index, int64_t n);

// pg_gather_rows from a sparse matrix to dense f32 or f64 rows; columns without an entry become `shift`.
pg_status pg_gather_sparse(const pg_sparse *src, const int64_t *index, int64_t n, double scale, double shift,
                           pg_tensor *dst);

// A new tensor [N, n] of these columns (from 0, in this order) of a matrix [N, columns].
pg_status pg_take_columns(const pg_tensor *src, const int64_t *columns, int64_t n, pg_tensor **out);
// A new tensor of the rows of the n >= 1 parts one after another; their dtypes and rows' shapes must be equal.
pg_status pg_join_rows(int n, pg_tensor *const *parts, pg_tensor **out);
// Rows from … to - 1 of a tensor [N, ...]: over the same memory where that stays 64-byte aligned, else a copy.
pg_status pg_take_rows(pg_tensor *src, int64_t from, int64_t to, pg_tensor **out);
// The same of a sparse matrix; always a copy.
pg_status pg_take_sparse_rows(const pg_sparse *src, int64_t from, int64_t to, pg_sparse **out);

#endif
