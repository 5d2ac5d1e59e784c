/* What the fuzzers share: a context, and input as a file. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/context.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline zoe_context *fuzz_context(void) {
    zoe_context *ctx;
    if (zoe_context_create(NULL, &ctx) < 0) abort();
    return ctx;
}

/* A file in memory with these bytes; `path` receives a name for it. Returns its descriptor, to be closed. */
static inline int fuzz_file(const uint8_t *data, size_t size, char path[64]) {
    int fd = memfd_create("input", MFD_CLOEXEC);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* A failure has to come with its text, and the other way round nothing may be claimed. */
static inline void fuzz_expect(int holds) {
    if (!holds) abort();
}

#endif
