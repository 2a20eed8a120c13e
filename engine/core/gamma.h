// gamma.h: draws from gamma distributions, and how they move with the shape of the distribution.
#ifndef PG_CORE_GAMMA_H
#define PG_CORE_GAMMA_H

#include "engine/perigee.h"

// Logarithms of draws from gamma distributions of scale 1: out[i] is element first + i of `key`, of shape shapes[i],
// and depends on nothing else. A shape is above 0: infinity gives infinity, anything else NaN. The logarithm holds
// draws of small shapes which are themselves too small for any floating-point number.
void pg_draw_log_gamma(pg_key key, uint64_t first, int64_t n, const double *shapes, double *out);

// d log x / d shape at a fixed quantile, for x = exp(log_x) > 0: how a draw moves with its shape by implicit
// reparameterization (Figurnov et al. 2018, arXiv 1805.08498): minus the derivative of the distribution function by the
// shape, over x times the density. The relative error is below 1e-11 for shapes from 1000 on and below 1e-13 before.
double pg_gamma_slope(double shape, double log_x);

#endif
