// check.h: the whole test framework of the C tests. A test is a function that states facts with CHECK; the first one
// that does not hold ends it. Each prints one line: `ok - name`, `not ok - name (file:line: why)` or `skip - name #
// reason`.
//
//   static void squares_are_positive(void) { CHECK(f(2) > 0); }
//   int main(void) { CHECK_RUN(squares_are_positive); return check_result(); }
//
// CHECK works in functions called by a test too, whatever they return. Not inside parallel regions.
#ifndef PG_TESTS_CHECK_H
#define PG_TESTS_CHECK_H

#include "engine/perigee.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

static struct {
  jmp_buf leave;
  char why[600];
  enum { CHECK_OK, CHECK_FAILED, CHECK_SKIPPED } outcome;
  int failed;
} check_state;

// Leave the running test with an outcome and the reason for it.
__attribute__((noreturn, unused, format(printf, 2, 3))) static void check_leave(int outcome, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(check_state.why, sizeof check_state.why, format, args);
  va_end(args);
  check_state.outcome = outcome;
  longjmp(check_state.leave, 1);
}

__attribute__((unused)) static void check_near(double a, double b, double tolerance, const char *file, int line,
                                               const char *text) {
  bool near = a == b || fabs(a - b) <= tolerance; // NaN is near nothing
  if (!near) {
    check_leave(CHECK_FAILED, "%s:%d: %s: %.17g against %.17g, apart by %.3g, allowed %.3g", file, line, text, a, b,
                fabs(a - b), tolerance);
  }
}

__attribute__((unused)) static void check_run(const char *name, void (*test)(void)) {
  check_state.outcome = CHECK_OK;
  if (setjmp(check_state.leave) == 0) test();
  if (check_state.outcome == CHECK_OK) printf("ok - %s\n", name);
  if (check_state.outcome == CHECK_FAILED) printf("not ok - %s (%s)\n", name, check_state.why);
  if (check_state.outcome == CHECK_SKIPPED) printf("skip - %s # %s\n", name, check_state.why);
  check_state.failed += check_state.outcome == CHECK_FAILED;
  fflush(stdout);
}

// What main returns.
__attribute__((unused)) static int check_result(void) {
  return check_state.failed > 0;
}

#define CHECK_RUN(test) check_run(#test, test)

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) check_leave(CHECK_FAILED, "%s:%d: %s", __FILE__, __LINE__, #condition);                          \
  } while (0)

// CHECK with a printf message that says what was seen.
#define CHECK_THAT(condition, ...)                                                                                     \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      char check_seen_[400];                                                                                           \
      snprintf(check_seen_, sizeof check_seen_, __VA_ARGS__);                                                          \
      check_leave(CHECK_FAILED, "%s:%d: %s: %s", __FILE__, __LINE__, #condition, check_seen_);                         \
    }                                                                                                                  \
  } while (0)

// |a - b| <= tolerance, or both the same infinity
#define CHECK_NEAR(a, b, tolerance) check_near(a, b, tolerance, __FILE__, __LINE__, #a)

// The call returns this status; of an unexpected failure the message is shown.
#define CHECK_STATUS(call, expected)                                                                                   \
  do {                                                                                                                 \
    pg_status check_status_ = (call);                                                                                  \
    if (check_status_ != (expected)) {                                                                                 \
      check_leave(CHECK_FAILED, "%s:%d: %s gave status %d: %s", __FILE__, __LINE__, #call, (int)check_status_,         \
                  pg_last_error());                                                                                    \
    }                                                                                                                  \
  } while (0)

#define CHECK_SKIP(...) check_leave(CHECK_SKIPPED, __VA_ARGS__)

#endif
