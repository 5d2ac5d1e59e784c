/* Frames decoded in parts: in bands they are the numbers of whole frames, in the reference's tiles those of the reference.
 */
#include "golden.h"

#include "models/ltx/ltx_model.h"
#include "models/wan/wan_model.h"
#include "pipeline/model.h"
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

static void wan_bands(const char *name, int64_t height, int64_t width, int64_t frames, const int *bands) {
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
    for (; *bands; bands++) {
        film parts = film_create(size, made);
        zoe_tiling tiling = {.kind = ZOE_TILING_BANDS, .bands = *bands};
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

static void wan_21_bands(void **state) {
    (void)state;
    wan_bands("wan21_t2v", 19, 2, 3, (const int[]){2, 3, 19, 0});
}

static void wan_22_bands(void **state) {
    (void)state;
    wan_bands("wan22_ti2v_5b_t2v", 19, 1, 3, (const int[]){2, 4, 0});
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wan_21_bands),   cmocka_unit_test(wan_22_bands),   cmocka_unit_test(ltx_090_frames),
        cmocka_unit_test(ltx_091_frames), cmocka_unit_test(ltx_095_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
