/* Rates: what a plan makes of them, how they are measured where things are missing, and files of them. */
#include "support.h"

#include <math.h>
#include <unistd.h>

#include "backend/backend.h"
#include "pipeline/plan.h"
#include "pipeline/rates.h"

typedef struct fixture {
    test_memory memory;
    zoe_context *ctx;
    zoe_backend *be; /* a device that computes nothing */
    char path[64];
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->ctx = test_context(&f->memory);
    snprintf(f->path, sizeof f->path, "/tmp/zoe-rates-%d.json", (int)getpid());
    if (zoe_plan_backend_create(f->ctx, ZOE_BF16, true, &f->be)) return -1;
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    zoe_backend_close(f->be);
    test_context_free(&f->memory, f->ctx);
    unlink(f->path);
    free(f);
    return 0;
}

/* ---- time ---- */

static const zoe_rates rates = {.product = 1e6,
                                .int8 = 2e6,
                                .fp8 = 4e6,
                                .attention = {1e5, 5e4},
                                .sage = {2e5, 1e5},
                                .conv = 5e5,
                                .bytes = 1e4,
                                .least = 1e-3};

static bool close_to(double found, double expected) {
    return fabs(found - expected) <= 1e-9 * expected;
}

/* Seconds of the operations since the last call. */
static double taken(zoe_backend *be) {
    static double before;
    double seconds = be->work.seconds - before;
    before = be->work.seconds;
    return seconds;
}

static double linear_seconds(zoe_backend *be, int64_t rows, int64_t in, int64_t out) {
    zoe_tensor x, w, y;
    assert_int_equal(ZOE_NEW(be, &x, ZOE_BF16, rows, in), ZOE_OK);
    assert_int_equal(ZOE_NEW(be, &w, ZOE_BF16, out, in), ZOE_OK);
    assert_int_equal(ZOE_NEW(be, &y, ZOE_BF16, rows, out), ZOE_OK);
    assert_int_equal(zoe_op_linear(be, &y, &x, &w, NULL), ZOE_OK);
    return taken(be);
}

static double attention_seconds(zoe_backend *be, int64_t tokens, int64_t heads, int64_t dim) {
    zoe_tensor x;
    assert_int_equal(ZOE_NEW(be, &x, ZOE_BF16, tokens, heads * dim), ZOE_OK);
    x = zoe_view_heads(&x, heads);
    assert_int_equal(zoe_op_attention(be, &x, &x, &x, &x, &(zoe_attention){.scale = 1}), ZOE_OK);
    return taken(be);
}

/* Half of the bytes move beside the products. */
static double seconds_of(double computing, double bytes) {
    double half = bytes / 1e4 / 2;
    return 1e-3 + half + (computing > half ? computing : half);
}

static void an_operation_takes_its_products_and_its_bytes(void **state) {
    fixture *f = *state;
    zoe_backend *be = f->be;
    linear_seconds(be, 64, 64, 64);
    assert_true(be->work.seconds == 0); /* without rates nothing is counted */
    zoe_plan_backend_rates(be, &rates);
    taken(be);
    assert_true(close_to(linear_seconds(be, 1000, 1000, 1000), seconds_of(2e9 / 1e6, 6e6)));
    assert_true(close_to(linear_seconds(be, 1, 1000, 1000), seconds_of(2, 2 * (1000 + 1e6 + 1000)))); /* the weights' */
    assert_true(close_to(linear_seconds(be, 1, 1, 1), seconds_of(2e-6, 6)));
    double flops = 4.0 * 4096 * 4096 * 256, bytes = 4 * 2 * 4096 * 256;
    assert_true(close_to(attention_seconds(be, 4096, 2, 128), seconds_of(flops / 1e5, bytes)));
    assert_true(close_to(attention_seconds(be, 4096, 4, 64), seconds_of(flops / 5e4, bytes)));
    zoe_rates hot = rates;
    hot.steady = 0.5;
    zoe_plan_backend_rates(be, &hot);
    assert_true(close_to(attention_seconds(be, 4096, 2, 128), seconds_of(2 * flops / 1e5, bytes)));
    zoe_plan_backend_rates(be, &rates);
    be->sage = true;
    assert_true(close_to(attention_seconds(be, 4096, 2, 128), seconds_of(flops / 2e5, bytes)));
    assert_true(
        close_to(attention_seconds(be, 512, 2, 128), seconds_of(flops / 64 / 1e5, bytes / 8))); /* too few for sage */
}

