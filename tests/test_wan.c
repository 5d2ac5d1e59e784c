/* The Wan family against the reference implementation. */
#include "golden.h"

#include "models/wan/wan_model.h"
#include "pipeline/model.h"
#include "sample/noise.h"

static void check_case(const char *name) {
    golden g;
    golden_run(&g, name);
    golden_near(&g, "prompt_embeds", 1e-4);
    golden_near(&g, "negative_prompt_embeds", 1e-4);
    golden_near(&g, "timesteps", 0);
    golden_near(&g, "sigmas", 1e-6);
    golden_rows_near(&g, "step_latents", 1e-4);
    golden_video_near(&g, 60);
    if (zoe_checkpoint_find(g.expected, "image_embeds")) {
        /* the reference recorded the first picture's features alone */
        int64_t count, found_count;
        const float *expected = golden_values(g.expected, "image_embeds", &count);
        const float *found = golden_values(g.found, "image_embeds", &found_count);
        assert_int_equal(found_count % count, 0);
        double error = golden_relative(found, expected, count);
        print_message("image_embeds: relative error %.1e\n", error);
        assert_true(error <= 1e-4);
    }
    golden_end(&g);
}

#define CASE(name)                                                                                                         \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_case(#name);                                                                                                 \
    }
CASE(wan21_t2v)
CASE(wan21_i2v)
CASE(wan21_flf2v)
CASE(wan22_t2v_a14b)
CASE(wan22_i2v_a14b)
CASE(wan22_ti2v_5b_t2v)
CASE(wan22_ti2v_5b_i2v)

static void seed_draws_the_reference_noise(void **state) {
    (void)state;
    zoe_context *ctx;
    zoe_checkpoint *golden_file;
    zoe_generator generator;
    int64_t count;
    assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
    assert_int_equal(zoe_checkpoint_open(ctx, TEST_DATA "/cases/wan21_t2v/golden.safetensors", &golden_file), ZOE_OK);
    const float *expected = golden_values(golden_file, "in.latents", &count);
    float *drawn = malloc((size_t)count * sizeof *drawn);
    zoe_generator_seed(&generator, 11);
    zoe_generator_normal(&generator, drawn, count);
    assert_true(golden_largest(drawn, expected, count) <= 1e-6);
    free(drawn);
    zoe_checkpoint_close(golden_file);
    zoe_context_free(ctx);
}

/* One forward of the denoiser on the reference's own inputs, `at_once` tokens at a time (0: all); what it held at most. */
static size_t forward(int64_t at_once) {
    golden g;
    int64_t count, text_count;
    golden_run(&g, "wan21_t2v");
    wan_model *m = g.model->impl;
    zoe_backend *be = m->be;
    const zoe_entry *in = zoe_checkpoint_find(g.expected, "dit_in.hidden_states");
    const zoe_entry *time = zoe_checkpoint_find(g.expected, "dit_in.timestep");
    const float *x = golden_values(g.expected, "dit_in.hidden_states", &count);
    const float *text = golden_values(g.expected, "dit_in.encoder_hidden_states", &text_count);
    const float *expected = golden_values(g.expected, "dit_out", &count);
    int64_t rows = ZOE_WAN_TEXT_ROWS, width = text_count / rows, timestep;
    while (rows > 0 && text[rows * width - 1] == 0) rows--;
    memcpy(&timestep, time->data, sizeof timestep);
    be->rows = at_once;
    zoe_tensor latents, v;
    zoe_wan_grid grid;
    zoe_wan_context context;
    double t = (double)timestep;
    golden_check(&g, zoe_wan_grid_create(m->denoisers[0], in->shape[2], in->shape[3], in->shape[4], &grid));
    golden_check(&g, zoe_wan_context_create(m->denoisers[0], text, rows, NULL, 0, &context));
    golden_check(&g, zoe_nn_from_host(be, &latents, ZOE_F32, 4, in->shape + 1, x));
    golden_check(&g, zoe_new_tensor(be, &v, ZOE_F32, 4, in->shape + 1));
    const zoe_tensor *parts[] = {&latents};
    be->arena.peak = 0;
    const zoe_wan_step step = {.parts = 1, .latents = parts, .groups = 1, .timesteps = &t};
    golden_check(&g, zoe_wan_denoiser_forward(m->denoisers[0], &grid, &step, 1, &(zoe_wan_branch){&context, &v}));
    float *found = malloc((size_t)count * sizeof *found);
    golden_check(&g, zoe_download(be, found, &v));
    double error = golden_relative(found, expected, count);
    print_message("dit_out: relative error %.1e\n", error);
    assert_true(error <= 1e-5);
    size_t peak = be->arena.peak;
    free(found);
    golden_end(&g);
    return peak;
}

/* Some tokens at a time give the same, and take less memory. */
static void denoiser_forward(void **state) {
    (void)state;
    size_t whole = forward(0);
    assert_true(forward(7) < whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wan21_t2v),         cmocka_unit_test(wan21_i2v),
        cmocka_unit_test(wan21_flf2v),       cmocka_unit_test(wan22_t2v_a14b),
        cmocka_unit_test(wan22_i2v_a14b),    cmocka_unit_test(wan22_ti2v_5b_t2v),
        cmocka_unit_test(wan22_ti2v_5b_i2v), cmocka_unit_test(seed_draws_the_reference_noise),
        cmocka_unit_test(denoiser_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
