/*
 * Reference cases: a tiny model folder, the call in case.json, and what the reference implementation computed
 * (golden.safetensors). Each test program runs a case through zoe_generate() and compares what it dumped.
 */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "formats/checkpoint.h"
#include "formats/json.h"
#include "support.h"

typedef struct golden {
    zoe_context *ctx;
    zoe_model *model;
    zoe_checkpoint *expected, *found; /* golden.safetensors and the dump of the run */
    char dir[512], dump[512], timesteps[256], conditions[2048], upsampler[600];
    zoe_result result;
} golden;

static const float *golden_values(const zoe_checkpoint *ckpt, const char *name, int64_t *count) {
    const zoe_entry *entry = zoe_checkpoint_find(ckpt, name);
    if (!entry) fail_msg("no tensor %s", name);
    assert_int_equal(entry->dtype, ZOE_F32);
    *count = (int64_t)(entry->bytes / sizeof(float));
    return entry->data;
}

/* |a - b| / |b| */
static inline double golden_relative(const float *a, const float *b, int64_t count) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return sqrt(error / (size > 0 ? size : 1e-30));
}

static inline double golden_largest(const float *a, const float *b, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (isnan(d)) return INFINITY;
        if (d > largest) largest = d;
    }
    return largest;
}

/* Both have the tensor, of one size; the relative error is at most `bound`. */
static inline void golden_near(const golden *g, const char *name, double bound) {
    int64_t count, found_count;
    const float *expected = golden_values(g->expected, name, &count), *found = golden_values(g->found, name, &found_count);
    assert_int_equal(count, found_count);
    double error = golden_relative(found, expected, count);
    print_message("%s: relative error %.1e, largest %.1e\n", name, error, golden_largest(found, expected, count));
    if (!(error <= bound)) fail_msg("%s: relative error %g is over %g", name, error, bound);
}

/* Every row along the first axis on its own. */
static inline void golden_rows_near(const golden *g, const char *name, double bound) {
    int64_t count, found_count, rows = zoe_checkpoint_find(g->expected, name)->shape[0];
    const float *expected = golden_values(g->expected, name, &count), *found = golden_values(g->found, name, &found_count);
    assert_int_equal(count, found_count);
    for (int64_t i = 0; i < rows; i++) {
        int64_t size = count / rows;
        double error = golden_relative(found + i * size, expected + i * size, size);
        print_message("%s row %d: relative error %.1e\n", name, (int)i, error);
        if (!(error <= bound)) fail_msg("%s row %d: relative error %g is over %g", name, (int)i, error, bound);
    }
}

static inline void golden_video_near(const golden *g, double decibels) {
    int64_t count, found_count;
    const float *expected = golden_values(g->expected, "video", &count),
                *found = golden_values(g->found, "video", &found_count);
    double error = 0;
    assert_int_equal(count, found_count);
    for (int64_t i = 0; i < count; i++) error += ((double)found[i] - expected[i]) * ((double)found[i] - expected[i]);
    double psnr = -10 * log10(error / (double)count + 1e-30);
    print_message("video: %.1f dB\n", psnr);
    if (!(psnr >= decibels)) fail_msg("video: %.1f dB, expected at least %.1f", psnr, decibels);
}

static inline void golden_check(const golden *g, int status) {
    if (status < 0) fail_msg("%s: %s", zoe_strerror(status), zoe_context_error(g->ctx));
}

/* The list of the case, as text; NULL: it has none. */
static inline const char *golden_timesteps(golden *g, const zoe_config *config) {
    size_t used = 0, count = zoe_config_length(config, "timesteps");
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(g->timesteps + used, sizeof g->timesteps - used, "%s%g", i ? "," : "",
                                 json_number_value(json_array_get(json_object_get(config->root, "timesteps"), i)));
    return count ? g->timesteps : NULL;
}

/* The pictures and clips of the case, each [file, frame, strength], as text; NULL: it has none. */
static inline const char *golden_conditions(golden *g, const zoe_config *config) {
    size_t used = 0, count = zoe_config_length(config, "conditions");
    for (size_t i = 0; i < count; i++) {
        json_t *row = json_array_get(json_object_get(config->root, "conditions"), i);
        used += (size_t)snprintf(g->conditions + used, sizeof g->conditions - used, "%s%s/%s@%d:%g", i ? "\n" : "", g->dir,
                                 json_string_value(json_array_get(row, 0)), (int)json_integer_value(json_array_get(row, 1)),
                                 json_number_value(json_array_get(row, 2)));
    }
    return count ? g->conditions : NULL;
}

