// compiler.c: finds the machine's C compiler by absolute path and runs it with a clean environment: nothing that a
// user's shell or a recipe sets can change what it does, except PERIGEE_CC, which names another one.
#define _GNU_SOURCE // pipe2
#include "engine/codegen/compiler.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/codegen/kernel.h"

static const char *const candidates[] = {"/usr/bin/gcc", "/usr/bin/cc", "/usr/bin/clang"};
// The numerical flags and PG_ARCH, the processors to compile for (one -march option, of the Makefile's ARCH), are those
// that the engine itself is built with: same functions, same bits.
static const char *const common_flags[] = {"-std=gnu11",
                                           PG_ARCH,
                                           "-ffp-contract=off",
                                           "-fno-math-errno",
                                           "-fno-trapping-math",
                                           "-fPIC",
                                           "-shared",
                                           "-nostdlib",
                                           "-fno-asynchronous-unwind-tables",
                                           "-fno-stack-protector",
                                           "-pipe",
                                           "-w",
                                           "-Werror=implicit-function-declaration",
                                           NULL};
// What -O3 does for these loops in two thirds of its time: vectorize, without epilogues in narrower vectors and without
// passes that find nothing in straight-line loops. Code is as fast or faster.
static const char *const gcc_flags[] = {"-O2",
                                        "-ftree-vectorize",
                                        "-fvect-cost-model=dynamic",
                                        "--param=vect-epilogues-nomask=0",
                                        "-fno-tree-pre",
                                        "-fno-gcse",
                                        "-fno-tree-vrp",
                                        "-fno-thread-jumps",
                                        "-fno-tree-dominator-opts",
                                        "-fno-tree-slp-vectorize",
                                        "-fno-code-hoisting",
                                        NULL};
static const char *const clang_flags[] = {"-O2", NULL};
enum { MAX_FLAGS = 40 };

static struct {
  bool looked_up;
  char path[512]; // "" if there is none
  const char *flags[MAX_FLAGS];
  int nflags;
  char description[1100];
  char identity[8192];
} compiler;

// ---- running -------------------------------------------------------------------------------------------------------

// Read all of `fd`, keeping the first bytes of it as a string.
static void drain(int fd, char *buf, size_t size) {
  size_t kept = 0;
  for (;;) {
    char more[4096];
    ssize_t n = read(fd, more, sizeof more);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    size_t take = (size_t)n < size - 1 - kept ? (size_t)n : size - 1 - kept;
    memcpy(buf + kept, more, take);
    kept += take;
  }
  buf[kept] = '\0';
}

static int spawn(char *const argv[], int watched, int to, pid_t *pid) {
  static char path[] = "PATH=/usr/bin:/bin", locale[] = "LC_ALL=C";
  char *const environment[] = {path, locale, NULL};
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  sigset_t none;
  sigemptyset(&none);
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&attributes);
  for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&files, fd, "/dev/null", fd ? O_WRONLY : O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, to, watched);
  // A group of its own: Ctrl-C is for us, not for a compiler at work.
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  int error = posix_spawn(pid, argv[0], &files, &attributes, argv, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error;
}

// Run a program to its end; `output` gets what it writes to descriptor `watched`.
static pg_status run(char *const argv[], int watched, char *output, size_t size, bool *succeeded) {
  int ends[2];
  pid_t pid;
  if (pipe2(ends, O_CLOEXEC) != 0) return pg_fail(PG_ERR_IO, "pipe: %s", strerror(errno));
  int error = spawn(argv, watched, ends[1], &pid);
  close(ends[1]);
  if (error == 0) drain(ends[0], output, size);
  close(ends[0]);
  if (error != 0) return pg_fail(PG_ERR_IO, "running %s: %s", argv[0], strerror(error));
  int status;
  pid_t waited;
  while ((waited = waitpid(pid, &status, 0)) < 0 && errno == EINTR) continue;
  if (waited < 0) return pg_fail(PG_ERR_IO, "waiting for %s: %s", argv[0], strerror(errno));
  *succeeded = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return PG_OK;
}

