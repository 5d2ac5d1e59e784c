/*
 * Quantised linear weights: how near the demo model stays to itself, what is written and read back, what a plan says of
 * them, and what is wrong with damaged files.
 */
#include <ftw.h>
#include <math.h>

#include "formats/checkpoint.h"
#include "pipeline/plan.h"
#include "support.h"

#define DEMO     SOURCE_DIR "/models/demo"
#define DENOISER "transformer/diffusion_pytorch_model.safetensors"

/* A long one has the size that the model was made for, but only the first frames are decoded; a short one half the side. */
enum { SIDE = 128, LONG = 33, SHORT = 1, LOOKED_AT = 5, FRAME = SIDE * SIDE * 3 };

typedef struct video {
    int frames;
    uint8_t bytes[LOOKED_AT * FRAME];
} video;

static void must(zoe_context *ctx, int status) {
    if (status < 0) fail_msg("%s: %s", zoe_strerror(status), zoe_context_error(ctx));
}

static int keep_frame(void *user, int index, const uint8_t *rgb, int width, int height) {
    video *v = user;
    size_t bytes = (size_t)width * (size_t)height * 3;
    assert_true(index < LOOKED_AT && width <= SIDE && height <= SIDE);
    memcpy(v->bytes + (size_t)index * bytes, rgb, bytes);
    v->frames = index + 1;
    return v->frames == LOOKED_AT; /* stops */
}

static void request_of(const zoe_model *model, const char *prompt, int frames, zoe_request *request) {
    zoe_request_init(model, request);
    request->prompt = prompt;
    request->width = request->height = frames == LONG ? SIDE : SIDE / 2;
    request->frames = frames;
    request->steps = frames == LONG ? 3 : 1;
    request->seed = 1;
}

static zoe_model *open_model(zoe_context *ctx, const char *dir, const char *linear) {
    zoe_model_settings settings;
    zoe_model *model;
    zoe_model_settings_init(&settings);
    settings.linear = linear;
    must(ctx, zoe_model_open(ctx, dir, &settings, &model));
    return model;
}

static void make_video(zoe_context *ctx, const char *dir, const char *linear, const char *prompt, int frames, video *v) {
    zoe_model *model = open_model(ctx, dir, linear);
    zoe_request request;
    request_of(model, prompt, frames, &request);
    v->frames = 0;
    request.frame = keep_frame;
    request.user = v;
    int status = zoe_generate(model, &request, NULL);
    if (frames != LONG || status != ZOE_ERR_CANCELLED) must(ctx, status);
    zoe_model_close(model);
}

static double psnr(const video *a, const video *b) {
    double error = 0;
    int count = a->frames * FRAME;
    assert_int_equal(a->frames, b->frames);
    for (int i = 0; i < count; i++) error += ((double)a->bytes[i] - b->bytes[i]) * ((double)a->bytes[i] - b->bytes[i]);
    return 10 * log10(255.0 * 255.0 / (error / count + 1e-9));
}

static const struct {
    const char *name;
    double decibels, part; /* at least; bytes of the quantised matrices by those of bf16 at most */
} forms[] = {{"int8", 38, 0.51}, {"fp8", 33, 0.51}, {"int4", 26, 0.29}, {"nvfp4", 0, 0.29}};

static void demo_stays_near(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    video *native = malloc(sizeof *native), *found = malloc(sizeof *found);
    make_video(ctx, DEMO, NULL, "a red ball bouncing on a grey floor", LONG, native);
    for (int f = 0; f < 3; f++) { /* nvfp4 has no bound: from prompt to prompt it gave 20 to 39 dB */
        make_video(ctx, DEMO, forms[f].name, "a red ball bouncing on a grey floor", LONG, found);
        double decibels = psnr(native, found);
        print_message("%s: %.1f dB\n", forms[f].name, decibels);
        if (!(decibels >= forms[f].decibels))
            fail_msg("%s: %.1f dB, expected %.0f", forms[f].name, decibels, forms[f].decibels);
        assert_true(decibels < 90); /* something is quantised */
    }
    free(native), free(found);
    test_context_free(&memory, ctx);
}

/* ---- files ---- */

static char folder[64]; /* has a subfolder for each form */

static const char *at(const char *form, const char *file) {
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s%s%s", folder, form, *file ? "/" : "", file);
    return path;
}

