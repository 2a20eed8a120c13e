// cpu.c: what processor this is, for people and for the keys of compiled code.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/codegen/compiler.h"

static char model[256], features[4096], description[512];

// The rest of the line "name\t: value" into `to`; the first such line counts.
static void take(const char *line, const char *name, char *to, size_t size) {
  const char *colon = strchr(line, ':');
  if (*to || strncmp(line, name, strlen(name)) != 0 || !colon) return;
  snprintf(to, size, "%s", colon + 1 + (colon[1] == ' '));
  to[strcspn(to, "\n")] = '\0';
}

static void read_cpuinfo(void) {
  if (*model) return;
  char line[4096];
  FILE *f = fopen("/proc/cpuinfo", "r");
  while (f && fgets(line, sizeof line, f)) {
    take(line, "model name", model, sizeof model);
    take(line, "flags", features, sizeof features);
    take(line, "Features", features, sizeof features); // ARM
  }
  if (f) fclose(f);
  if (!*model) snprintf(model, sizeof model, "unknown processor");
}

static bool has_feature(const char *name) {
  size_t n = strlen(name);
  for (const char *at = strstr(features, name); at; at = strstr(at + 1, name))
    if ((at == features || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return true;
  return false;
}

const char *pg_cpu_features(void) {
  read_cpuinfo();
  return features;
}

const char *pg_cpu_description(void) {
  static const char *const telling[] = {"avx512f", "avx2", "fma", "asimd", "sve"};
  if (*description) return description;
  read_cpuinfo();
  size_t n = (size_t)snprintf(description, sizeof description, "%s, %ld cores", model, sysconf(_SC_NPROCESSORS_ONLN));
  for (size_t i = 0; i < sizeof telling / sizeof *telling; i++)
    if (has_feature(telling[i])) n += (size_t)snprintf(description + n, sizeof description - n, ", %s", telling[i]);
  return description;
}
