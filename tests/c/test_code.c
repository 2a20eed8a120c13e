// test_code.c: compiled code and its cache: what is kept is found again, what is damaged is built again, what cannot be
// trusted is refused, and what fails says why.
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/c/kernel_kit.h"

static char directory[256]; // of this test, removed at the end

static const char *path_of(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

static void write_file(const char *path, const char *text, mode_t mode) {
  FILE *f = fopen(path, "w");
  CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0 && chmod(path, mode) == 0);
}

// The compiler is looked up once in a process, so tests that change it run in one of their own.
static void in_child(void (*body)(void)) {
  fflush(stdout);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    if (setjmp(check_state.leave) == 0) {
      body();
      _exit(0);
    }
    fprintf(stderr, "in a child: %s\n", check_state.why);
    _exit(check_state.outcome == CHECK_SKIPPED ? 2 : 1);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) CHECK_SKIP("see above");
  CHECK_THAT(WEXITSTATUS(status) == 0, "the child said why on stderr");
}

// y = x + number, so that each number gives other code.
static kit *adding(double number) {
  kit *t = kit_new(PG_SPACE_GRID, PG_REDUCE_NONE, 1, (int64_t[]){20});
  int x = kit_load(t, kit_dense(t, PG_ARG_LOAD, PG_I32, -1));
  int y = kit_map(t, PG_OP_ADD, PG_I32, x, kit_const(t, PG_I32, number), -1);
  kit_store(t, kit_dense(t, PG_ARG_STORE, PG_I32, -1), y);
  return t;
}

static pg_status build(double number, pg_code **code) {
  kit *t = adding(number);
  const pg_kernel *k = &t->k;
  pg_status status = pg_code_build(1, &k, code);
  if (status == PG_OK) {
    outcome expected = kit_run(t, execute_naively, NULL, false);
    outcome o = kit_run(t, execute_generated, pg_code_entry(*code, 0), false);
    CHECK(same_outcome(t, &expected, &o));
    outcome_free(&expected), outcome_free(&o);
  }
  kit_free(t);
  return status;
}

// Build, let go, and say how long the compiler ran.
static double build_seconds(double number) {
  pg_code *code;
  CHECK_STATUS(build(number, &code), PG_OK);
  double seconds = pg_code_compile_seconds(code);
  pg_code_free(code);
  return seconds;
}

static void use_cache(const char *name) {
  setenv("PERIGEE_CACHE", path_of(name), 1);
}

static void need_compiler(void) {
  if (!pg_compiler_available()) CHECK_SKIP("%s", pg_compiler_description());
}

// The path of the only entry in a cache.
static void only_entry(const char *cache, char path[512]) {
  char pattern[600];
  glob_t found;
  snprintf(pattern, sizeof pattern, "%s/*", path_of(cache));
  CHECK(glob(pattern, 0, NULL, &found) == 0);
  CHECK_THAT(found.gl_pathc == 1, "%zu files, the last %s", found.gl_pathc, found.gl_pathv[found.gl_pathc - 1]);
  snprintf(path, 512, "%s", found.gl_pathv[0]);
  globfree(&found);
}

static void code_is_kept_and_found(void) {
  need_compiler();
  use_cache("deep/er/kept");
  CHECK(build_seconds(1) > 0);
  CHECK(build_seconds(1) == 0);
  CHECK(build_seconds(2) > 0);
  struct stat s;
  CHECK(stat(path_of("deep/er/kept"), &s) == 0 && (s.st_mode & 0777) == 0700);
}

static void code_is_shared_while_in_use(void) {
  need_compiler();
  use_cache("shared");
  pg_code *a, *b;
  CHECK_STATUS(build(3, &a), PG_OK);
  CHECK_STATUS(build(3, &b), PG_OK);
  CHECK(a == b);
  pg_code_free(a);
  CHECK(strstr(pg_code_source(b), "pg_kernel_0"));
  pg_code_free(b);
  pg_code_free(NULL);
}

