// gamma.c: gamma draws by rejection (G. Marsaglia and W. W. Tsang, "A simple method for generating gamma variables",
// 2000), and their derivative by the shape. A draw has a key of its own, folded from key and index: its attempts read
// blocks 1, 2, … of that key, and shapes below 1 block 0 too, so how often neighbours were rejected changes nothing.
// All arithmetic is in f64, and draws in f32 are the same ones rounded.
#include <math.h>

#include "engine/core/gamma.h"
#include "engine/core/integers.h"
#include "engine/core/random.h"
#include "engine/core/vmath.h"

// ---- draws ---------------------------------------------------------------------------------------------------------

// A standard normal number, by Box and Muller from 44 bits each of two words, and a uniform one in (0, 1) from what is
// left of them, 40 bits.
PG_INLINE double read_normal(uint64_t v, uint64_t w, double *uniform) {
  const double radius = __builtin_sqrt(-2.0 * pg_log_f64((double)(int64_t)(v >> 20) * 0x1p-44 + 0x1p-53));
  const uint64_t rest = (v & 0xfffff) << 20 | (w & 0xfffff);
  *uniform = (double)(int64_t)rest * 0x1p-40 + 0x1p-41;
  return radius * pg_cos_f64((double)(int64_t)(w >> 20) * 0x1.921fb54442d18p-42);
}

// Marsaglia and Tsang's method is for shapes of at least 1; a draw of shape + 1 times u^(1 / shape) is one of shape.
PG_INLINE double raised(double shape) {
  return shape < 1 ? shape + 1 : shape;
}

// An attempt at a draw of a shape of at least 1: its logarithm, or NaN where it is rejected. Their quick test, with
// which most logarithms of u are not needed, pays only where one draw is made at a time.
PG_INLINE double attempt(double shape, uint64_t v, uint64_t w) {
  double u;
  const double z = read_normal(v, w, &u);
  const double d = shape - 1.0 / 3, c = 1 / __builtin_sqrt(9 * d), root = 1 + c * z;
  const double log_v = 3 * pg_log1p_f64(c * z);
  const bool accepted = root > 0 && pg_log_f64(u) < 0.5 * z * z + d * (1 - root * root * root + log_v);
  return accepted ? pg_log_f64(d) + log_v : NAN;
}

// The attempts after the first, in blocks 2, 3, … of the element's key.
static double try_again(pg_key own, double shape) {
  for (uint64_t block = 2;; block++) {
    uint64_t v, w;
    pg_read_blocks(&own, block, 1, &v, &w);
    const double x = attempt(shape, v, w);
    if (x == x) return x;
  }
}

static void draw_some(pg_key key, uint64_t first, int n, const double *shapes, double *out) {
  pg_key own[PG_MOST_BLOCKS];
  uint64_t v[PG_MOST_BLOCKS], w[PG_MOST_BLOCKS];
  bool any_small = false;
  pg_fold_range(key, first, n, own);
  pg_read_blocks(own, 1, n, v, w);
  for (int i = 0; i < n; i++) out[i] = attempt(raised(shapes[i]), v[i], w[i]);
  for (int i = 0; i < n; i++) {
    any_small |= shapes[i] < 1;
    if (!(shapes[i] > 0 && shapes[i] < INFINITY))
      out[i] = shapes[i] == INFINITY ? INFINITY : NAN;
    else if (out[i] != out[i])
      out[i] = try_again(own[i], raised(shapes[i]));
  }
  if (!any_small) return;
  pg_read_blocks(own, 0, n, v, w);
  for (int i = 0; i < n; i++) {
    const double log_u = pg_log_f64((double)(int64_t)(v[i] >> 12) * 0x1p-52 + 0x1p-53);
    out[i] += shapes[i] < 1 ? log_u / shapes[i] : 0;
  }
}

