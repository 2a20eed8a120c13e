// number.h: reading decimal numbers from text: exact (the nearest double), independent of the locale, and bounded by
// the end of the text instead of a terminating zero.
#ifndef PG_IO_NUMBER_H
#define PG_IO_NUMBER_H

#include "engine/perigee.h"

// Read [+-]digits[.digits][e[+-]digits] at p, before `end`. Returns the first byte after it, or NULL when no number
// stands there or it overflows a double. No leading blanks, no hexadecimal, no "nan" or "inf".
const char *pg_parse_double(const char *p, const char *end, double *x);

// Read digits at p as an integer of at most `max`. Returns the first byte after them, or NULL when there is no digit or
// the number is larger.
const char *pg_parse_index(const char *p, const char *end, int64_t max, int64_t *x);

// The n bytes at p for a message: the first 48, control characters (which could play with the terminal) as '?'.
// Returns `quoted`.
enum { PG_QUOTE_SIZE = 56 };
const char *pg_quote(const char *p, size_t n, char quoted[PG_QUOTE_SIZE]);

#endif
