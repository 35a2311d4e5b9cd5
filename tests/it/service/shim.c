/* Stands between forgetd and the C library, so that a test can have its disk fail and its calendar
 * jump while it runs. Loaded by LD_PRELOAD; a file that the test writes to is mapped, and says what
 * is wrong now. See shim.rs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The order is that of `Fault` in shim.rs. */
struct faults {
    int64_t ledger_sync_fails;
    int64_t weights_sync_fails;
    int64_t weights_disk_is_full;
    int64_t is_read_only;
    int64_t weights_delay_ms;
    int64_t calendar_offset_s;
};

static const struct faults none;
static const volatile struct faults *faults = &none;

__attribute__((constructor)) static void map_faults(void) {
    const char *path = getenv("FORGETD_TEST_FAULTS");
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct faults), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        faults = mapped;
    close(file);
}

static int is_weights(const char *path) { return strstr(path, "/data/blobs") != NULL; }

static int is_data(const char *path) { return strstr(path, "/data/") != NULL; }

static const char *path_of(int file, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static void be_slow(const char *path) {
    if (faults->weights_delay_ms && is_weights(path))
        usleep((useconds_t)faults->weights_delay_ms * 1000);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define REFUSE_IF(refused, error) \
    do { \
        if (refused) { \
            errno = error; \
            return -1; \
        } \
    } while (0)

#define REFUSE_WRITE_TO(file) \
    do { \
        char path[4096]; \
        REFUSE_IF(faults->is_read_only && is_data(path_of(file, path, sizeof path)), EROFS); \
    } while (0)

/* Files. */

static int sync_fails(int file) {
    char path[4096];
    if (!faults->ledger_sync_fails && !faults->weights_sync_fails && !faults->weights_delay_ms)
        return 0;
    path_of(file, path, sizeof path);
    be_slow(path);
    return is_weights(path) ? faults->weights_sync_fails != 0
                            : faults->ledger_sync_fails && is_data(path);
}

int fsync(int file) {
    REFUSE_IF(sync_fails(file), EIO);
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    REFUSE_IF(sync_fails(file), EIO);
    return REAL(fdatasync)(file);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int writes = flags & (O_WRONLY | O_RDWR | O_CREAT); \
        REFUSE_IF(writes && faults->is_read_only && is_data(path), EROFS); \
        be_slow(path); \
        return REAL(name)(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *bytes, size_t count) {
    REFUSE_WRITE_TO(file);
    char path[4096];
    if (faults->weights_disk_is_full && is_weights(path_of(file, path, sizeof path))) {
        REFUSE_IF(count < 2, ENOSPC);
        count /= 2;
    }
    return REAL(write)(file, bytes, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REFUSE_WRITE_TO(file);
    return REAL(writev)(file, parts, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
    REFUSE_WRITE_TO(file);
    return REAL(pwrite)(file, bytes, count, offset);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
    REFUSE_WRITE_TO(file);
    return REAL(pwrite64)(file, bytes, count, offset);
}

int ftruncate(int file, off_t size) {
    REFUSE_WRITE_TO(file);
    return REAL(ftruncate)(file, size);
}

int ftruncate64(int file, off64_t size) {
    REFUSE_WRITE_TO(file);
    return REAL(ftruncate64)(file, size);
}

int rename(const char *from, const char *to) {
    REFUSE_IF(faults->is_read_only && is_data(to), EROFS);
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    REFUSE_IF(faults->is_read_only && is_data(path), EROFS);
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    REFUSE_IF(faults->is_read_only && is_data(path), EROFS);
    return REAL(mkdir)(path, mode);
}

/* Time. */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME)
        now->tv_sec += faults->calendar_offset_s;
    return failed;
}
