// error.h: the one way to fail. A function that fails formats a one-line message and returns a status.
#ifndef PG_CORE_ERROR_H
#define PG_CORE_ERROR_H

#include "engine/perigee.h"

// Record a message for pg_last_error() and return `status`, so that callers write `return pg_fail(PG_ERR_SHAPE, ...)`.
pg_status pg_fail(pg_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Put context in front of the message of a failure on its way up: "reading x.gz: " + message. Returns `status`.
pg_status pg_fail_context(pg_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The status of the failure whose message stands: what a call returns that was given the PG_NONE of an earlier one.
pg_status pg_last_status(void);

#define PG_TRY(expression)                                                                                             \
  do {                                                                                                                 \
    pg_status pg_try_status_ = (expression);                                                                           \
    if (pg_try_status_ != PG_OK) return pg_try_status_;                                                                \
  } while (0)

#endif