/* Seconds of a product of 1000 rows with weights of a form; `whole`: the rows are given as floats. */
static double narrow_seconds(zoe_backend *be, zoe_dtype form, bool whole) {
    zoe_tensor x, w, y;
    assert_int_equal(zoe_new_rows(be, &w, form, 512, 1024), ZOE_OK);
    assert_int_equal(whole ? ZOE_NEW(be, &x, ZOE_BF16, 1000, 1024) : zoe_new_rows(be, &x, form, 1000, 1024), ZOE_OK);
    assert_int_equal(ZOE_NEW(be, &y, ZOE_BF16, 1000, 512), ZOE_OK);
    taken(be);
    assert_int_equal(zoe_op_linear(be, &y, &x, &w, NULL), ZOE_OK);
    return taken(be);
}

static void passes_of_quantised_products_take_time(void **state) {
    fixture *f = *state;
    zoe_plan_backend_rates(f->be, &rates);
    double fp8 = narrow_seconds(f->be, ZOE_F8_E4M3, false), int8 = narrow_seconds(f->be, ZOE_I8, false);
    double bytes = 1000 * 1024 + 512 * 1024 + 2 * 1000 * 512, flops = 2.0 * 1000 * 512 * 1024;
    assert_true(close_to(fp8, seconds_of(flops / 4e6, bytes)));
    assert_true(close_to(int8, seconds_of(flops / 2e6, bytes) + 2 * 4 * 1000 * 512 / 1e4)); /* sums, written and read */
    double more = narrow_seconds(f->be, ZOE_F8_E4M3, true) - fp8; /* rows are quantised: written and read, read as floats */
    assert_true(more > 2 * 1000 * 1024 / 1e4 && more < 3 * 1000 * 1024 / 1e4);
}

/* ---- measuring ---- */

/* Both have the functions of a table that a test changes. */
static zoe_backend_ops changed;
static const zoe_backend_ops *whole;
static long refused;

static int small_alloc(zoe_backend *be, size_t bytes, void **out) {
    if (bytes <= (size_t)128 << 20) return whole->alloc(be, bytes, out);
    *out = NULL;
    refused++;
    return zoe_fail(be->ctx, ZOE_ERR_NOMEM, "the device is full");
}

static int no_alloc(zoe_backend *be, size_t bytes, void **out) {
    (void)bytes;
    *out = NULL;
    return zoe_fail(be->ctx, ZOE_ERR_NOMEM, "the device is full");
}

static int lost(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *w, const zoe_conv *p) {
    (void)y, (void)x, (void)w, (void)p;
    return zoe_fail(be->ctx, ZOE_ERR_DEVICE, "the device is lost");
}

static void change(zoe_backend *be) {
    whole = be->ops;
    changed = *whole;
    be->ops = &changed;
}

static void what_a_device_lacks_is_left_out(void **state) {
    fixture *f = *state;
    zoe_rates found;
    int64_t held = f->be->device_bytes, pinned = f->be->host_bytes;
    change(f->be);
    changed.alloc = small_alloc;
    int status = zoe_rates_measure(f->be, &found);
    f->be->ops = whole;
    assert_int_equal(status, ZOE_OK);
    assert_string_equal(zoe_context_error(f->ctx), "");
    assert_true(refused > 0);
    assert_true(found.product > 0 && found.attention[0] > 0 && found.attention[1] > 0 && found.sage[0] > 0);
    assert_true(found.bytes > 0 && found.copy > 0 && found.least > 0 && found.steady > 0 && found.steady <= 1);
    assert_true(found.conv == 0);                   /* no memory for its frames */
    assert_true(found.int8 == 0 && found.fp8 == 0); /* does not quantise */
    assert_int_equal(f->be->device_bytes, held);
    assert_int_equal(f->be->host_bytes, pinned);
    assert_int_equal(f->be->arena.used, 0);
    json_t *report = json_object();
    assert_int_equal(zoe_rates_report(f->ctx, &found, report), ZOE_OK);
    assert_non_null(json_object_get(report, "product_gflops"));
    assert_null(json_object_get(report, "conv_gflops"));
    json_decref(report);
}

static void a_full_or_lost_device_is_an_error(void **state) {
    fixture *f = *state;
    zoe_rates found;
    int64_t held = f->be->device_bytes;
    change(f->be);
    changed.alloc = no_alloc;
    int full = zoe_rates_measure(f->be, &found);
    changed.alloc = whole->alloc;
    changed.conv = lost;
    int gone = zoe_rates_measure(f->be, &found);
    f->be->ops = whole;
    assert_int_equal(full, ZOE_ERR_NOMEM);
    assert_int_equal(gone, ZOE_ERR_DEVICE);
    assert_string_equal(zoe_context_error(f->ctx), "the device is lost");
    assert_int_equal(f->be->device_bytes, held);
}

