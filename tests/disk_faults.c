/* Lets the disk of a running program fail: preloaded with LD_PRELOAD, it stands in front of the
 * calls that write and sync files whose path begins with FAULTS_PREFIX.  While the file FAULTS_ORDER
 * holds a line such as "write 28" or "sync 5", those calls do nothing and fail with that errno. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* The errno with which a call of this kind on this file fails now; 0 if it does not. */
static int fault(int fd, const char *kind) {
    const char *prefix = getenv("FAULTS_PREFIX"), *order = getenv("FAULTS_ORDER");
    char link[64], path[PATH_MAX], line[64] = {0}, ordered[16];
    int number = 0;
    if (!prefix || !order) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    if (strncmp(path, prefix, strlen(prefix)) != 0) return 0;
    int from = (int)syscall(SYS_openat, AT_FDCWD, order, O_RDONLY | O_CLOEXEC);
    if (from < 0) return 0;
    size = syscall(SYS_read, from, line, sizeof line - 1);
    syscall(SYS_close, from);
    if (size <= 0 || sscanf(line, "%15s %d", ordered, &number) != 2) return 0;
    return strcmp(ordered, kind) == 0 ? number : 0;
}

#define REAL(function) __typeof__(&function) real = (__typeof__(&function))dlsym(RTLD_NEXT, #function)
#define FAIL(fd, kind) do { int with = fault(fd, kind); if (with) { errno = with; return -1; } } while (0)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    FAIL(fd, "write");
    return real(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(pwrite);
    FAIL(fd, "write");
    return real(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    FAIL(fd, "write");
    return real(fd, data, size);
}

int fsync(int fd) {
    REAL(fsync);
    FAIL(fd, "sync");
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    FAIL(fd, "sync");
    return real(fd);
}
