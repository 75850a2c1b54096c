/* Records what a program does to the files of one directory, in order: the other half of
 * power_cut.py, which explains the log.  Loaded with LD_PRELOAD; RECORD_DIR and RECORD_LOG say
 * what to watch and where to write.  The call is recorded after it was made, under one lock, so
 * the order in the log is the order in which calls returned. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static const char *directory;

__attribute__((constructor)) static void begin(void) {
    const char *log = getenv("RECORD_LOG");
    directory = getenv("RECORD_DIR");
    if (log && directory)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The directory itself counts: syncing it is what makes a deletion last. */
static int inside(const char *path) {
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int watched(int fd, char *path) {
    char link[64];
    if (log_fd < 0 || fd == log_fd) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return inside(path);
}

static void put(const void *data, size_t length) {
    const char *at = data;
    while (length) {
        ssize_t n = syscall(SYS_write, log_fd, at, length);
        if (n <= 0) abort();
        at += n;
        length -= (size_t)n;
    }
}

/* kind (1 byte), offset (8), size of path (4), size of data (4), path, data */
static void record(char kind, const char *path, int64_t offset, const void *data, uint32_t size) {
    uint32_t path_size = (uint32_t)strlen(path);
    put(&kind, 1);
    put(&offset, 8);
    put(&path_size, 4);
    put(&size, 4);
    put(path, path_size);
    if (size) put(data, size);
}

/* `real` is the function that this one stands in front of. */
#define REAL(function) __typeof__(&function) real = (__typeof__(&function))dlsym(RTLD_NEXT, #function)

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    char path[PATH_MAX];
    REAL(pwrite64);
    if (!watched(fd, path)) return real(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, size, offset);
    if (done > 0) record('w', path, offset, data, (uint32_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    REAL(write);
    if (!watched(fd, path)) return real(fd, data, size);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, size);
    if (done > 0) record('w', path, lseek(fd, 0, SEEK_CUR) - done, data, (uint32_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int fd, off64_t size) {
    char path[PATH_MAX];
    REAL(ftruncate64);
    if (!watched(fd, path)) return real(fd, size);
    pthread_mutex_lock(&lock);
    int failed = real(fd, size);
    if (!failed) record('t', path, size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int unlink(const char *path) {
    REAL(unlink);
    if (log_fd < 0 || !inside(path)) return real(path);
    pthread_mutex_lock(&lock);
    int failed = real(path);
    if (!failed) record('u', path, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}

static int synced(int fd, const char *name) {
    char path[PATH_MAX];
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (!watched(fd, path)) return real(fd);
    pthread_mutex_lock(&lock);
    int failed = real(fd);
    if (!failed) record('s', path, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}

int fsync(int fd) { return synced(fd, "fsync"); }

int fdatasync(int fd) { return synced(fd, "fdatasync"); }