static int write_all(void **state) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    *state = NULL;
    snprintf(folder, sizeof folder, "/tmp/zoe-quantise-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (int f = 0; f < 4; f++) {
        char *json;
        must(ctx, zoe_quantize(ctx, DEMO, forms[f].name, at(forms[f].name, ""), NULL, NULL, &json));
        assert_non_null(strstr(json, "\"error\""));
        zoe_string_free(ctx, json);
    }
    test_context_free(&memory, ctx);
    return 0;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info, (void)type, (void)where;
    return remove(path);
}

static int remove_all(void **state) {
    (void)state;
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Bit by bit what quantising on load gives, also where every block is loaded anew for each use. */
static void written_loads_alike(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    video *loaded = malloc(sizeof *loaded), *written = malloc(sizeof *written);
    for (int f = 0; f < 4; f++) {
        const char *dir = at(forms[f].name, "");
        make_video(ctx, DEMO, forms[f].name, "a red ball", SHORT, loaded);
        make_video(ctx, dir, NULL, "a red ball", SHORT, written);
        assert_int_equal(written->frames, SHORT);
        assert_memory_equal(loaded->bytes, written->bytes, SHORT * FRAME / 4);
        zoe_model *model = open_model(ctx, dir, forms[f].name);
        zoe_phase_budget budgets[ZOE_PHASE_COUNT] = {{0}};
        zoe_phase_use use[ZOE_PHASE_COUNT];
        zoe_request request;
        request_of(model, "a red ball", SHORT, &request);
        request.frame = keep_frame;
        request.user = written;
        for (int i = 0; i < ZOE_PHASE_COUNT; i++) budgets[i].weights = 1;
        must(ctx, zoe_generate_counted(model, &request, budgets, NULL, use));
        assert_int_equal(written->frames, SHORT);
        assert_memory_equal(loaded->bytes, written->bytes, SHORT * FRAME / 4);
        zoe_model_close(model);
    }
    free(loaded), free(written);
    test_context_free(&memory, ctx);
}

/* Codes and scales of one matrix by its bytes in bf16. */
static void written_is_small(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    for (int f = 0; f < 4; f++) {
        zoe_checkpoint *ckpt;
        int64_t bytes = 0, weights = 0;
        must(ctx, zoe_checkpoint_open(ctx, at(forms[f].name, DENOISER), &ckpt));
        assert_string_equal(zoe_checkpoint_metadata(ckpt, "zoe.linear"), forms[f].name);
        for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
            const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
            bool codes = entry->dtype == ZOE_I8 || entry->dtype == ZOE_U8 || entry->dtype == ZOE_F8_E4M3;
            bool scales = strstr(entry->name, "_scale") != NULL;
            if (codes || scales) bytes += (int64_t)entry->bytes;
            if (codes && !scales) weights += (int64_t)entry->bytes * (entry->dtype == ZOE_U8 ? 2 : 1);
        }
        double part = (double)bytes / (2.0 * (double)weights);
        print_message("%s: %.4f of bf16\n", forms[f].name, part);
        assert_true(weights > 7000000); /* all blocks */
        if (part > forms[f].part) fail_msg("%s: %.4f of bf16, expected at most %.2f", forms[f].name, part, forms[f].part);
        zoe_checkpoint_close(ckpt);
    }
    test_context_free(&memory, ctx);
}

static void plan_is_what_the_run_takes(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    video *v = malloc(sizeof *v);
    for (int f = 0; f < 8; f += 3) {
        const char *form = forms[f / 2].name;
        zoe_model *model = open_model(ctx, f % 2 ? at(form, "") : DEMO, form);
        zoe_plan plan;
        zoe_phase_use use[ZOE_PHASE_COUNT];
        zoe_request request;
        request_of(model, "a red ball", SHORT, &request);
        must(ctx, zoe_plan_make(model, &request, NULL, &plan));
        request.frame = keep_frame;
        request.user = v;
        must(ctx, zoe_generate_counted(model, &request, NULL, NULL, use));
        for (int i = 0; i < ZOE_PHASE_COUNT; i++) {
            assert_int_equal(plan.phases[i].activations, use[i].activations);
            assert_int_equal(plan.phases[i].weights.peak, use[i].weights.peak);
            assert_int_equal(plan.phases[i].weights.loaded, use[i].weights.loaded);
        }
        int64_t most = f / 2 < 2 ? 10 << 20 : 7 << 20; /* 16 MB in bf16 */
        assert_in_range(use[ZOE_PHASE_DENOISE].weights.peak, most / 2, most);
        zoe_model_close(model);
    }
    free(v);
    test_context_free(&memory, ctx);
}

/* ---- damage ---- */

