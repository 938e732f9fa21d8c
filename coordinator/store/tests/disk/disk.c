/* A disk that fails when it is told to: put in front of the C library with LD_PRELOAD, so that the real SQLite, the real
 * standard library and the real programs meet it.
 *
 *   DISK_MATCH   part of the paths that are on this disk
 *   DISK_FAIL_AT the how manieth write to it fails, from 1 on
 *   DISK_ERRNO   with what, ENOSPC unless it is said
 *   DISK_KILL    set: the program is killed in the middle of that write instead
 *   DISK_FULL    a file: while it is there, every write that takes room fails with ENOSPC
 *   DISK_FIRED   a file that is made when something has failed
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long writes;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(type, name, ...) static type (*next)(__VA_ARGS__); if (!next) next = real(name)

static int on_disk(const char *path) {
  const char *part = getenv("DISK_MATCH");
  return part && path && strstr(path, part) != NULL;
}

static int fd_on_disk(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return on_disk(path);
}

static void fired(void) {
  const char *file = getenv("DISK_FIRED");
  if (!file) return;
  REAL(int, "open", const char *, int, ...);
  int fd = next(file, O_CREAT | O_WRONLY, 0644);
  if (fd >= 0) close(fd);
}

/* What this write is to come to: 0 is well, 1 fails, 2 is killed. */
static int verdict(int takes_room) {
  int before = errno;
  const char *full = getenv("DISK_FULL");
  if (full && takes_room && access(full, F_OK) == 0) {
    fired();
    errno = ENOSPC;
    return 1;
  }
  errno = before;
  const char *at = getenv("DISK_FAIL_AT");
  if (!at || atomic_fetch_add(&writes, 1) + 1 != atol(at)) return 0;
  fired();
  if (getenv("DISK_KILL")) return 2;
  const char *code = getenv("DISK_ERRNO");
  errno = code ? atoi(code) : ENOSPC;
  return 1;
}

static void end(void) { kill(getpid(), SIGKILL); pause(); }

/* A write of bytes tears: half of them reach the disk. */
#define TEAR(call, n) do { int torn = errno; if ((n) > 1) (void)!(call); errno = torn; } while (0)
#define FAIL_BYTES(fd, half, n) \
  if (fd_on_disk(fd)) { int how = verdict(1); if (how) { TEAR(half, n); if (how == 2) end(); return -1; } }
#define FAIL(matches, takes_room) \
  if (matches) { int how = verdict(takes_room); if (how == 2) end(); if (how) return -1; }

ssize_t write(int fd, const void *b, size_t n) {
  REAL(ssize_t, "write", int, const void *, size_t);
  FAIL_BYTES(fd, next(fd, b, n / 2), n);
  return next(fd, b, n);
}
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) {
  REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
  FAIL_BYTES(fd, next(fd, b, n / 2, o), n);
  return next(fd, b, n, o);
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  FAIL_BYTES(fd, next(fd, b, n / 2, o), n);
  return next(fd, b, n, o);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  FAIL_BYTES(fd, next(fd, v, n / 2), n);
  return next(fd, v, n);
}
int fsync(int fd) { REAL(int, "fsync", int); FAIL(fd_on_disk(fd), 0); return next(fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); FAIL(fd_on_disk(fd), 0); return next(fd); }
int ftruncate(int fd, off_t n) { REAL(int, "ftruncate", int, off_t); FAIL(fd_on_disk(fd), 0); return next(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(int, "ftruncate64", int, off64_t); FAIL(fd_on_disk(fd), 0); return next(fd, n); }
int rename(const char *a, const char *b) { REAL(int, "rename", const char *, const char *); FAIL(on_disk(b), 1); return next(a, b); }
int mkdir(const char *p, mode_t m) { REAL(int, "mkdir", const char *, mode_t); FAIL(on_disk(p), 1); return next(p, m); }
int unlink(const char *p) { REAL(int, "unlink", const char *); FAIL(on_disk(p), 0); return next(p); }
int fallocate(int fd, int m, off_t o, off_t n) { REAL(int, "fallocate", int, int, off_t, off_t); FAIL(fd_on_disk(fd), 1); return next(fd, m, o, n); }

/* Only a file that is made takes room. */
#define OPEN(name) \
  int name(const char *p, int flags, ...) { \
    REAL(int, #name, const char *, int, ...); \
    va_list a; va_start(a, flags); mode_t m = (flags & O_CREAT) ? va_arg(a, mode_t) : 0; va_end(a); \
    FAIL((flags & O_CREAT) && on_disk(p) && access(p, F_OK) != 0, 1); \
    return next(p, flags, m); \
  }
OPEN(open)
OPEN(open64)
