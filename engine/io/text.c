// text.c: decimal text to numbers, and text for messages. Short numbers take Clinger's exact fast path (W. D. Clinger,
// How to read floating point numbers accurately, 1990): a mantissa below 2^53 and a power of ten up to 10^22 are both
// exact doubles, so one multiplication or division rounds once. Everything else goes to the C library.
#define _GNU_SOURCE
#include "engine/io/text.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/memory.h"

static const double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static locale_t c_locale;

static void make_locale(void) {
  c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

// What a number's text says, before it is rounded: digits * 10^exponent.
typedef struct decimal {
  uint64_t digits;
  int count;        // significant digits seen
  int64_t exponent; // of ten
  bool negative;
} decimal;

static bool is_digit(const char *p, const char *end) {
  return p < end && (unsigned)(*p - '0') < 10;
}

// Digits with no more than 19 significant ones kept; `fraction` digits count into the exponent.
static const char *scan_digits(const char *p, const char *end, bool fraction, decimal *d) {
  for (; is_digit(p, end); p++) {
    if (d->count < 19) {
      d->digits = d->digits * 10 + (uint64_t)(*p - '0');
      d->count += d->digits != 0;
      d->exponent -= fraction;
    } else {
      d->count++;
      d->exponent += !fraction;
    }
  }
  return p;
}

// e[+-]digits; without digits nothing is consumed. The value is held where it cannot overflow.
static const char *scan_exponent(const char *p, const char *end, decimal *d) {
  if (p == end || (*p != 'e' && *p != 'E')) return p;
  const char *q = p + 1;
  bool negative = q < end && *q == '-';
  if (q < end && (*q == '-' || *q == '+')) q++;
  if (!is_digit(q, end)) return p;
  int64_t e = 0;
  for (; is_digit(q, end); q++)
    if (e < 1000000) e = e * 10 + (*q - '0');
  d->exponent += negative ? -e : e;
  return q;
}

// The slow road: a terminated copy for strtod.
static bool convert_text(const char *p, size_t n, double *x) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_locale);
  char small[128], *text = n < sizeof small ? small : pg_alloc(n + 1, 1);
  if (!text) return false;
  memcpy(text, p, n);
  text[n] = 0;
  *x = c_locale ? strtod_l(text, NULL, c_locale) : strtod(text, NULL);
  if (text != small) pg_free(text);
  return isfinite(*x);
}

const char *pg_parse_double(const char *p, const char *end, double *x) {
  decimal d = {0};
  const char *start = p;
  if (p < end && (*p == '-' || *p == '+')) d.negative = *p++ == '-';
  const char *first = p;
  p = scan_digits(p, end, false, &d);
  size_t digits = (size_t)(p - first);
  if (p < end && *p == '.') {
    const char *fraction = p + 1;
    p = scan_digits(fraction, end, true, &d);
    digits += (size_t)(p - fraction);
  }
  if (digits == 0) return NULL;
  p = scan_exponent(p, end, &d);
  if (d.count <= 15 && d.exponent >= -22 && d.exponent <= 22) {
    double m = (double)d.digits;
    m = d.exponent < 0 ? m / POWERS[-d.exponent] : m * POWERS[d.exponent];
    *x = d.negative ? -m : m;
    return p;
  }
  return convert_text(start, (size_t)(p - start), x) ? p : NULL;
}

const char *pg_parse_index(const char *p, const char *end, int64_t max, int64_t *x) {
  if (!is_digit(p, end)) return NULL;
  int64_t v = 0;
  for (; is_digit(p, end); p++) {
    int digit = *p - '0';
    if (v > (max - digit) / 10) return NULL;
    v = v * 10 + digit;
  }
  *x = v;
  return p;
}

const char *pg_quote(const char *p, size_t n, char quoted[PG_QUOTE_SIZE]) {
  enum { SHOWN = 48 };
  size_t shown = n < SHOWN ? n : SHOWN;
  for (size_t i = 0; i < shown; i++) quoted[i] = (unsigned char)p[i] < 0x20 || p[i] == 0x7f ? '?' : p[i];
  strcpy(quoted + shown, n > SHOWN ? "..." : "");
  return quoted;
}