static void damaged_code_is_built_again(void) {
  need_compiler();
  use_cache("damaged");
  CHECK(build_seconds(4) > 0);
  char path[512];
  only_entry("damaged", path);
  struct stat s;
  CHECK(stat(path, &s) == 0);
  const long places[] = {0, s.st_size / 2, s.st_size - 41, s.st_size - 20, s.st_size - 1};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    FILE *f = fopen(path, "r+");
    CHECK(f && fseek(f, places[i], SEEK_SET) == 0);
    int byte = fgetc(f);
    CHECK(fseek(f, places[i], SEEK_SET) == 0 && fputc(byte ^ 1, f) != EOF && fclose(f) == 0);
    CHECK_THAT(build_seconds(4) > 0, "byte %ld", places[i]);
    CHECK(build_seconds(4) == 0);
  }
  const long sizes[] = {0, 10, 40, s.st_size - 1};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    CHECK(truncate(path, sizes[i]) == 0);
    CHECK_THAT(build_seconds(4) > 0, "%ld bytes", sizes[i]);
  }
  only_entry("damaged", path); // nothing else was left behind
}

static void expect_refusal(const char *what) {
  pg_code *code = (pg_code *)&code;
  CHECK_STATUS(build(5, &code), PG_ERR_IO);
  CHECK(code == NULL);
  CHECK_THAT(strstr(pg_last_error(), what), "%s", pg_last_error());
}

static void a_cache_that_others_can_write_is_refused(void) {
  need_compiler();
  use_cache("open");
  CHECK(mkdir(path_of("open"), 0700) == 0 && chmod(path_of("open"), 0770) == 0);
  expect_refusal("others may write");
  CHECK(chmod(path_of("open"), 0702) == 0);
  expect_refusal("others may write");
  CHECK(chmod(path_of("open"), 0700) == 0);
  CHECK(build_seconds(5) > 0);
  CHECK(symlink(directory, path_of("link")) == 0);
  use_cache("link");
  expect_refusal("not a directory");
  write_file(path_of("file"), "", 0600);
  use_cache("file");
  expect_refusal("not a directory");
  setenv("PERIGEE_CACHE", "relative/path", 1);
  expect_refusal("absolute");
}

static void a_cache_of_somebody_else_is_refused(void) {
  need_compiler();
  if (geteuid() != 0) CHECK_SKIP("only root can give a directory away");
  use_cache("foreign");
  CHECK(mkdir(path_of("foreign"), 0700) == 0 && chown(path_of("foreign"), 12345, 12345) == 0);
  expect_refusal("another user");
}

static int count_temporaries(void) {
  glob_t found;
  int n = glob("/tmp/perigee-??????", 0, NULL, &found) == 0 ? (int)found.gl_pathc : 0;
  globfree(&found);
  return n;
}

static void without_a_home_code_is_built_and_not_kept(void) {
  need_compiler();
  unsetenv("PERIGEE_CACHE");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  int before = count_temporaries();
  CHECK(build_seconds(6) > 0);
  CHECK(build_seconds(6) > 0);
  CHECK(count_temporaries() <= before);
}

static void the_cache_stands_where_the_desktop_wants_it(void) {
  need_compiler();
  unsetenv("PERIGEE_CACHE");
  setenv("XDG_CACHE_HOME", path_of("xdg"), 1);
  CHECK(build_seconds(7) > 0);
  CHECK(access(path_of("xdg/perigee"), F_OK) == 0);
  unsetenv("XDG_CACHE_HOME");
  setenv("HOME", path_of("home"), 1);
  CHECK(build_seconds(7) > 0);
  CHECK(access(path_of("home/.cache/perigee"), F_OK) == 0);
}

static void expect_no_compiler(void) {
  pg_code *code;
  use_cache("none");
  CHECK(!pg_compiler_available());
  CHECK_STATUS(build(8, &code), PG_ERR_UNSUPPORTED);
  CHECK(strstr(pg_compiler_description(), "none"));
}

static void a_missing_compiler(void) {
  setenv("PERIGEE_CC", path_of("not-there"), 1);
  in_child(expect_no_compiler);
}

