// pace.h: whether a plan runs faster on all threads or on one. Cores that share no cache hand data to each other so
// slowly that two of them can be slower than one on the short loops of a small network, and where a virtual machine's
// cores lie changes while it runs. Results do not depend on threads, so a plan tries both now and then and keeps the
// faster.
#ifndef PG_GRAPH_PACE_H
#define PG_GRAPH_PACE_H

#include <stdbool.h>

typedef struct pg_pace {
  bool serial;    // the way that is kept
  int run;        // of the period
  double best[2]; // seconds of the fastest trial, on all threads and on one
} pg_pace;

// Whether the next run is to be serial; *timed: its time is to be told to pg_pace_note.
bool pg_pace_next(pg_pace *pace, bool *timed);
void pg_pace_note(pg_pace *pace, double seconds);

#endif
