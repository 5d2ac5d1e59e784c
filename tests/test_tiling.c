/* Frames decoded in parts: in exact parts they are the numbers of whole frames, in the reference's tiles those of the
 * reference.
 */
#include "golden.h"

#include "models/cogvideox/cogvideox_model.h"
#include "models/ltx/ltx_model.h"
#include "models/wan/wan_model.h"
#include "pipeline/model.h"
#include "pipeline/plan.h"
#include "weights/convert.h"

/* Decoded frames, one behind the other. */
typedef struct film {
    float *values;
    int64_t frame, count, capacity; /* values of a frame, frames, room for them */
} film;

static film film_create(int64_t frame, int64_t capacity) {
    film f = {.frame = frame, .capacity = capacity};
    f.values = malloc((size_t)(frame * capacity) * sizeof *f.values);
    assert_non_null(f.values);
    return f;
}

static int take_frame(void *user, const float *frame) {
    film *f = user;
    assert_true(f->count < f->capacity);
    memcpy(f->values + f->count++ * f->frame, frame, (size_t)f->frame * sizeof *frame);
    return ZOE_OK;
}

static void open_case(golden *g, const char *name) {
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "%s/cases/%s/model", TEST_DATA, name);
    assert_int_equal(zoe_context_create(NULL, &g->ctx), ZOE_OK);
    golden_check(g, zoe_model_open(g->ctx, g->dir, NULL, &g->model));
}

/* Random numbers on the arena. */
static zoe_tensor random_latents(golden *g, zoe_backend *be, const int64_t shape[4]) {
    int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    float *host = malloc((size_t)count * sizeof *host);
    zoe_tensor t;
    zoe_random_fill(host, ZOE_F32, count, 7, 0, 1.7f);
    golden_check(g, zoe_nn_from_host(be, &t, ZOE_F32, 4, shape, host));
    free(host);
    return t;
}

/* ---- Wan ---- */

static void wan_parts(const char *name, int64_t height, int64_t width, int64_t frames, const int *counts) {
    golden g;
    open_case(&g, name);
    wan_model *m = g.model->impl;
    const zoe_wan_vae_config *c = zoe_wan_vae_configuration(m->vae);
    int64_t factor = zoe_wan_vae_space_factor(c), made = (frames - 1) * 4 + 1, size = height * width * factor * factor * 3;
    zoe_tensor latents = random_latents(&g, m->be, (const int64_t[]){c->channels, frames, height, width});
    film whole = film_create(size, made);
    golden_check(&g, zoe_wan_vae_decode(m->vae, &latents, &(zoe_tiling){0}, take_frame, &whole));
    assert_int_equal(whole.count, made);
    size_t used = m->be->arena.peak;
    for (int i = 0; counts[i]; i++) {
        film parts = film_create(size, made);
        zoe_tiling tiling = {.kind = ZOE_TILING_EXACT, .parts = counts[i], .whole = 1 + i % 2};
        m->be->arena.peak = m->be->arena.used;
        golden_check(&g, zoe_wan_vae_decode(m->vae, &latents, &tiling, take_frame, &parts));
        assert_int_equal(parts.count, made);
        assert_memory_equal(whole.values, parts.values, (size_t)(size * made) * sizeof(float));
        assert_true(m->be->arena.peak < used);
        assert_int_equal(m->be->host_bytes, 0);
        free(parts.values);
    }
    free(whole.values);
    golden_end(&g);
}

static void wan_21_parts(void **state) {
    (void)state;
    wan_parts("wan21_t2v", 19, 2, 3, (const int[]){2, 3, 19, 0});
    wan_parts("wan21_t2v", 19, 18, 2, (const int[]){2, 3, 4, 6, 0});
}

static void wan_22_parts(void **state) {
    (void)state;
    wan_parts("wan22_ti2v_5b_t2v", 17, 18, 2, (const int[]){2, 4, 0});
}

/* ---- LTX-Video: nothing but the number of frames at a time ---- */

static void ltx_frames(const char *name) {
    golden g;
    open_case(&g, name);
    ltx_model *m = g.model->impl;
    int64_t channels = zoe_ltx_vae_configuration(m->vae)->channels, frames = 5, size = 2 * 32 * 1 * 32 * 3;
    zoe_tensor latents = random_latents(&g, m->be, (const int64_t[]){frames, 2, 1, channels});
    film all[4];
    for (int i = 0; i < 4; i++) { /* 1, 2, 3 and 5 at a time: 1 and 2 are left over */
        zoe_tiling tiling = {.frames = i < 3 ? i + 1 : (int)frames};
        zoe_generator generator;
        zoe_generator_seed(&generator, 5);
        all[i] = film_create(size, 8 * (frames - 1) + 1);
        golden_check(&g, zoe_ltx_vae_decode(m->vae, &latents, &generator, &tiling, take_frame, &all[i]));
        assert_int_equal(all[i].count, all[i].capacity);
        if (i) assert_memory_equal(all[0].values, all[i].values, (size_t)(size * all[i].count) * sizeof(float));
    }
    for (int i = 0; i < 4; i++) free(all[i].values);
    golden_end(&g);
}

