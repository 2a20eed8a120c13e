// editor.c: reading lines from a person, as the Lua module perigee.editor: with libedit on a terminal that can, by
// itself on one that cannot. The only file that knows libedit. What is completed, what is remembered between sessions
// and what the lines mean is decided in Lua (prompt.lua); there is one terminal, and so one editor.
#define _GNU_SOURCE // pipe2
#include "bindings/editor.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include <histedit.h>
#include <lauxlib.h>

enum { HISTORY_SIZE = 2000 };

static struct {
  EditLine *line;
  History *history;
  locale_t locale; // of what is typed; Lua itself stays in the C locale
  int wake[2];     // a pipe: a signal wakes the reader, whichever thread it arrived at
  lua_State *L;    // who reads, for completion
  char prompt[512];
} editor = {.wake = {-1, -1}};

static const char completer_key;

// ---- signals while a line is read ----

static volatile sig_atomic_t interrupted, resized, continued;

static void note_signal(int number) {
  int before = errno;
  if (number == SIGINT) interrupted = 1;
  if (number == SIGWINCH) resized = 1;
  if (number == SIGCONT) continued = 1;
  ssize_t n = write(editor.wake[1], "", 1);
  (void)n; // a full pipe wakes as well
  errno = before;
}

static const int noted[] = {SIGINT, SIGWINCH, SIGCONT};
enum { NOTED = sizeof noted / sizeof *noted };

static void take_signals(struct sigaction *before) {
  interrupted = resized = continued = 0;
  struct sigaction action = {.sa_handler = note_signal};
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < NOTED; i++) sigaction(noted[i], &action, &before[i]);
}

static void release_signals(const struct sigaction *before) {
  for (int i = 0; i < NOTED; i++) sigaction(noted[i], &before[i], NULL);
}

static bool open_pipe(void) {
  if (editor.wake[0] >= 0) return true;
  return pipe2(editor.wake, O_CLOEXEC | O_NONBLOCK) == 0;
}

// Wait until there is something to read. → 1; 0 after a signal.
static int wait_for_input(void) {
  struct pollfd fds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = editor.wake[0], .events = POLLIN}};
  if (poll(fds, 2, -1) < 0) return errno == EINTR ? 0 : 1;
  char drained[64];
  while (read(editor.wake[0], drained, sizeof drained) > 0) continue;
  return fds[1].revents ? 0 : 1;
}

// ---- keys ----

// The window has changed, or the process was stopped and goes on.
static void refresh_line(EditLine *line) {
  if (continued) el_set(line, EL_PREP_TERM, 1);
  if (resized) el_resize(line);
  if (continued || resized) el_set(line, EL_REFRESH);
  continued = resized = 0;
}

// libedit's way to a character: 1, or -1 at the end of the input and after Ctrl-C.
static int read_character(EditLine *line, wchar_t *out) {
  mbstate_t state = {0};
  for (;;) {
    int ready = wait_for_input();
    if (interrupted) return -1;
    refresh_line(line);
    if (!ready) continue;
    char byte;
    ssize_t n = read(STDIN_FILENO, &byte, 1);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return -1;
    size_t used = mbrtowc(out, &byte, 1, &state);
    if (used != (size_t)-1 && used != (size_t)-2) return 1;
    if (used == (size_t)-1) state = (mbstate_t){0}; // not a character of this locale
  }
}

// Call the completer (Lua) with the text before the cursor → text to insert and text to show, either may be nil.
static unsigned char complete(EditLine *line, int key) {
  (void)key;
  lua_State *L = editor.L;
  const LineInfo *info = el_line(line);
  int top = lua_gettop(L);
  unsigned char result = CC_ERROR;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &completer_key);
  lua_pushlstring(L, info->buffer, (size_t)(info->cursor - info->buffer));
  if (lua_isfunction(L, top + 1) && lua_pcall(L, 1, 2, 0) == LUA_OK) {
    const char *inserted = lua_tostring(L, top + 1), *shown = lua_tostring(L, top + 2);
    if (inserted && *inserted && el_insertstr(line, inserted) == 0) result = CC_REFRESH;
    if (shown) {
      printf("\n%s", shown);
      fflush(stdout);
      el_set(line, EL_REFRESH);
      result = CC_NORM;
    }
  }
  lua_settop(L, top);
  return result;
}

// A bracketed paste: everything up to its end mark is text, line ends and tabs too.
static unsigned char paste(EditLine *line, int key) {
  (void)key;
  static const wchar_t end[] = L"\033[201~";
  const size_t mark = sizeof end / sizeof *end - 1;
  size_t n = 0, room = 256;
  wchar_t *text = malloc(room * sizeof *text);
  for (wchar_t c; text && el_wgetc(line, &c) == 1;) {
    text[n++] = c == L'\r' ? L'\n' : c;
    if (n >= mark && wcsncmp(text + n - mark, end, mark) == 0) {
      n -= mark;
      break;
    }
    if (n + 1 < room) continue;
    wchar_t *larger = realloc(text, 2 * room * sizeof *text);
    if (!larger) n = 0;
    if (larger) text = larger, room *= 2;
  }
  if (!text) return CC_ERROR;
  while (n > 0 && text[n - 1] == L'\n') n--; // Enter is left to the person
  text[n] = 0;
  bool inserted = n > 0 && el_winsertstr(line, text) == 0;
  free(text);
  return inserted ? CC_REFRESH : CC_ERROR;
}

// ---- opening ----

static char *give_prompt(EditLine *line) {
  (void)line;
  return editor.prompt;
}