typedef enum change { DROP, RESHAPE, RETYPE } change;

static void damage(const char *form, const char *name, change what) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    zoe_checkpoint *ckpt;
    zoe_safetensors_writer *writer;
    must(ctx, zoe_checkpoint_open(ctx, at(form, DENOISER), &ckpt));
    assert_non_null(zoe_checkpoint_find(ckpt, name));
    must(ctx, zoe_safetensors_create(ctx, at("damaged", DENOISER), &writer));
    for (size_t i = 0; i < zoe_checkpoint_count(ckpt); i++) {
        const zoe_entry *entry = zoe_checkpoint_at(ckpt, i);
        bool hit = strcmp(entry->name, name) == 0;
        int64_t shape[ZOE_MAX_RANK];
        memcpy(shape, entry->shape, sizeof shape);
        if (hit && what == DROP) continue;
        if (hit && what == RESHAPE) shape[entry->rank - 1] /= 2;
        zoe_dtype dtype = hit && what == RETYPE ? ZOE_U8 : entry->dtype;
        must(ctx, zoe_safetensors_add(writer, entry->name, dtype, entry->rank, shape, entry->data));
    }
    zoe_checkpoint_close(ckpt);
    must(ctx, zoe_safetensors_finish(writer));
    test_context_free(&memory, ctx);
}

static void open_fails(const char *dir, const char *linear, int expected, const char *first, const char *second) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    zoe_model_settings settings;
    zoe_model *model;
    zoe_model_settings_init(&settings);
    settings.linear = linear;
    int status = zoe_model_open(ctx, dir, &settings, &model);
    const char *error = zoe_context_error(ctx);
    if (status != expected) fail_msg("status %d, expected %d: %s", status, expected, error);
    if (!strstr(error, first) || !strstr(error, second)) fail_msg("no \"%s\" or \"%s\" in: %s", first, second, error);
    assert_null(model);
    test_context_free(&memory, ctx);
}

#define MATRIX "blocks.3.ffn.net.2.weight"

static void damaged_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *form, *name;
        change what;
        const char *error;
    } cases[] = {
        {"int8", MATRIX "_scale", DROP, "has dtype I8"},
        {"int8", MATRIX "_scale", RESHAPE, "_scale has shape [128]"},
        {"int8", MATRIX "_scale", RETYPE, "is no form known here"},
        {"int8", MATRIX, RESHAPE, "which does not fit a matrix [256, 768] in int8"},
        {"int8", MATRIX, DROP, "is missing"},
        {"fp8", MATRIX, RETYPE, "is no form known here"},
        {"int4", MATRIX "_scale", RETYPE, "is no form known here"},
        {"nvfp4", MATRIX "_global_scale", DROP, "is no form known here"},
        {"nvfp4", MATRIX "_global_scale", RETYPE, "_global_scale has shape"},
        {"nvfp4", MATRIX "_scale", RESHAPE, "is no form known here"},
    };
    char command[512];
    snprintf(command, sizeof command, "cp -r '%s' '%s'", at("int8", ""), at("damaged", ""));
    assert_int_equal(system(command), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        damage(cases[i].form, cases[i].name, cases[i].what);
        open_fails(at("damaged", ""), NULL, ZOE_ERR_FORMAT, MATRIX, cases[i].error);
    }
}

static void contradictions_are_refused(void **state) {
    (void)state;
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    char *json;
    open_fails(at("int8", ""), "fp8", ZOE_ERR_ARGUMENT, "is quantised already, in int8", "--linear fp8");
    assert_int_equal(zoe_quantize(ctx, at("int8", ""), "int8", at("twice", ""), NULL, NULL, &json), ZOE_ERR_ARGUMENT);
    assert_non_null(strstr(zoe_context_error(ctx), "is quantised already, in int8"));
    assert_int_not_equal(access(at("twice", ""), F_OK), 0);
    assert_int_equal(zoe_quantize(ctx, DEMO, "native", at("twice", ""), NULL, NULL, &json), ZOE_ERR_ARGUMENT);
    assert_int_equal(zoe_quantize(ctx, DEMO, "int8", at("int8", ""), NULL, NULL, &json), ZOE_ERR_IO); /* it is there */
    test_context_free(&memory, ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_loads_alike),        cmocka_unit_test(written_is_small),
        cmocka_unit_test(plan_is_what_the_run_takes), cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(contradictions_are_refused), cmocka_unit_test(demo_stays_near),
    };
    return cmocka_run_group_tests(tests, write_all, remove_all);
}
