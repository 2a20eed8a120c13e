// loop.h: what the rows of SCAN and WHILE (loop.c) share with their batching rules (loop_batch.c).
#ifndef PG_OPS_LOOP_H
#define PG_OPS_LOOP_H

#include "engine/ops/batching.h"

// Places in attrs.a.
enum { PG_LOOP_WHICH, PG_LOOP_CONSTANTS, PG_LOOP_CARRIES, PG_LOOP_LENGTH, PG_LOOP_REVERSE };

pg_status pg_batch_loop(pg_batching *b, const pg_node *node, const pg_value *in, const bool *batched, pg_value *out);

#endif
