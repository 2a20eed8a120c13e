// json.c: see json.h.
#include "engine/io/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/core/error.h"

// Bracket depth outside strings. Looser than the grammar, which the parser checks afterwards.
static size_t measure_depth(const char *text, size_t n) {
  size_t depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < n; i++) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') i++;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > deepest) deepest = depth;
    } else if ((c == '}' || c == ']') && depth) {
      depth--;
    }
  }
  return deepest;
}

pg_status pg_json_parse(const char *text, size_t n, const char *name, uint64_t base, json_t **out) {
  *out = NULL;
  if (measure_depth(text, n) > PG_JSON_DEPTH)
    return pg_fail(PG_ERR_FORMAT, "%s: JSON nested deeper than %d levels", name, PG_JSON_DEPTH);
  json_error_t error;
  *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
  if (*out) return PG_OK;
  return pg_fail(PG_ERR_FORMAT, "%s: byte %llu (line %d, column %d): bad JSON: %s", name,
                 (unsigned long long)(base + (uint64_t)(error.position > 0 ? error.position : 0)), error.line,
                 error.column, error.text);
}

const char *pg_json_number(double x, char text[PG_JSON_NUMBER_SIZE]) {
  if (isfinite(x)) {
    snprintf(text, PG_JSON_NUMBER_SIZE, "%.17g", x);
    char *comma = strchr(text, ','); // some locales
    if (comma) *comma = '.';
  } else {
    strcpy(text, isnan(x) ? "\"nan\"" : x > 0 ? "\"inf\"" : "\"-inf\"");
  }
  return text;
}