// Keys beyond libedit's emacs ones: what people know from shells.
static void bind_keys(EditLine *line) {
  static const char *const keys[][2] = {
      {"^I", "perigee-complete"},           {"\033[200~", "perigee-paste"},       {"^R", "em-inc-search-prev"},
      {"^W", "ed-delete-prev-word"},        {"^U", "vi-kill-line-prev"},          {"\033[A", "ed-search-prev-history"},
      {"\033OA", "ed-search-prev-history"}, {"\033[B", "ed-search-next-history"}, {"\033OB", "ed-search-next-history"},
      {"\033[H", "ed-move-to-beg"},         {"\033[F", "ed-move-to-end"},         {"\033[1~", "ed-move-to-beg"},
      {"\033[4~", "ed-move-to-end"},        {"\033[3~", "ed-delete-next-char"},   {"\033[1;5C", "em-next-word"},
      {"\033[1;5D", "ed-prev-word"},
  };
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) el_set(line, EL_BIND, keys[i][0], keys[i][1], NULL);
}

// The locale's characters; a locale without any (C, POSIX) is taken for UTF-8, which contains ASCII.
static locale_t find_locale(void) {
  locale_t found = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
  if (found && strcmp(nl_langinfo_l(CODESET, found), "ANSI_X3.4-1968") != 0) return found;
  locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
  return utf8 ? utf8 : found;
}

static bool open_editor(void) {
  if (editor.line) return true;
  if (!open_pipe()) return false;
  if (!editor.locale) editor.locale = find_locale();
  if (!editor.locale) return false;
  locale_t before = uselocale(editor.locale);
  EditLine *line = editor.line = el_init("perigee", stdin, stdout, stderr);
  HistEvent event;
  if (!editor.history) editor.history = history_init();
  if (line && editor.history) {
    history(editor.history, &event, H_SETSIZE, HISTORY_SIZE);
    history(editor.history, &event, H_SETUNIQUE, 1);
    el_set(line, EL_EDITOR, "emacs");
    el_set(line, EL_SIGNAL, 0);
    el_set(line, EL_HIST, history, editor.history);
    el_set(line, EL_PROMPT_ESC, give_prompt, '\1');
    el_set(line, EL_GETCFN, read_character);
    el_set(line, EL_ADDFN, "perigee-complete", "complete names", complete);
    el_set(line, EL_ADDFN, "perigee-paste", "insert a paste", paste);
    bind_keys(line);
    el_source(line, NULL); // the person's own ~/.editrc
  }
  uselocale(before);
  return line && editor.history;
}

// ---- the module ----

// Push what a reader returns when there is no line: nil and "interrupted" or "end". echo: what Ctrl-C leaves on screen.
static int push_none(lua_State *L, const char *echo) {
  if (interrupted) {
    puts(echo);
    fflush(stdout);
  }
  lua_pushnil(L);
  lua_pushstring(L, interrupted ? "interrupted" : "end");
  return 2;
}

static void switch_paste(bool on) {
  fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
  fflush(stdout);
}

// editor.read(prompt) → what was typed, of one line or, after a paste or from the history, several, without the last
// line end; nil and "interrupted" after Ctrl-C, nil and "end" at the end. Bytes between \1 in the prompt take no room.
static int editor_read(lua_State *L) {
  snprintf(editor.prompt, sizeof editor.prompt, "%s", luaL_checkstring(L, 1));
  if (!open_editor()) return luaL_error(L, "the line editor cannot be opened: %s", strerror(errno));
  struct sigaction before[NOTED];
  take_signals(before);
  locale_t locale = uselocale(editor.locale);
  editor.L = L;
  switch_paste(true);
  el_set(editor.line, EL_PREP_TERM, 1); // el_gets would do it behind the prompt, and lose keys that answer it at once
  int n = 0;
  const char *text = el_gets(editor.line, &n);
  switch_paste(false);
  editor.L = NULL;
  uselocale(locale);
  release_signals(before);
  if (!text || n <= 0) return push_none(L, "^C");
  lua_pushlstring(L, text, (size_t)n - (text[n - 1] == '\n'));
  return 1;
}

// editor.read_plain(prompt): the same without any editing, for terminals that know no escape codes.
static int editor_read_plain(lua_State *L) {
  const char *prompt = luaL_checkstring(L, 1);
  if (!open_pipe()) return luaL_error(L, "the terminal cannot be read: %s", strerror(errno));
  struct sigaction before[NOTED];
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  take_signals(before); // before the prompt invites to type
  fputs(prompt, stdout);
  fflush(stdout);
  char byte = 0;
  ssize_t n = 1;
  while (!interrupted && byte != '\n') {
    if (!wait_for_input()) continue;
    n = read(STDIN_FILENO, &byte, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    if (byte != '\n') luaL_addchar(&b, byte);
  }
  release_signals(before);
  luaL_pushresult(&b);
  if (interrupted || (n <= 0 && lua_rawlen(L, -1) == 0)) return push_none(L, ""); // the terminal echoes by itself
  return 1;
}

// editor.remember(text): add an entry to the history.
static int editor_remember(lua_State *L) {
  const char *text = luaL_checkstring(L, 1);
  if (!open_editor()) return 0;
  HistEvent event;
  locale_t before = uselocale(editor.locale);
  history(editor.history, &event, H_ENTER, text);
  uselocale(before);
  return 0;
}

// editor.set_completer(f): f(text before the cursor) → text to insert, text to show.
static int editor_set_completer(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &completer_key);
  return 0;
}

int luaopen_perigee_editor(lua_State *L) {
  static const luaL_Reg functions[] = {{"read", editor_read},
                                       {"read_plain", editor_read_plain},
                                       {"remember", editor_remember},
                                       {"set_completer", editor_set_completer},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_pushinteger(L, HISTORY_SIZE);
  lua_setfield(L, -2, "history_size");
  return 1;
}