static void ltx_090_frames(void **state) {
    (void)state;
    ltx_frames("ltx_t2v");
}

static void ltx_091_frames(void **state) {
    (void)state;
    ltx_frames("ltx_x_noise");
}

static void ltx_095_frames(void **state) {
    (void)state;
    ltx_frames("ltx095_t2v");
}

/* ---- the reference's tiles, as tests/reference/vae_tiling.py made them ---- */

enum { ROW_STEP = 11, COLUMN_STEP = 9 };

/* Latents as torch draws them with seed 11. */
static zoe_tensor drawn_latents(golden *g, zoe_backend *be, const int64_t shape[4]) {
    int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    float *host = malloc((size_t)count * sizeof *host);
    zoe_generator generator;
    zoe_tensor t;
    zoe_generator_seed(&generator, 11);
    zoe_generator_normal(&generator, host, count);
    golden_check(g, zoe_nn_from_host(be, &t, ZOE_F32, 4, shape, host));
    free(host);
    return t;
}

/* The first and the last frame, in steps of rows and columns, against the reference's. */
static void compare_tiled(golden *g, const char *name, const film *f, int64_t width) {
    char path[600];
    int64_t count, at = 0, height = f->frame / width / 3;
    snprintf(path, sizeof path, "%s/tiling/%s.safetensors", TEST_DATA, name);
    golden_check(g, zoe_checkpoint_open(g->ctx, path, &g->expected));
    const float *expected = golden_values(g->expected, "video", &count);
    float *found = malloc((size_t)count * sizeof *found);
    for (int64_t frame = 0; frame<f->count; frame += f->count> 1 ? f->count - 1 : 1)
        for (int64_t y = 0; y < height; y += ROW_STEP)
            for (int64_t x = 0; x < width; x += COLUMN_STEP, at += 3)
                memcpy(found + at, f->values + frame * f->frame + (y * width + x) * 3, 3 * sizeof *found);
    if (f->count == 1) memcpy(found + at, found, (size_t)at * sizeof *found), at *= 2;
    assert_int_equal(at, count);
    double error = golden_relative(found, expected, count);
    print_message("%s: relative error %.1e\n", name, error);
    assert_true(error <= 2e-5);
    free(found);
}

static void wan_tiles(const char *name, int64_t height, int64_t width) {
    golden g;
    open_case(&g, name);
    wan_model *m = g.model->impl;
    const zoe_wan_vae_config *c = zoe_wan_vae_configuration(m->vae);
    int64_t factor = zoe_wan_vae_space_factor(c);
    zoe_tensor latents = drawn_latents(&g, m->be, (const int64_t[]){c->channels, 2, height, width});
    film f = film_create(height * width * factor * factor * 3, 5);
    golden_check(&g, zoe_wan_vae_decode(m->vae, &latents, &(zoe_tiling){.kind = ZOE_TILING_REFERENCE}, take_frame, &f));
    compare_tiled(&g, name, &f, width * factor);
    free(f.values);
    golden_end(&g);
}

static void wan_21_tiles(void **state) {
    (void)state;
    wan_tiles("wan21_t2v", 34, 36);
}

static void wan_22_tiles(void **state) {
    (void)state;
    wan_tiles("wan22_ti2v_5b_t2v", 17, 30);
}

static void cogvideox_tiles(void **state) {
    (void)state;
    golden g;
    open_case(&g, "cogvideox_x_long");
    cogvideox_model *m = g.model->impl;
    int64_t channels = zoe_cogvideox_vae_configuration(m->vae)->channels, height = 31, width = 48;
    zoe_tensor latents = drawn_latents(&g, m->be, (const int64_t[]){3, channels, height, width});
    film f = film_create(height * width * 64 * 3, 9);
    golden_check(&g,
                 zoe_cogvideox_vae_decode(m->vae, &latents, &(zoe_tiling){.kind = ZOE_TILING_REFERENCE}, take_frame, &f));
    compare_tiled(&g, "cogvideox_x_long", &f, width * 8);
    free(f.values);
    golden_end(&g);
}

