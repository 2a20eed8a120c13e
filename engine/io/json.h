// json.h: the little we add to the JSON library (jansson): parsing with messages in our form, and numbers JSON lacks.
#ifndef PG_IO_JSON_H
#define PG_IO_JSON_H

#include <jansson.h>

#include "engine/perigee.h"

// Deepest nesting we read or write: a file of a million brackets must not exhaust the stack.
enum { PG_JSON_DEPTH = 100 };

// Parse n bytes; duplicate keys, trailing bytes and nesting beyond PG_JSON_DEPTH are refused. `name` (a file or "JSON")
// begins the message, `base` is added to byte offsets. The caller owns *out (json_decref).
pg_status pg_json_parse(const char *text, size_t n, const char *name, uint64_t base, json_t **out);

// The text of a number: %.17g, which reads back as the same double, or "nan", "inf", "-inf" in quotes. Returns `text`.
enum { PG_JSON_NUMBER_SIZE = 32 };
const char *pg_json_number(double x, char text[PG_JSON_NUMBER_SIZE]);

#endif
