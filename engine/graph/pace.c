// pace.c: whether a plan runs faster on all threads or on one. See pace.h. A period begins with a few timed runs of the
// way that is kept and a few of the other.
#include "engine/graph/pace.h"

enum { PERIOD = 256, TRIALS = 3 };

static const double LONG = 0.02;  // seconds: plans that take longer gain from threads, and trials of them cost
static const double BETTER = 0.9; // of the other's time, for a change to be worth it

bool pg_pace_next(pg_pace *pace, bool *timed) {
  const bool other = pace->run >= TRIALS && pace->run < 2 * TRIALS;
  const int way = pace->serial != other;
  *timed = pace->run < 2 * TRIALS;
  if (pace->run % TRIALS == 0 && *timed) pace->best[way] = 1e300;
  return way;
}

void pg_pace_note(pg_pace *pace, double seconds) {
  const int kept = pace->serial, way = pace->run < TRIALS ? kept : !kept;
  if (pace->run < 2 * TRIALS && seconds < pace->best[way]) pace->best[way] = seconds;
  pace->run++;
  if (pace->run == TRIALS && !kept && pace->best[kept] > LONG) pace->run = 2 * TRIALS;
  if (pace->run == 2 * TRIALS && way != kept && pace->best[way] < BETTER * pace->best[kept]) pace->serial = way;
  if (pace->run >= PERIOD) pace->run = 0;
}