static void ltx_tiles(const char *name, int64_t frames, int64_t height, int64_t width) {
    golden g;
    open_case(&g, name);
    ltx_model *m = g.model->impl;
    int64_t channels = zoe_ltx_vae_configuration(m->vae)->channels;
    zoe_generator generator;
    zoe_generator_seed(&generator, 5);
    zoe_tensor drawn = drawn_latents(&g, m->be, (const int64_t[]){channels, frames, height, width}), latents;
    drawn = zoe_view_permute(&drawn, (const int[]){1, 2, 3, 0});
    golden_check(&g, zoe_new_tensor(m->be, &latents, ZOE_F32, 4, drawn.shape));
    golden_check(&g, zoe_op_copy(m->be, &latents, &drawn));
    film f = film_create(height * width * 1024 * 3, 8 * (frames - 1) + 1);
    golden_check(&g, zoe_ltx_vae_decode(m->vae, &latents, &generator, &(zoe_tiling){.kind = ZOE_TILING_REFERENCE},
                                        take_frame, &f));
    compare_tiled(&g, name, &f, width * 32);
    free(f.values);
    golden_end(&g);
}

static void ltx_090_tiles(void **state) {
    (void)state;
    ltx_tiles("ltx_t2v", 2, 17, 18);
}

static void ltx_095_tiles(void **state) {
    (void)state;
    ltx_tiles("ltx095_t2v", 1, 18, 17);
}

/* ---- requests ---- */

static void make_request(golden *g, zoe_request *request) {
    zoe_request_init(g->model, request);
    request->prompt = "A red ball rolls.";
    request->width = 32, request->height = 240, request->frames = 9, request->steps = 2;
    request->dump = g->dump;
}

static void open_dump(golden *g) {
    golden_check(g, zoe_checkpoint_open(g->ctx, g->dump, &g->found));
}

/* What whole frames need more than the budget, parts do without; the video stays the same. */
static void budget_divides_frames(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    zoe_plan plan;
    zoe_phase_budget budgets[ZOE_PHASE_COUNT];
    zoe_phase_use use[ZOE_PHASE_COUNT];
    int64_t count, found_count;
    open_case(&g, "wan21_t2v");
    snprintf(g.dump, sizeof g.dump, "/tmp/zoe-tiling-%d.safetensors", (int)getpid());
    make_request(&g, &request);
    golden_check(&g, zoe_plan_make(g.model, &request, NULL, &plan));
    golden_check(&g, zoe_generate_counted(g.model, &request, NULL, NULL, use));
    open_dump(&g);
    g.expected = g.found;
    const float *expected = golden_values(g.expected, "video", &count);
    unlink(g.dump); /* the mapping stays */

    g.model->settings.ram = zoe_plan_peak(&plan, ZOE_PHASE_DECODE) - (1 << 20) + ZOE_HOST_RESERVE;
    golden_check(&g, zoe_plan_fit(g.model, &request, &plan, budgets));
    assert_true(plan.parts > 1);
    assert_true(plan.phases[ZOE_PHASE_DECODE].activations < use[ZOE_PHASE_DECODE].activations);
    golden_check(&g, zoe_generate_counted(g.model, &request, budgets, NULL, use));
    assert_int_equal(plan.phases[ZOE_PHASE_DECODE].activations, use[ZOE_PHASE_DECODE].activations);
    assert_int_equal(plan.phases[ZOE_PHASE_DECODE].host, use[ZOE_PHASE_DECODE].host);
    assert_true(use[ZOE_PHASE_DECODE].host > 0);
    open_dump(&g);
    const float *found = golden_values(g.found, "video", &found_count);
    assert_int_equal(count, found_count);
    assert_memory_equal(expected, found, (size_t)count * sizeof *found);
    golden_end(&g);
}

static void unknown_tiling_is_refused(void **state) {
    (void)state;
    golden g;
    zoe_request request;
    open_case(&g, "cogvideox_2b");
    make_request(&g, &request);
    request.dump = NULL, request.height = 48, request.width = 48, request.vae_tiling = "some";
    assert_int_equal(zoe_generate(g.model, &request, NULL), ZOE_ERR_ARGUMENT);
    assert_non_null(strstr(zoe_context_error(g.ctx), "reference"));
    request.vae_tiling = "exact"; /* not possible where norms are taken over whole frames */
    assert_int_equal(zoe_generate(g.model, &request, NULL), ZOE_ERR_UNSUPPORTED);
    assert_non_null(strstr(zoe_context_error(g.ctx), "--vae-tiling exact"));
    golden_end(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wan_21_parts),          cmocka_unit_test(wan_22_parts),
        cmocka_unit_test(ltx_090_frames),        cmocka_unit_test(ltx_091_frames),
        cmocka_unit_test(ltx_095_frames),        cmocka_unit_test(wan_21_tiles),
        cmocka_unit_test(wan_22_tiles),          cmocka_unit_test(cogvideox_tiles),
        cmocka_unit_test(ltx_090_tiles),         cmocka_unit_test(ltx_095_tiles),
        cmocka_unit_test(budget_divides_frames), cmocka_unit_test(unknown_tiling_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
