/* A disk that fails on demand: preloaded, it stands in front of the calls that write and sync, and of malloc.

   Only files under one directory count. The n-th counted call since `iofault_arm` fails in the way that is asked for, or
   takes its time, or the process ends before or after it, or is stopped. Nothing is armed when the library is loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, FAIL, SHORT, LATE, DROP, KILL_BEFORE, KILL_AFTER, STOP, SLOW };

static char root[PATH_MAX];
static size_t root_length;
static long at, until, seen, allocation, allocations;
static int kind, number;
static __thread int inside;

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

/* The calls from the n-th to the last-th fail; `error` is an error number for FAIL and LATE, milliseconds for SLOW. */
void iofault_arm(const char *where, long first, long last, int how, int error) {
    snprintf(root, sizeof root, "%s", where);
    root_length = strlen(root);
    seen = 0; at = first; until = last; kind = how; number = error;
}

long iofault_seen(void) { return seen; }

/* The n-th allocation from now fails, and `many` after it; 0 is none. */
static long failing;
void iofault_arm_memory(long first, long many) { allocations = 0; failing = many; allocation = first; }
long iofault_allocations(void) { return allocations; }

static int concerns_path(const char *path) { return root_length && !strncmp(path, root, root_length); }

static int concerns(int fd) {
    char link[64], path[PATH_MAX];
    if (!root_length || inside) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return concerns_path(path);
}

static int due(int concerned) {
    if (!concerned) return NONE;
    long now = ++seen;
    return now >= at && now <= until ? kind : NONE;
}

static int failed(void) { errno = number; return -1; }

#define AROUND(concerned, call, nothing, shorter)                       \
    do {                                                                \
        int how = due(concerned);                                       \
        if (how == NONE) return call;                                   \
        if (how == FAIL) return failed();                               \
        if (how == SHORT) return shorter;                               \
        if (how == DROP) return nothing;                                \
        if (how == STOP) kill(getpid(), SIGSTOP);                       \
        if (how == SLOW) usleep(number * 1000);                         \
        if (how == STOP || how == SLOW) return call;                    \
        if (how == KILL_BEFORE) kill(getpid(), SIGKILL);                \
        __typeof__(call) result = call;                                 \
        if (how == KILL_AFTER) kill(getpid(), SIGKILL);                 \
        (void)result;                                                   \
        return failed();                                                \
    } while (0)

static ssize_t total(const struct iovec *parts, int count) {
    ssize_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))next(name))

ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = REAL(ssize_t, "write", int, const void *, size_t);
    AROUND(concerns(fd), real(fd, data, size), (ssize_t)size, real(fd, data, size / 2));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    AROUND(concerns(fd), real(fd, data, size, offset), (ssize_t)size, real(fd, data, size / 2, offset));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = REAL(ssize_t, "writev", int, const struct iovec *, int);
    AROUND(concerns(fd), real(fd, parts, count), total(parts, count), real(fd, parts, (count + 1) / 2));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    static ssize_t (*real)(int, const struct iovec *, int, off64_t);
    if (!real) real = REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    AROUND(concerns(fd), real(fd, parts, count, offset), total(parts, count), real(fd, parts, (count + 1) / 2, offset));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

#define SIMPLE(name, concerned, types, arguments)                       \
    int name types {                                                    \
        static int (*real) types;                                       \
        if (!real) real = (int (*) types)next(#name);                   \
        AROUND(concerned, real arguments, 0, failed());                 \
    }

SIMPLE(fsync, concerns(fd), (int fd), (fd))
SIMPLE(fdatasync, concerns(fd), (int fd), (fd))
SIMPLE(ftruncate64, concerns(fd), (int fd, off64_t size), (fd, size))
SIMPLE(truncate64, concerns_path(path), (const char *path, off64_t size), (path, size))
SIMPLE(rename, concerns_path(from), (const char *from, const char *to), (from, to))
SIMPLE(msync, root_length > 0, (void *memory, size_t size, int flags), (memory, size, flags))
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int truncate(const char *path, off_t size) { return truncate64(path, size); }

/* --- memory */

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

static int none_left(void) {
    if (!allocation) return 0;
    long now = __sync_add_and_fetch(&allocations, 1);
    return now >= allocation && now < allocation + failing;
}

void *malloc(size_t size) {
    if (none_left()) { errno = ENOMEM; return NULL; }
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    if (none_left()) { errno = ENOMEM; return NULL; }
    return __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
    if (none_left()) { errno = ENOMEM; return NULL; }
    return __libc_realloc(old, size);
}