/* ---- files ---- */

static void write_file(fixture *f, const char *text) {
    FILE *file = fopen(f->path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void expect_refusal(fixture *f, const char *text, const char *words) {
    zoe_rates found;
    write_file(f, text);
    assert_int_not_equal(zoe_rates_load(f->ctx, f->path, "cuda:1", &found), ZOE_OK);
    const char *error = zoe_context_error(f->ctx);
    if (!strstr(error, words) || !strstr(error, f->path)) fail_msg("%s", error);
}

static void a_report_is_read_back(void **state) {
    fixture *f = *state;
    zoe_rates found;
    json_t *measured = json_object();
    assert_int_equal(zoe_rates_report(f->ctx, &rates, measured), ZOE_OK);
    json_t *report = json_pack("{s:[{s:s, s:o}]}", "devices", "name", "cuda:1", "measured", measured);
    assert_int_equal(json_dump_file(report, f->path, 0), 0);
    json_decref(report);
    assert_int_equal(zoe_rates_load(f->ctx, f->path, "cuda:1", &found), ZOE_OK);
    assert_true(close_to(found.product, 1e6) && close_to(found.int8, 2e6) && close_to(found.fp8, 4e6));
    assert_true(close_to(found.attention[0], 1e5) && close_to(found.attention[1], 5e4));
    assert_true(close_to(found.sage[0], 2e5) && close_to(found.sage[1], 1e5) && close_to(found.conv, 5e5));
    assert_true(close_to(found.bytes, 1e4) && close_to(found.least, 1e-3) && found.copy == 0);
}

static void damaged_files_are_refused(void **state) {
    fixture *f = *state;
    zoe_rates found;
    unlink(f->path);
    assert_int_equal(zoe_rates_load(f->ctx, f->path, "cuda:1", &found), ZOE_ERR_IO);
    expect_refusal(f, "{\"devices\": [", "");
    expect_refusal(f, "{}", "lists no devices");
    expect_refusal(f, "{\"devices\": 3}", "lists no devices");
    expect_refusal(f, "{\"devices\": [{\"name\": \"cpu\"}, 7, {\"name\": \"cuda:0\"}]}",
                   "has nothing about cuda:1, only about cpu, cuda:0");
    expect_refusal(f, "{\"devices\": [{\"name\": \"cuda:1\"}]}", "cuda:1 was not measured");
    expect_refusal(f, "{\"devices\": [{\"name\": \"cuda:1\", \"measured\": {}}]}", "cuda:1 was not measured");
    expect_refusal(f, "{\"devices\": [{\"name\": \"cuda:1\", \"measured\": {\"product_gflops\": 5}}]}", "memory_gbytes");
    expect_refusal(f,
                   "{\"devices\": [{\"name\": \"cuda:1\", \"measured\": {\"product_gflops\": 0, \"memory_gbytes\": 1}}]}",
                   "product_gflops");
    expect_refusal(
        f, "{\"devices\": [{\"name\": \"cuda:1\", \"measured\": {\"product_gflops\": \"a\", \"memory_gbytes\": 1}}]}",
        "product_gflops");
}

/* What a first step brings cannot hide behind the operations of those after it. */
static void steps_after_the_first(void **state) {
    (void)state;
    zoe_plan plan = {.device = true, .rates = {.copy = 10, .disk = 1}};
    plan.phases[ZOE_PHASE_DENOISE] = (zoe_phase_use){.work = {.seconds = 10},
                                                     .weights = {.loaded = 40, .from_disk = 14},
                                                     .first = {.seconds = 2, .loaded = 20, .from_disk = 12}};
    zoe_plan_time t = zoe_plan_time_of(&plan, ZOE_PHASE_DENOISE);
    assert_true(close_to(t.compute, 10) && close_to(t.copy, 4) && close_to(t.disk, 14));
    assert_true(close_to(t.all, 12 + 8));
    assert_string_equal(t.bound, "disk");
    plan.device = false; /* there, copies and files are not told apart from operations */
    t = zoe_plan_time_of(&plan, ZOE_PHASE_DENOISE);
    assert_true(close_to(t.all, 10) && t.copy == 0 && t.disk == 0);
    assert_string_equal(t.bound, "compute");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_operation_takes_its_products_and_its_bytes, setup, teardown),
        cmocka_unit_test(steps_after_the_first),
        cmocka_unit_test_setup_teardown(passes_of_quantised_products_take_time, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_device_lacks_is_left_out, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_or_lost_device_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(a_report_is_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