static void a_compiler_named_without_its_path(void) {
  setenv("PERIGEE_CC", "gcc", 1);
  in_child(expect_no_compiler);
}

static void a_compiler_that_does_not_run(void) {
  write_file(path_of("broken-cc"), "#!/bin/sh\nexit 3\n", 0700);
  setenv("PERIGEE_CC", path_of("broken-cc"), 1);
  in_child(expect_no_compiler);
}

static void expect_boom(void) {
  pg_code *code;
  use_cache("failing");
  CHECK_STATUS(build(9, &code), PG_ERR_INTERNAL);
  CHECK_THAT(strstr(pg_last_error(), "k.c:3: error: boom") && !strchr(pg_last_error(), '\n'), "%s", pg_last_error());
  CHECK_STATUS(build(9, &code), PG_ERR_INTERNAL);
  CHECK(rmdir(path_of("failing")) == 0); // nothing was left behind
}

static void a_failing_compiler_is_quoted(void) {
  write_file(path_of("failing-cc"),
             "#!/bin/sh\n[ \"$1\" = --version ] && { echo failing 1.0; exit 0; }\n"
             "[ -n \"$HOME$PERIGEE_CC\" ] && exit 0\n" // the environment is clean, or this test fails
             "echo 'k.c: in a function:' >&2; echo 'k.c:3: error: boom' >&2; echo more >&2; exit 1\n",
             0700);
  setenv("PERIGEE_CC", path_of("failing-cc"), 1);
  in_child(expect_boom);
}

static void expect_unloadable(void) {
  pg_code *code;
  use_cache("lying");
  CHECK_STATUS(build(10, &code), PG_ERR_INTERNAL);
  CHECK_THAT(strstr(pg_last_error(), "does not load"), "%s", pg_last_error());
  CHECK(rmdir(path_of("lying")) == 0); // it was not kept
}

static void a_compiler_that_lies(void) {
  write_file(path_of("lying-cc"),
             "#!/bin/sh\n[ \"$1\" = --version ] && { echo lying 1.0; exit 0; }\n"
             "while [ \"$1\" != -o ]; do shift; done\necho nonsense > \"$2\"\n",
             0700);
  setenv("PERIGEE_CC", path_of("lying-cc"), 1);
  in_child(expect_unloadable);
}

static void descriptions_are_lines(void) {
  CHECK(*pg_cpu_description() && !strchr(pg_cpu_description(), '\n'));
  CHECK(*pg_compiler_description() && !strchr(pg_compiler_description(), '\n'));
}

static void remove_tree(const char *path) {
  DIR *d = opendir(path);
  for (struct dirent *e; d && (e = readdir(d));) {
    char inner[1024];
    struct stat s;
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
    if (lstat(inner, &s) == 0 && S_ISDIR(s.st_mode))
      remove_tree(inner);
    else
      unlink(inner);
  }
  if (d) closedir(d);
  rmdir(path);
}

int main(void) {
  const char *tmp = getenv("TMPDIR");
  snprintf(directory, sizeof directory, "%s/test-code-XXXXXX", tmp && *tmp == '/' ? tmp : "/tmp");
  if (!mkdtemp(directory)) return 1;
  // These come first: afterwards the compiler of this process is known.
  CHECK_RUN(a_missing_compiler);
  CHECK_RUN(a_compiler_named_without_its_path);
  CHECK_RUN(a_compiler_that_does_not_run);
  CHECK_RUN(a_failing_compiler_is_quoted);
  CHECK_RUN(a_compiler_that_lies);
  unsetenv("PERIGEE_CC");
  CHECK_RUN(code_is_kept_and_found);
  CHECK_RUN(code_is_shared_while_in_use);
  CHECK_RUN(damaged_code_is_built_again);
  CHECK_RUN(a_cache_that_others_can_write_is_refused);
  CHECK_RUN(a_cache_of_somebody_else_is_refused);
  CHECK_RUN(without_a_home_code_is_built_and_not_kept);
  CHECK_RUN(the_cache_stands_where_the_desktop_wants_it);
  CHECK_RUN(descriptions_are_lines);
  remove_tree(directory);
  return check_result();
}
