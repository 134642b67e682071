/* A file system that fails at its n-th write below one folder, or a process that is killed there; see disks.py.
   Preloaded; `faults_arm` sets n, the mode and the folder. A full disk stays full; an input/output error comes once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, FULL, IO, KILL };
static long at, seen;
static int mode = -1;
static char folder[PATH_MAX];

void faults_arm(long n, int what, const char *where) {
  at = n, seen = 0, mode = what;
  snprintf(folder, sizeof folder, "%s", where);
}
long faults_seen(void) { return seen; }

static int below(const char *path) {
  char whole[2 * PATH_MAX];
  if (mode < 0 || !path) return 0;
  if (path[0] != '/') {
    if (!getcwd(whole, PATH_MAX)) return 0;
    strncat(whole, "/", 2), strncat(whole, path, PATH_MAX);
    path = whole;
  }
  return strncmp(path, folder, strlen(folder)) == 0;
}
static int open_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = mode < 0 ? -1 : readlink(link, path, sizeof path - 1);
  return n > 0 && (path[n] = 0, below(path));
}
/* Whether this operation fails; `grows` where it needs room on the disk. */
static int fails(int grows) {
  seen++;
  if (mode == COUNT || seen < at) return 0;
  if (mode == KILL && seen == at) kill(getpid(), SIGKILL);
  if (mode == IO && seen == at) return errno = EIO;
  if (mode == FULL && grows) return errno = ENOSPC;
  return 0;
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t n) { return open_below(fd) && fails(1) ? -1 : REAL(write)(fd, data, n); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t to) { return open_below(fd) && fails(1) ? -1 : REAL(pwrite64)(fd, data, n, to); }
ssize_t writev(int fd, const struct iovec *parts, int n) { return open_below(fd) && fails(1) ? -1 : REAL(writev)(fd, parts, n); }
int ftruncate64(int fd, off64_t n) { return open_below(fd) && fails(n > 0) ? -1 : REAL(ftruncate64)(fd, n); }
int fsync(int fd) { return open_below(fd) && fails(0) ? -1 : REAL(fsync)(fd); }
int rename(const char *from, const char *to) { return below(to) && fails(0) ? -1 : REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { return below(to) && fails(0) ? -1 : REAL(renameat)(a, from, b, to); }
int link(const char *from, const char *to) { return below(to) && fails(1) ? -1 : REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int f) { return below(to) && fails(1) ? -1 : REAL(linkat)(a, from, b, to, f); }
int mkdir(const char *path, mode_t m) { return below(path) && fails(1) ? -1 : REAL(mkdir)(path, m); }
int unlink(const char *path) { return below(path) && fails(0) ? -1 : REAL(unlink)(path); }
#define OPENS(name, before, args)                                                    \
  int name(before const char *path, int flags, ...) {                                \
    va_list more;                                                                    \
    va_start(more, flags);                                                           \
    mode_t m = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;             \
    va_end(more);                                                                    \
    return flags & O_CREAT && below(path) && fails(1) ? -1 : REAL(name) args;        \
  }
#define NONE
OPENS(open, NONE, (path, flags, m))
OPENS(open64, NONE, (path, flags, m))
#define AT int at_fd,
OPENS(openat, AT, (at_fd, path, flags, m))
OPENS(openat64, AT, (at_fd, path, flags, m))
