// pty_run.c: a person at a terminal, for tests. Runs a command on a pseudo terminal of 80 x 24 and plays a script read
// from standard input, one action a line:
//   expect TEXT   wait until TEXT comes out, behind what the expect before it found
//   send TEXT     type TEXT: \n is Enter, \t Tab, \xHH any byte (\x03 is Ctrl-C, \x04 Ctrl-D), \\ a backslash
//   touch PATH    make an empty file, for which the command may wait
//   kill          SIGKILL
// At the end of the script it waits for the command. Everything that came out goes to standard output as it came; the
// exit status is the command's, 128 + n after signal n, 125 if the script could not be played (the reason on stderr).
// Nothing here sleeps: a test is synchronized by what it expects.
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 60, CANNOT_PLAY = 125, MOST_OUTPUT = 1 << 22 };

typedef struct session {
  int terminal; // the master's end
  pid_t child;
  char *seen; // all output so far, with a 0 behind it
  size_t length, found;
  bool ended;
} session;

static void give_up(session *s, const char *why, const char *what) {
  fprintf(stderr, "pty_run: %s '%s'; what came out since:\n%s\n", why, what, s->seen + s->found);
  if (s->child > 0) kill(s->child, SIGKILL);
  exit(CANNOT_PLAY);
}

// Read what there is, waiting for up to a second. The terminal reports an error once nobody holds its other end.
static void read_some(session *s) {
  struct pollfd ready = {.fd = s->terminal, .events = POLLIN};
  if (poll(&ready, 1, 1000) <= 0) return;
  if (s->length + 4096 >= MOST_OUTPUT) give_up(s, "too much output before", "the end");
  ssize_t n = read(s->terminal, s->seen + s->length, 4095);
  if (n <= 0 && !(n < 0 && errno == EINTR)) s->ended = true;
  if (n <= 0) return;
  fwrite(s->seen + s->length, 1, (size_t)n, stdout);
  for (ssize_t i = 0; i < n; i++) // so that strstr sees all of it
    if (!s->seen[s->length + (size_t)i]) s->seen[s->length + (size_t)i] = ' ';
  s->length += (size_t)n;
  s->seen[s->length] = 0;
}

static void expect(session *s, const char *text) {
  time_t deadline = time(NULL) + PATIENCE;
  for (;;) {
    char *at = strstr(s->seen + s->found, text);
    if (at) {
      s->found = (size_t)(at - s->seen) + strlen(text);
      return;
    }
    if (s->ended) give_up(s, "the command ended before", text);
    if (time(NULL) > deadline) give_up(s, "too long without", text);
    read_some(s);
  }
}

// Decode the escapes of `text` in place. → its length
static size_t unescape(char *text) {
  char *to = text;
  for (char *from = text; *from; from++) {
    unsigned byte;
    if (*from != '\\') {
      *to++ = *from;
    } else if (from[1] == 'x' && isxdigit((unsigned char)from[2]) && sscanf(from + 2, "%2x", &byte) == 1) {
      *to++ = (char)byte;
      from += 3;
    } else if (*++from == 'n') {
      *to++ = '\r'; // what the Enter key sends
    } else {
      *to++ = (char)(*from == 't' ? '\t' : *from);
    }
  }
  return (size_t)(to - text);
}

static void send_text(session *s, char *text) {
  size_t n = unescape(text);
  if (write(s->terminal, text, n) != (ssize_t)n) give_up(s, "cannot type", text);
}

static void touch(session *s, const char *path) {
  int fd = open(path, O_WRONLY | O_CREAT, 0666);
  if (fd < 0) give_up(s, "cannot make", path);
  close(fd);
}

static void play(session *s, char *line) {
  line[strcspn(line, "\n")] = 0;
  char *argument = strchr(line, ' ');
  if (argument) *argument++ = 0;
  if (argument && !strcmp(line, "expect"))
    expect(s, argument);
  else if (argument && !strcmp(line, "send"))
    send_text(s, argument);
  else if (argument && !strcmp(line, "touch"))
    touch(s, argument);
  else if (!strcmp(line, "kill"))
    kill(s->child, SIGKILL);
  else if (*line)
    give_up(s, "no such action:", line);
}

static int wait_for_end(session *s) {
  time_t deadline = time(NULL) + PATIENCE;
  while (!s->ended) {
    if (time(NULL) > deadline) give_up(s, "too long without", "the end");
    read_some(s);
  }
  int status;
  while (waitpid(s->child, &status, 0) < 0)
    if (errno != EINTR) return CANNOT_PLAY;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: pty_run COMMAND [ARGUMENT …] <script\n");
    return CANNOT_PLAY;
  }
  session s = {.seen = calloc(1, MOST_OUTPUT)};
  struct winsize size = {.ws_row = 24, .ws_col = 80};
  s.child = s.seen ? forkpty(&s.terminal, NULL, NULL, &size) : -1;
  if (s.child < 0) {
    perror("pty_run");
    return CANNOT_PLAY;
  }
  if (s.child == 0) {
    signal(SIGINT, SIG_DFL); // a shell without job control starts what runs in the background deaf to it
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    _exit(CANNOT_PLAY);
  }
  char line[4096];
  while (fgets(line, sizeof line, stdin)) play(&s, line);
  return wait_for_end(&s);
}