static inline void golden_upsampler(golden *g, const zoe_config *config, zoe_request *request) {
    json_t *own = json_object_get(config->root, "upsampler");
    if (!own) return;
    snprintf(g->upsampler, sizeof g->upsampler, "%s/upsampler", g->dir);
    request->upsampler = g->upsampler;
    request->refine_steps = (int32_t)json_integer_value(json_object_get(own, "steps"));
    request->refine_strength = json_number_value(json_object_get(own, "strength"));
    request->adain = json_number_value(json_object_get(own, "adain"));
    request->tone_map = json_number_value(json_object_get(own, "tone_map"));
}

/* Fills a request from case.json; texts live in `config`. */
static inline void golden_request(golden *g, const zoe_config *config, zoe_request *request, char latents[600],
                                  char image[600], char last_image[600]) {
    int64_t width = 0, height = 0, frames = 0, steps = 0, seed = 11;
    zoe_request_init(g->model, request);
    golden_check(g, zoe_config_text(config, "prompt", &request->prompt));
    golden_check(g, zoe_config_text(config, "negative_prompt", &request->negative));
    golden_check(g, zoe_config_int(config, "width", 1, 4096, &width));
    golden_check(g, zoe_config_int(config, "height", 1, 4096, &height));
    golden_check(g, zoe_config_int(config, "num_frames", 1, 4096, &frames));
    golden_check(g, zoe_config_int(config, "num_inference_steps", 1, 4096, &steps));
    golden_check(g, zoe_config_real(config, "guidance_scale", &request->guidance));
    golden_check(g, zoe_config_real(config, "guidance_scale_2", &request->guidance_2));
    golden_check(g, zoe_config_real(config, "frame_rate", &request->fps));
    golden_check(g, zoe_config_int(config, "seed", 0, INT32_MAX, &seed));
    request->seed = (uint64_t)seed;
    request->width = (int32_t)width, request->height = (int32_t)height;
    request->frames = (int32_t)frames, request->steps = (int32_t)steps;
    snprintf(latents, 600, "%s/golden.safetensors:in.latents", g->dir);
    if (zoe_checkpoint_find(g->expected, "in.latents")) request->init_latents = latents;
    snprintf(image, 600, "%s/image.png", g->dir);
    if (access(image, R_OK) == 0) request->image = image;
    snprintf(last_image, 600, "%s/last_image.png", g->dir);
    if (access(last_image, R_OK) == 0) request->last_image = last_image;
    request->timesteps = golden_timesteps(g, config);
    request->conditions = golden_conditions(g, config);
    golden_upsampler(g, config, request);
    golden_check(g, zoe_config_real(config, "image_cond_noise_scale", &request->condition_noise));
    request->dump = g->dump;
}

/* Runs case `name` of tests/data/cases. */
static inline void golden_run(golden *g, const char *name) {
    char path[600], latents[600], image[600], last_image[600];
    zoe_config config;
    zoe_request request;
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "%s/cases/%s", TEST_DATA, name);
    snprintf(g->dump, sizeof g->dump, "/tmp/zoe-golden-%d-%s.safetensors", (int)getpid(), name);
    assert_int_equal(zoe_context_create(NULL, &g->ctx), ZOE_OK);
    snprintf(path, sizeof path, "%s/golden.safetensors", g->dir);
    golden_check(g, zoe_checkpoint_open(g->ctx, path, &g->expected));
    snprintf(path, sizeof path, "%s/model", g->dir);
    golden_check(g, zoe_model_open(g->ctx, path, NULL, &g->model));
    snprintf(path, sizeof path, "%s/case.json", g->dir);
    golden_check(g, zoe_config_load(g->ctx, path, &config));
    golden_request(g, &config, &request, latents, image, last_image);
    golden_check(g, zoe_generate(g->model, &request, &g->result));
    golden_check(g, zoe_checkpoint_open(g->ctx, g->dump, &g->found));
    zoe_config_free(&config);
}

static inline void golden_end(golden *g) {
    zoe_checkpoint_close(g->found);
    zoe_checkpoint_close(g->expected);
    zoe_model_close(g->model);
    zoe_context_free(g->ctx);
    unlink(g->dump);
}

/*
 * Opening the model of case `name` with its folder `part` taken from another case (NULL: left out) fails with a text that
 * has `expected` in it.
 */
