/* Shared by the tests of formats and media: an allocator that fails on demand, and small files in a folder of their own. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/context.h"

/* Points of failure are tried in strides; under a sanitizer, where each takes ten times as long, in larger ones. */
#if defined(__SANITIZE_ADDRESS__)
#define TEST_TRIES(count) (((count) + 5) / 6)
#else
#define TEST_TRIES(count) (count)
#endif

/* ---- allocations ---- */

typedef struct test_memory {
    atomic_long blocks;     /* allocated and not freed */
    atomic_long until_fail; /* calls until one fails; negative: none does */
    char log[4096];         /* lines logged at warning level or above */
} test_memory;

static inline void *test_reallocate(void *user, void *ptr, size_t size) {
    test_memory *memory = user;
    if (size == 0) {
        if (ptr) atomic_fetch_sub(&memory->blocks, 1);
        free(ptr);
        return NULL;
    }
    if (atomic_load(&memory->until_fail) >= 0 && atomic_fetch_sub(&memory->until_fail, 1) == 0) return NULL;
    void *result = realloc(ptr, size);
    if (!ptr && result) atomic_fetch_add(&memory->blocks, 1);
    return result;
}

static inline void test_log(void *user, zoe_log_level level, const char *line) {
    test_memory *memory = user;
    size_t used = strlen(memory->log);
    if (level <= ZOE_LOG_WARNING) snprintf(memory->log + used, sizeof memory->log - used, "%s\n", line);
}

static inline zoe_context *test_context(test_memory *memory) {
    zoe_context_settings settings;
    zoe_context *ctx;
    memset(memory, 0, sizeof *memory);
    atomic_store(&memory->until_fail, -1);
    zoe_context_settings_init(&settings);
    settings.user = memory;
    settings.reallocate = test_reallocate;
    settings.log = test_log;
    assert_int_equal(zoe_context_create(&settings, &ctx), ZOE_OK);
    return ctx;
}

/* Frees the context and sees to it that nothing else is left allocated. */
static inline void test_context_free(test_memory *memory, zoe_context *ctx) {
    zoe_context_free(ctx);
    assert_int_equal(atomic_load(&memory->blocks), 0);
}

/*
 * Runs `call` with the first, second, ... allocation failing until it succeeds. Each failure has to be reported as running
 * out of memory, and nothing may stay allocated.
 */
static inline void test_every_allocation(int (*call)(zoe_context *ctx, void *user), void *user) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    int n = 0;
    for (;; n++) {
        atomic_store(&memory.until_fail, n);
        int status = call(ctx, user);
        atomic_store(&memory.until_fail, -1);
        assert_int_equal(atomic_load(&memory.blocks), 1); /* the context itself */
        if (status >= 0) break;
        if (status != ZOE_ERR_NOMEM) fail_msg("allocation %d: status %d: %s", n, status, zoe_context_error(ctx));
        assert_non_null(strstr(zoe_context_error(ctx), "memory"));
        assert_true(n < 10000);
    }
    assert_true(n > 0);
    test_context_free(&memory, ctx);
}

/* ---- error texts ---- */

#define assert_fails(ctx, call, expected_status, part)                                                                     \
    do {                                                                                                                   \
        int fails_status_ = (call);                                                                                        \
        if (fails_status_ != (expected_status) || !strstr(zoe_context_error(ctx), (part)))                                 \
            fail_msg("status %d, text \"%s\"; expected %d, \"%s\"", fails_status_, zoe_context_error(ctx),                 \
                     (expected_status), (part));                                                                           \
    } while (0)

#define assert_ok(ctx, call)                                                                                               \
    do {                                                                                                                   \
        int ok_status_ = (call);                                                                                           \
        if (ok_status_ < 0) fail_msg("status %d: %s", ok_status_, zoe_context_error(ctx));                                 \
    } while (0)

/* ---- files ---- */

/* A fresh empty folder. */
static inline void test_folder_create(char folder[64]) {
    snprintf(folder, 64, "%s", "/tmp/zoetrope-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
}

/* How many files `folder` holds. */
static inline int test_folder_count(const char *folder) {
    int count = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.') count++;
    closedir(dir);
    return count;
}

static inline void test_folder_remove(const char *folder) {
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_name[0] != '.') unlink(path);
    }
    closedir(dir);
    assert_int_equal(rmdir(folder), 0);
}

static inline void test_write(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The whole file with a NUL behind it, freed by free(). */
static inline char *test_read(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *data = malloc((size_t)length + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)length, file), (size_t)length);
    data[length] = 0;
    fclose(file);
    if (size) *size = (size_t)length;
    return data;
}

static inline void test_expect_file(const char *path, const char *expected, size_t size) {
    size_t found_size;
    char *found = test_read(path, &found_size);
    assert_int_equal(found_size, size);
    assert_memory_equal(found, expected, size);
    free(found);
}

#endif
