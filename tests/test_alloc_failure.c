/*
 * A whole video with an allocation failing, again and again further on: each time a clear error, nothing leaked and no
 * file left; afterwards everything works.
 */
#include "support.h"

enum { TRIES = 250, FEW = 60 };

typedef struct video {
    char folder[64], output[128], dump[128];
    zoe_model_settings settings;
} video;

static void prepare(video *v) {
    test_folder_create(v->folder);
    snprintf(v->output, sizeof v->output, "%s/video.y4m", v->folder);
    snprintf(v->dump, sizeof v->dump, "%s/dump.safetensors", v->folder);
    zoe_model_settings_init(&v->settings);
}

static int make(zoe_context *ctx, const video *v) {
    zoe_model *model;
    zoe_request request;
    ZOE_TRY(zoe_model_open(ctx, TEST_DATA "/cases/wan21_t2v/model", &v->settings, &model));
    zoe_request_init(model, &request);
    request.prompt = "A red ball";
    request.width = 32;
    request.height = 32;
    request.frames = 5;
    request.steps = 2;
    request.output = v->output;
    request.dump = v->dump;
    int status = zoe_generate(model, &request, NULL);
    zoe_model_close(model);
    return status;
}

/* Nothing of what was written stays. */
static void clear(const video *v) {
    char command[160];
    snprintf(command, sizeof command, "rm -rf '%s'/*", v->folder);
    assert_int_equal(system(command), 0);
}

/* How many allocations one run takes, which leaves so many files and folders. */
static long count_allocations(int (*run)(zoe_context *ctx, const video *v), const video *v, int files) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    long many = 1000000000;
    atomic_store(&memory.until_fail, many);
    assert_ok(ctx, run(ctx, v));
    long count = many - atomic_load(&memory.until_fail);
    assert_int_equal(test_folder_count(v->folder), files);
    clear(v);
    test_context_free(&memory, ctx);
    return count;
}

/* The first ones (those of opening) one by one, the others in strides that differ, so that loops do not hide any. */
static void fail_in_turn(int (*run)(zoe_context *ctx, const video *v), int tries, int files) {
    video v = {0};
    prepare(&v);
    long count = count_allocations(run, &v, files), stride = (count - FEW) / (tries - FEW) + 1;
    assert_true(count > FEW);
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    for (long n = 0; n < count; n += n < FEW || stride == 1 ? 1 : stride - n % 2) {
        atomic_store(&memory.until_fail, n);
        int status = run(ctx, &v);
        atomic_store(&memory.until_fail, -1);
        if (status != ZOE_ERR_NOMEM || !strstr(zoe_context_error(ctx), "memory"))
            fail_msg("allocation %ld of %ld: status %d: %s", n, count, status, zoe_context_error(ctx));
        if (atomic_load(&memory.blocks) != 1) fail_msg("allocation %ld of %ld: memory is leaked", n, count);
        if (test_folder_count(v.folder) != 0) fail_msg("allocation %ld of %ld: a file is left", n, count);
    }
    assert_ok(ctx, run(ctx, &v));
    assert_int_equal(test_folder_count(v.folder), files);
    test_context_free(&memory, ctx);
    clear(&v);
    test_folder_remove(v.folder);
}

static void test_video(void **state) {
    (void)state;
    fail_in_turn(make, TRIES, 2);
}

static int quantise(zoe_context *ctx, const video *v) {
    char *json;
    int status = zoe_quantize(ctx, TEST_DATA "/cases/wan21_t2v/model", "nvfp4", v->output, NULL, NULL, &json);
    if (status == ZOE_OK) zoe_string_free(ctx, json);
    return status;
}

static void test_quantise(void **state) {
    (void)state;
    fail_in_turn(quantise, TRIES, 1);
}

static int inspect_model(zoe_context *ctx, void *user) {
    (void)user;
    char *json;
    int status = zoe_inspect(ctx, TEST_DATA "/cases/wan21_t2v/model", &json);
    if (status == ZOE_OK) zoe_string_free(ctx, json);
    return status;
}

static int list_devices(zoe_context *ctx, void *user) {
    (void)user;
    char *json;
    int status = zoe_devices(ctx, 0, &json);
    if (status == ZOE_OK) zoe_string_free(ctx, json);
    return status;
}

static int bench_linear(zoe_context *ctx, void *user) {
    (void)user;
    char *json;
    zoe_bench_settings settings;
    zoe_bench_settings_init(&settings);
    settings.tokens = settings.inputs = settings.outputs = 16;
    settings.repeats = 1;
    int status = zoe_bench(ctx, &settings, &json);
    if (status == ZOE_OK) zoe_string_free(ctx, json);
    return status;
}

static void test_reports(void **state) {
    (void)state;
    test_every_allocation(list_devices, NULL);
    test_every_allocation(bench_linear, NULL);
    test_every_allocation(inspect_model, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_video),
        cmocka_unit_test(test_quantise),
        cmocka_unit_test(test_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