static inline void golden_refuses_parts(const char *name, const char *part, const char *other, const char *expected) {
    static const char *const parts[] = {"model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"};
    char folder[64], from[600], to[128];
    zoe_context *ctx;
    zoe_model *model;
    test_folder_create(folder);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        bool changed = strcmp(parts[i], part) == 0;
        if (changed && !other) continue;
        snprintf(from, sizeof from, "%s/cases/%s/model/%s", TEST_DATA, changed ? other : name, parts[i]);
        snprintf(to, sizeof to, "%s/%s", folder, parts[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_true(zoe_model_open(ctx, folder, NULL, &model) < 0);
    assert_null(model);
    if (!strstr(zoe_context_error(ctx), expected)) fail_msg("\"%s\" lacks \"%s\"", zoe_context_error(ctx), expected);
    zoe_context_free(ctx);
    test_folder_remove(folder);
}

/* A small request to the model of case `name`, changed where `change` is not 0, fails with a text that has `part` in it. */
static inline void golden_refuses(const char *name, const zoe_request *change, const char *part) {
    char path[600];
    zoe_context *ctx;
    zoe_model *model;
    zoe_request request, *r = &request;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    snprintf(path, sizeof path, "%s/cases/%s/model", TEST_DATA, name);
    assert_ok(ctx, zoe_model_open(ctx, path, NULL, &model));
    zoe_request_init(model, r);
    r->prompt = "fox";
    r->width = change->width ? change->width : 96, r->height = change->height ? change->height : 64;
    r->frames = change->frames ? change->frames : 9, r->steps = 2;
    r->image = change->image, r->last_image = change->last_image;
    r->conditions = change->conditions, r->condition_noise = change->condition_noise;
    r->sampler = change->sampler, r->timesteps = change->timesteps;
    r->upsampler = change->upsampler;
    r->refine_steps = change->refine_steps, r->refine_strength = change->refine_strength;
    int status = zoe_generate(model, r, NULL);
    if (status >= 0 || !strstr(zoe_context_error(ctx), part)) fail_msg("\"%s\" lacks \"%s\"", zoe_context_error(ctx), part);
    zoe_model_close(model);
    zoe_context_free(ctx);
}

#define REFUSES(name, part, ...) golden_refuses(name, &(zoe_request){__VA_ARGS__}, part)

/* Opens a model and makes a small video, from a picture if `image` is there. */
static inline int golden_small(zoe_context *ctx, const char *path, const char *image, int width, int height, int frames,
                               const zoe_request *extras) {
    zoe_model *model;
    zoe_request request;
    ZOE_TRY(zoe_model_open(ctx, path, NULL, &model));
    zoe_request_init(model, &request);
    request.prompt = "fox";
    request.width = width, request.height = height, request.frames = frames, request.steps = 2;
    if (image && access(image, R_OK) == 0) request.image = image;
    if (extras) request.conditions = extras->conditions, request.upsampler = extras->upsampler;
    int status = zoe_generate(model, &request, NULL);
    zoe_model_close(model);
    return status;
}

/* The same with one allocation failing, of some 100 along the way: a clear error each time, and nothing leaked. */
static inline void golden_starve_model(const char *path, const char *image, int width, int height, int frames,
                                       const zoe_request *extras) {
    test_memory memory;
    zoe_context *ctx = test_context(&memory);
    long many = 1000000000;
    atomic_store(&memory.until_fail, many);
    assert_ok(ctx, golden_small(ctx, path, image, width, height, frames, extras));
    long count = many - atomic_load(&memory.until_fail), stride = count / 100 + 1;
    for (long n = 0; n < count; n += stride - (stride > 1 && n % 2)) {
        atomic_store(&memory.until_fail, n);
        int status = golden_small(ctx, path, image, width, height, frames, extras);
        atomic_store(&memory.until_fail, -1);
        if (status != ZOE_ERR_NOMEM || !strstr(zoe_context_error(ctx), "memory"))
            fail_msg("allocation %ld of %ld: status %d: %s", n, count, status, zoe_context_error(ctx));
        if (atomic_load(&memory.blocks) != 1) fail_msg("allocation %ld of %ld: memory is leaked", n, count);
    }
    test_context_free(&memory, ctx);
}

/* The same with a case's model and picture. */
static inline void golden_starve(const char *name, int width, int height, int frames, const zoe_request *extras) {
    char path[600], image[600];
    snprintf(path, sizeof path, "%s/cases/%s/model", TEST_DATA, name);
    snprintf(image, sizeof image, "%s/cases/%s/image.png", TEST_DATA, name);
    golden_starve_model(path, image, width, height, frames, extras);
}

#endif