// Cut `text` down to its first line, or the first that speaks of an error.
static const char *first_error(char *text) {
  char *error = strstr(text, "error");
  char *line = error ? error : text;
  while (line > text && line[-1] != '\n') line--;
  line[strcspn(line, "\n")] = '\0';
  return *line ? line : "no message";
}

// ---- looking up ----------------------------------------------------------------------------------------------------

static const char *choose_path(void) {
  const char *named = getenv("PERIGEE_CC");
  if (named && *named) {
    bool good = named[0] == '/' && access(named, X_OK) == 0;
    if (!good)
      snprintf(compiler.description, sizeof compiler.description,
               "none: PERIGEE_CC is not the absolute path of a program");
    return good ? named : NULL;
  }
  for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++)
    if (access(candidates[i], X_OK) == 0) return candidates[i];
  snprintf(compiler.description, sizeof compiler.description,
           "none: no gcc, cc or clang in /usr/bin (PERIGEE_CC can name one)");
  return NULL;
}

static void add_identity(const char *text) {
  size_t used = strlen(compiler.identity);
  snprintf(compiler.identity + used, sizeof compiler.identity - used, "%s\n", text);
}

static void add_flags(const char *const *flags) {
  for (; *flags; flags++) compiler.flags[compiler.nflags++] = *flags;
}

static void identify(const char *version, const struct stat *file) {
  char time[64];
  snprintf(time, sizeof time, "%lld.%09ld", (long long)file->st_mtim.tv_sec, file->st_mtim.tv_nsec);
  add_identity(compiler.path);
  add_identity(version);
  add_identity(time);
  add_flags(common_flags);
  add_flags(strstr(version, "clang") ? clang_flags : gcc_flags);
  for (int i = 0; i < compiler.nflags; i++) add_identity(compiler.flags[i]);
  add_identity(pg_cpu_features());
}

static void look_up(void) {
  if (compiler.looked_up) return;
  compiler.looked_up = true;
  const char *path = choose_path();
  if (!path) return;
  char version[512], text[512], option[] = "--version";
  struct stat file;
  bool succeeded = false;
  snprintf(text, sizeof text, "%s", path);
  char *const argv[] = {text, option, NULL};
  if (stat(text, &file) != 0 || run(argv, 1, version, sizeof version, &succeeded) != PG_OK || !succeeded) {
    snprintf(compiler.description, sizeof compiler.description, "none: %s does not run", text);
    return;
  }
  version[strcspn(version, "\n")] = '\0';
  memcpy(compiler.path, text, sizeof text);
  snprintf(compiler.description, sizeof compiler.description, "%s: %s", text, version);
  identify(version, &file);
}

bool pg_compiler_available(void) {
  look_up();
  return compiler.path[0] != '\0';
}

const char *pg_compiler_description(void) {
  look_up();
  return compiler.description;
}

const char *pg_build_description(void) {
#ifdef __clang__
  return __VERSION__ ", " PG_ARCH;
#else
  return "gcc " __VERSION__ ", " PG_ARCH;
#endif
}

const char *pg_compiler_identity(void) {
  look_up();
  return compiler.identity;
}

pg_status pg_compiler_run(const char *source, const char *object) {
  look_up();
  char *argv[MAX_FLAGS + 5], output[4096], o[] = "-o";
  bool succeeded;
  int n = 0;
  argv[n++] = compiler.path;
  for (int i = 0; i < compiler.nflags; i++) argv[n++] = (char *)compiler.flags[i];
  argv[n++] = o;
  argv[n++] = (char *)object;
  argv[n++] = (char *)source;
  argv[n] = NULL;
  PG_TRY(run(argv, 2, output, sizeof output, &succeeded));
  if (!succeeded) return pg_fail(PG_ERR_INTERNAL, "%s: %s", compiler.path, first_error(output));
  return PG_OK;
}
