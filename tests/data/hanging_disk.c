// A disk that does not answer: while the file $HANGING_DISK_GATE exists, whoever opens something below the folder
// $HANGING_DISK or asks for its metadata waits. Writes $HANGING_DISK_GATE.waiting when somebody waits.
//
//     cc -shared -fPIC -o hanging_disk.so hanging_disk.c -ldl        (for LD_PRELOAD)

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_for_disk(const char *path) {
    const char *disk = getenv("HANGING_DISK"), *gate = getenv("HANGING_DISK_GATE");
    if (!path || !disk || !gate || strncmp(path, disk, strlen(disk)) != 0) return;
    char waiting[4096];
    snprintf(waiting, sizeof waiting, "%s.waiting", gate);
    // System calls, so that the functions below are not called.
    for (int told = 0; syscall(SYS_faccessat, AT_FDCWD, gate, F_OK) == 0; told = 1) {
        if (!told) {
            long file = syscall(SYS_openat, AT_FDCWD, waiting, O_CREAT | O_WRONLY, 0600);
            if (file >= 0) close((int)file);
        }
        struct timespec moment = {0, 2000000};
        nanosleep(&moment, NULL);
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define MODE(flags)                                \
    mode_t mode = 0;                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {         \
        va_list rest;                              \
        va_start(rest, flags);                     \
        mode = va_arg(rest, mode_t);               \
        va_end(rest);                              \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    wait_for_disk(path);
    return REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE(flags)
    wait_for_disk(path);
    return REAL(open64)(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    wait_for_disk(path);
    return REAL(openat)(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    wait_for_disk(path);
    return REAL(openat64)(folder, path, flags, mode);
}

DIR *opendir(const char *path) {
    wait_for_disk(path);
    return REAL(opendir)(path);
}

int statx(int folder, const char *path, int flags, unsigned mask, struct statx *answer) {
    wait_for_disk(path);
    return REAL(statx)(folder, path, flags, mask, answer);
}
