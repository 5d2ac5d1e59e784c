/* Backends in shared libraries: what loads, what is refused and in which words; and memory that grows behind the arena. */
#include "support.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/plugin.h"
#include "pipeline/model.h"

static zoe_context *ctx;

static int set_up(void **state) {
    (void)state;
    setenv("ZOE_PLUGIN_DIR", PLUGIN_DIR, 1);
    return zoe_context_create(NULL, &ctx);
}

static int tear_down(void **state) {
    (void)state;
    zoe_context_free(ctx);
    return 0;
}

static void expect_refusal(const char *name, int status, const char *words) {
    const zoe_plugin *plugin = (const zoe_plugin *)(void *)&ctx;
    assert_int_equal(zoe_plugin_load(ctx, name, &plugin), status);
    assert_null(plugin);
    if (!strstr(zoe_context_error(ctx), words)) fail_msg("%s", zoe_context_error(ctx));
}

static void a_matching_one_loads(void **state) {
    (void)state;
    const zoe_plugin *plugin;
    int devices = 0;
    assert_int_equal(zoe_plugin_load(ctx, "standin", &plugin), ZOE_OK);
    assert_int_equal(plugin->count(ctx, &devices), ZOE_OK);
    assert_int_equal(devices, 7);
}

static void another_version_is_refused(void **state) {
    (void)state;
    expect_refusal("stranger", ZOE_ERR_DEVICE, "libzoetrope-stranger.so belongs to another version");
}

static void an_absent_one_is_named(void **state) {
    (void)state;
    expect_refusal("absent", ZOE_ERR_UNSUPPORTED, "libzoetrope-absent.so was not found");
}

/* A file that is there and cannot be used must not be passed over for one elsewhere. */
static void a_broken_file_is_an_error(void **state) {
    (void)state;
    char dir[] = "/tmp/zoe-plugin-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libzoetrope-standin.so", dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("not a library", file);
    fclose(file);
    setenv("ZOE_PLUGIN_DIR", dir, 1);
    expect_refusal("standin", ZOE_ERR_DEVICE, "does not load");
    setenv("ZOE_PLUGIN_DIR", PLUGIN_DIR, 1);
    unlink(path);
    rmdir(dir);
}

/* ---- what "auto" stands for ---- */

static char warning[512];

static void keep_warning(void *user, zoe_log_level level, const char *line) {
    (void)user;
    if (level == ZOE_LOG_WARNING) snprintf(warning, sizeof warning, "%s", line);
}

/* The device that is found where `plugin` is installed as CUDA's; NULL: nothing is. */
static const char *found_beside(const char *plugin, const char *asked) {
    char dir[] = "/tmp/zoe-plugin-XXXXXX", path[64], target[PATH_MAX];
    const char *device = NULL;
    zoe_context *own;
    zoe_context_settings settings;
    zoe_context_settings_init(&settings);
    settings.log = keep_warning;
    warning[0] = 0;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libzoetrope-cuda.so", dir);
    snprintf(target, sizeof target, "%s/libzoetrope-%s.so", PLUGIN_DIR, plugin ? plugin : "");
    if (plugin) assert_int_equal(symlink(target, path), 0);
    setenv("ZOE_PLUGIN_DIR", dir, 1);
    assert_int_equal(zoe_context_create(&settings, &own), ZOE_OK);
    assert_int_equal(zoe_device_find(own, asked, &device), ZOE_OK);
    assert_string_equal(zoe_context_error(own), "");
    zoe_context_free(own);
    setenv("ZOE_PLUGIN_DIR", PLUGIN_DIR, 1);
    unlink(path);
    rmdir(dir);
    return device;
}

static void auto_is_the_device_that_is_there(void **state) {
    (void)state;
    assert_string_equal(found_beside("standin", "auto"), "cuda");
    assert_string_equal(found_beside("standin", NULL), "cuda");
    assert_string_equal(found_beside("standin", "cpu"), "cpu");
    assert_string_equal(found_beside("standin", "cuda:3"), "cuda:3");
    assert_string_equal(found_beside(NULL, "auto"), "cpu");
    assert_string_equal(warning, "");
}

/* An installation that is broken must not make everything slow without a word. */
static void auto_tells_of_a_plugin_that_cannot_be_used(void **state) {
    (void)state;
    assert_string_equal(found_beside("stranger", "auto"), "cpu");
    if (!strstr(warning, "another version")) fail_msg("%s", warning);
}

/* ---- the arena ---- */

#define MOST 4096

static int grown; /* calls */

static int grow(zoe_backend *be, size_t bytes) {
    grown++;
    if (bytes > MOST) return zoe_out_of_memory(be->ctx, bytes, "the test's device");
    be->arena.backed = (bytes + 1023) / 1024 * 1024;
    return ZOE_OK;
}

static void memory_grows_with_the_stack(void **state) {
    (void)state;
    const zoe_backend_ops ops = {.grow = grow};
    zoe_backend be = {.ops = &ops, .ctx = ctx, .arena = {.base = (char *)256, .size = 1 << 20}};
    zoe_tensor t;
    grown = 0;
    assert_int_equal(ZOE_NEW(&be, &t, ZOE_F32, 100), ZOE_OK); /* 512 bytes of the stack */
    assert_int_equal(be.arena.backed, 1024);
    assert_int_equal(ZOE_NEW(&be, &t, ZOE_F32, 128), ZOE_OK);
    assert_int_equal(grown, 1); /* there was room */
    assert_int_equal(ZOE_NEW(&be, &t, ZOE_F32, 1), ZOE_OK);
    assert_int_equal(grown, 2);
    size_t used = be.arena.used;
    assert_int_equal(ZOE_NEW(&be, &t, ZOE_F32, MOST / 4), ZOE_ERR_NOMEM);
    assert_int_equal(be.arena.used, used); /* a failure takes nothing */
    zoe_arena_release(&be, 0);
    assert_int_equal(ZOE_NEW(&be, &t, ZOE_F32, 256), ZOE_OK);
    assert_int_equal(grown, 3); /* the failed call was the third */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_matching_one_loads),
        cmocka_unit_test(another_version_is_refused),
        cmocka_unit_test(an_absent_one_is_named),
        cmocka_unit_test(a_broken_file_is_an_error),
        cmocka_unit_test(auto_is_the_device_that_is_there),
        cmocka_unit_test(auto_tells_of_a_plugin_that_cannot_be_used),
        cmocka_unit_test(memory_grows_with_the_stack),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