void pg_draw_log_gamma(pg_key key, uint64_t first, int64_t n, const double *shapes, double *out) {
  for (int64_t i = 0; i < n; i += PG_MOST_BLOCKS)
    draw_some(key, first + (uint64_t)i, (int)pg_smaller(PG_MOST_BLOCKS, n - i), shapes + i, out + i);
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

enum { MOST_TERMS = 10000, LARGE_SHAPE = 1000 };
static const double SMALL = 0x1p-53;

// The logarithmic derivative of the gamma function at x >= 1, by recurrence up to 10 and Stirling's series from there.
static double digamma(double x) {
  double sum = 0;
  for (; x < 10; x++) sum -= 1 / x;
  const double r = 1 / (x * x);
  const double series =
      r * (1.0 / 12 - r * (1.0 / 120 - r * (1.0 / 252 - r * (1.0 / 240 - r * (1.0 / 132 - r * (691.0 / 32760))))));
  return sum + pg_log_f64(x) - 0.5 / x - series;
}

// Below the mean: F = x f S with S = sum of x^n / (a (a + 1) … (a + n)). The terms' derivatives by a are taken apart so
// that those of 1 / a, which cancel, are never formed.
static double slope_by_series(double a, double x, double log_x) {
  double term = 1 / a, sum = term, harmonic = 0, moved = 0;
  for (int n = 1; n < MOST_TERMS; n++) {
    term *= x / (a + n);
    harmonic += 1 / (a + n);
    sum += term;
    moved += term * harmonic;
    if (term * harmonic < SMALL * moved && term < SMALL * sum) break;
  }
  return moved + sum * (digamma(1 + a) - log_x);
}

// Above it: 1 - F = x f C with the continued fraction C = 1 / (x + 1 - a - 1 (1 - a) / (x + 3 - a - …)), by Lentz's
// method as W. J. Thompson and A. R. Barnett changed it, carried along with its derivative by a.
static double slope_by_fraction(double a, double x, double log_x) {
  double b = x + 1 - a, c = 0x1p1000, dc = 0, d = 1 / b, dd = d * d, h = d, dh = dd;
  for (int i = 1; i < MOST_TERMS; i++) {
    const double n = -i * (i - a);
    b += 2;
    const double e = n * d + b, de = i * d + n * dd - 1; // d' = 1 / e
    dc = (i * c - n * dc) / (c * c) - 1;
    c = b + n / c;
    d = 1 / e;
    dd = -de * d * d;
    const double step = c * d, dstep = dc * d + c * dd;
    dh = dh * step + h * dstep;
    h *= step;
    if (fabs(step - 1) < SMALL && fabs(h * dstep) <= SMALL * fabs(dh)) break;
  }
  return dh + h * (log_x - digamma(1 + a) + 1 / a);
}

// Large shapes: x = a + z / r + c[0] + c[1] r + … + c[4] r^4 with r = a^(-1/2), for the normal deviate z of the same
// quantile (E. A. Cornish and R. A. Fisher, 1937; H. Goldberg and H. Levine, 1946, for these polynomials), solved for z
// by Newton's method and differentiated with z fixed.
static double slope_by_expansion(double a, double x) {
  const double r = 1 / __builtin_sqrt(a), wanted = (x - a) * r;
  double z = wanted, c[5];
  for (int i = 0; i < 8; i++) {
    const double z2 = z * z;
    c[0] = (z2 - 1) / 3;
    c[1] = z * (z2 - 7) / 36;
    c[2] = -((3 * z2 + 7) * z2 - 16) / 810;
    c[3] = z * ((9 * z2 + 256) * z2 - 433) / 38880;
    c[4] = (((12 * z2 - 243) * z2 - 923) * z2 + 1472) / 204120;
    const double found = z + r * (c[0] + r * (c[1] + r * (c[2] + r * (c[3] + r * c[4]))));
    z -= (found - wanted) / (1 + r * (2 * z / 3 + r * (3 * z2 - 7) / 36));
  }
  const double moved = 1 + r * (z / 2 - r * r * (c[1] / 2 + r * (c[2] + r * (1.5 * c[3] + r * 2 * c[4]))));
  return moved / x;
}

double pg_gamma_slope(double shape, double log_x) {
  const double x = pg_exp_f64(log_x);
  if (!(shape > 0 && shape < INFINITY) || x != x) return NAN;
  if (shape > LARGE_SHAPE) return slope_by_expansion(shape, x);
  return x < shape + 1 ? slope_by_series(shape, x, log_x) : slope_by_fraction(shape, x, log_x);
}
