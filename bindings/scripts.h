// scripts.h: the library's Lua files as strings; the table is written by the Makefile from scripts/perigee/*.lua.
#ifndef PGL_SCRIPTS_H
#define PGL_SCRIPTS_H

#include <stddef.h>

typedef struct pgl_script {
  const char *name; // without ".lua"; NULL ends the table
  const char *text;
  size_t size;
} pgl_script;

extern const pgl_script pgl_scripts[];

#endif
