// error.c: keeps the message of this thread's last failure. See error.h.
#include "engine/core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];
static _Thread_local pg_status last_status = PG_ERR_ARGUMENT; // of whoever passes PG_NONE without having failed

const char *pg_last_error(void) {
  return message;
}

pg_status pg_last_status(void) {
  return last_status;
}

pg_status pg_fail(pg_status status, const char *format, ...) {
  char text[sizeof message]; // arguments may point into the old message
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  memcpy(message, text, sizeof text);
  last_status = status;
  return status;
}

pg_status pg_fail_context(pg_status status, const char *format, ...) {
  char text[sizeof message];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (n >= 0 && (size_t)n < sizeof text) snprintf(text + n, sizeof text - (size_t)n, "%s", message);
  memcpy(message, text, sizeof text);
  last_status = status;
  return status;
}
