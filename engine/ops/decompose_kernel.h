// decompose_kernel.h: what stands around LAPACK's decompositions, included by decompose.c once per type with T the
// element and S(f) the name f with the type's suffix: reading operands, and signs, which are fixed so that a matrix has
// one decomposition and not one of many.

// -1 where a vector of n numbers is to be turned round: so that its first number that is at least half
// as large as its largest is positive. (The largest alone would leave ties to rounding.)
static T S(sign_of)(const T *x, int64_t n) {
  T largest = 0;
  for (int64_t i = 0; i < n; i++) largest = largest < (T)fabs((double)x[i]) ? (T)fabs((double)x[i]) : largest;
  for (int64_t i = 0; i < n; i++)
    if ((T)fabs((double)x[i]) >= largest / 2) return x[i] < 0 ? -1 : 1;
  return 1;
}

static bool S(is_finite)(const T *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!isfinite(x[i])) return false;
  return true;
}

// A = L Q' of A^T, which is what LAPACK sees, is A = Q R with Q = Q'^T and R = L^T, both row by row. R's diagonal is
// not negative. sign: m numbers.
static bool S(find_qr)(const pg_operand *out, const pg_operand *in, const arrays *s) {
  const int64_t m = in->shape[0], n = in->shape[1];
  T *q = out->data, *r = q + m * n, *a = s->a, *sign = s->values;
  memcpy(a, in->data, (size_t)(m * n) * sizeof *a);
  if (!S(is_finite)(a, m * n) || pg_factor_lq(out->dtype, (int)n, (int)m, a, s->values, s->work)) return false;
  memset(r, 0, (size_t)(n * n) * sizeof *r);
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = i; k < n; k++) r[i * n + k] = a[i * n + k];
  if (pg_form_q(out->dtype, (int)n, (int)m, a, s->values, s->work)) return false;
  for (int64_t i = 0; i < n; i++) {
    sign[i] = r[i * n + i] < 0 ? -1 : 1;
    for (int64_t k = i; k < n; k++) r[i * n + k] *= sign[i];
  }
  for (int64_t i = 0; i < m; i++)
    for (int64_t k = 0; k < n; k++) q[i * n + k] = a[i * n + k] * sign[k];
  return true;
}

// A^T = V S U^T to LAPACK, whose left vectors by columns are the rows of V^T here, and right ones by rows the columns
// of U: U [m, n], S and V^T [n, n] below one another.
static bool S(find_svd)(const pg_operand *out, const pg_operand *in, const arrays *s) {
  const int64_t m = in->shape[0], n = in->shape[1];
  T *u = out->data, *values = u + m * n, *vt = values + n;
  const T *left = s->u, *right = s->vt;
  memcpy(s->a, in->data, (size_t)(m * n) * sizeof *u);
  if (!S(is_finite)(s->a, m * n) ||
      pg_find_singular_vectors(out->dtype, (int)n, (int)m, s->a, s->values, s->u, s->vt, s->work, s->iwork))
    return false;
  memcpy(values, s->values, (size_t)n * sizeof *values);
  T *sign = s->values;
  for (int64_t k = 0; k < n; k++) {
    sign[k] = S(sign_of)(left + k * n, n);
    for (int64_t i = 0; i < n; i++) vt[k * n + i] = sign[k] * left[k * n + i];
  }
  for (int64_t i = 0; i < m; i++)
    for (int64_t k = 0; k < n; k++) u[i * n + k] = sign[k] * right[i * n + k];
  return true;
}

// Eigenvalues of the symmetric part into the first row of the result, eigenvectors into the others.
static bool S(find_eigh)(const pg_operand *out, const pg_operand *in, const arrays *s) {
  const int64_t n = in->shape[1];
  const T *x = in->data;
  T *values = out->data, *vectors = values + n, *a = s->a;
  for (int64_t r = 0; r < n; r++)
    for (int64_t c = 0; c < n; c++) a[r * n + c] = (x[r * n + c] + x[c * n + r]) / 2;
  if (!S(is_finite)(a, n * n) || pg_find_eigenvectors(out->dtype, (int)n, a, s->values, s->work, s->iwork))
    return false;
  memcpy(values, s->values, (size_t)n * sizeof *values);
  for (int64_t r = 0; r < n; r++) {
    const T sign = S(sign_of)(a + r * n, n);
    for (int64_t c = 0; c < n; c++) vectors[r * n + c] = sign * a[r * n + c];
  }
  return true;
}

#undef T
#undef S
