/* The CogVideoX family against the reference implementation. */
#include "golden.h"

#include "manifest.h"

#include "models/cogvideox/cogvideox_model.h"
#include "pipeline/model.h"

static void check_case(const char *name) {
    golden g;
    golden_run(&g, name);
    golden_near(&g, "prompt_embeds", 1e-4);
    golden_near(&g, "negative_prompt_embeds", 1e-4);
    golden_near(&g, "timesteps", 0);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

/* The denoiser's first call, on the reference's own inputs: unconditional, then conditional. */
static void check_denoiser(const char *name) {
    golden g;
    int64_t values, texts, count, timestep;
    golden_run(&g, name);
    cogvideox_model *m = g.model->impl;
    zoe_backend *be = m->be;
    const zoe_entry *in = zoe_checkpoint_find(g.expected, "dit_in.hidden_states");
    const float *x = golden_values(g.expected, "dit_in.hidden_states", &values);
    const float *text = golden_values(g.expected, "dit_in.encoder_hidden_states", &texts);
    const float *expected = golden_values(g.expected, "dit_out", &count);
    memcpy(&timestep, zoe_checkpoint_find(g.expected, "dit_in.timestep")->data, sizeof timestep);
    int64_t shape[4] = {in->shape[1], count / 2 * in->shape[2] / (values / 2), in->shape[3], in->shape[4]};
    float *found = malloc((size_t)count * sizeof *found);
    size_t mark = zoe_arena_mark(be);
    for (int i = 0; i < 2; i++) {
        zoe_tensor latents, words, v;
        zoe_cogvideox_grid grid;
        golden_check(&g, zoe_cogvideox_grid_create(m->denoiser, in->shape[1], in->shape[3], in->shape[4], &grid));
        golden_check(&g, zoe_cogvideox_text_create(m->denoiser, text + i * texts / 2, &words));
        golden_check(&g, zoe_nn_from_host(be, &latents, ZOE_F32, 4, in->shape + 1, x + i * values / 2));
        golden_check(&g, zoe_new_tensor(be, &v, ZOE_F32, 4, shape));
        const zoe_tensor *parts[] = {&latents};
        golden_check(&g, zoe_cogvideox_denoiser_forward(m->denoiser, &grid, 1, parts, (double)timestep, 1,
                                                        &(zoe_cogvideox_branch){&words, &v}));
        golden_check(&g, zoe_download(be, found + i * count / 2, &v));
        zoe_arena_release(be, mark);
    }
    double error = golden_relative(found, expected, count);
    print_message("dit_out: relative error %.1e\n", error);
    assert_true(error <= 2e-5);
    free(found);
    golden_end(&g);
}

#define CASE(name)                                                                                                         \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_case(#name);                                                                                                 \
        check_denoiser(#name);                                                                                             \
    }
CASE(cogvideox_2b)
CASE(cogvideox_5b)
CASE(cogvideox_5b_i2v)
CASE(cogvideox15_5b)
CASE(cogvideox15_5b_i2v)

/* Other sizes, lengths and schedules, made by tests/reference/make_family_cases.sh. */
static void check_other(const char *name) {
    golden g;
    int64_t texts, count;
    golden_run(&g, name);
    /* The unconditional prompt's rows come first. */
    const float *text = golden_values(g.expected, "dit_in.encoder_hidden_states", &texts);
    const float *found = golden_values(g.found, "prompt_embeds", &count);
    assert_true(golden_largest(found, text + texts - count, count) <= 1e-4);
    golden_near(&g, "timesteps", 0);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

#define OTHER(name)                                                                                                        \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_other(#name);                                                                                                \
    }
OTHER(cogvideox_x_even)
OTHER(cogvideox_x_long)
OTHER(cogvideox_x_learned)
OTHER(cogvideox_x_still)
OTHER(cogvideox15_x_even)
OTHER(cogvideox15_x_picture)
OTHER(cogvideox_x_sat_2b)
OTHER(cogvideox_x_sat_5b)
OTHER(cogvideox_x_sat_15)

/* ---- published networks ---- */

static void published_denoiser(void **state) {
    const char *network = *state;
    bench b;
    zoe_cogvideox_config config;
    zoe_cogvideox_denoiser *d;
    set_up(&b, network);
    assert_ok(b.ctx, zoe_cogvideox_config_read(&b.config, &config));
    assert_ok(b.ctx, zoe_cogvideox_denoiser_create(b.be, &config, NULL, ZOE_FORM_NATIVE, &d));
    same_as_published(network, zoe_cogvideox_denoiser_weights(d));
    zoe_cogvideox_denoiser_free(d);
    tear_down(&b);
}

static void published_vae(void **state) {
    bench b;
    zoe_cogvideox_vae_config config;
    zoe_cogvideox_vae *vae;
    set_up(&b, *state);
    assert_ok(b.ctx, zoe_cogvideox_vae_config_read(&b.config, &config));
    assert_ok(b.ctx, zoe_cogvideox_vae_create(b.be, &config, NULL, &vae));
    same_as_published(*state, zoe_cogvideox_vae_weights(vae));
    zoe_cogvideox_vae_free(vae);
    tear_down(&b);
}

/* ---- requests that the models cannot do ---- */

static void bad_requests(void **state) {
    static const char picture[] = TEST_DATA "/cases/cogvideox_5b_i2v/image.png";
    (void)state;
    REFUSES("cogvideox_2b", "48x32", .width = 50, .height = 32);
    REFUSES("cogvideox_2b", "9 and 16", .width = 48, .height = 32, .frames = 12);
    REFUSES("cogvideox_2b", "text only", .width = 48, .height = 32, .image = picture);
    REFUSES("cogvideox_2b", "ddim or dpm", .width = 48, .height = 32, .sampler = "unipc");
    REFUSES("cogvideox_5b_i2v", "--image FILE", .width = 48, .height = 32);
    REFUSES("cogvideox_5b_i2v", "--last-image", .width = 48, .height = 32, .image = picture, .last_image = picture);
    REFUSES("cogvideox_5b_i2v", "48x32", .width = 64, .height = 48, .image = picture);
    REFUSES("cogvideox15_5b", "up to 48x32", .width = 64, .height = 32);
}

/* 1.5 is made for twice as many frames a second as 1.0: another rate is told, not refused. */
static void frame_rates(void **state) {
    static const struct {
        const char *name;
        double fps;
        const char *told;
    } rows[] = {{"cogvideox_x_still", 8, NULL},
                {"cogvideox_x_still", 16, "faster"},
                {"cogvideox15_5b", 16, NULL},
                {"cogvideox15_5b", 8, "slower"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[600];
        test_memory memory;
        zoe_context *ctx = test_context(&memory);
        zoe_model *model;
        zoe_request request;
        snprintf(path, sizeof path, "%s/cases/%s/model", TEST_DATA, rows[i].name);
        assert_ok(ctx, zoe_model_open(ctx, path, NULL, &model));
        zoe_request_init(model, &request);
        request.prompt = "fox";
        request.width = 32, request.height = 32, request.frames = 1, request.steps = 1, request.fps = rows[i].fps;
        assert_ok(ctx, zoe_generate(model, &request, NULL));
        if (rows[i].told)
            assert_non_null(strstr(memory.log, rows[i].told));
        else
            assert_string_equal(memory.log, "");
        zoe_model_close(model);
        test_context_free(&memory, ctx);
    }
}

static void bad_parts(void **state) {
    (void)state;
    golden_refuses_parts("cogvideox_2b", "vae", NULL, "/vae");
    golden_refuses_parts("cogvideox_2b", "scheduler", NULL, "scheduler_config.json");
    golden_refuses_parts("cogvideox_2b", "tokenizer", NULL, "tokenizer");
    golden_refuses_parts("cogvideox_2b", "transformer", "cogvideox_5b_i2v", "text-to-video");
    golden_refuses_parts("cogvideox_5b_i2v", "transformer", "cogvideox_5b", "image-to-video");
    golden_refuses_parts("cogvideox_2b", "text_encoder", "cogvideox_x_even", "width");
    golden_refuses_parts("cogvideox_2b", "scheduler", "ltx_t2v", "CogVideoXDPMScheduler");
}

static void out_of_memory(void **state) {
    (void)state;
    golden_starve("cogvideox15_5b_i2v", 48, 32, 9, NULL);
}

int main(void) {
#define PUBLISHED(kind, network)                                                                                           \
    { .name = network, .test_func = kind, .initial_state = network }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cogvideox_2b),
        cmocka_unit_test(cogvideox_5b),
        cmocka_unit_test(cogvideox_5b_i2v),
        cmocka_unit_test(cogvideox15_5b),
        cmocka_unit_test(cogvideox15_5b_i2v),
        cmocka_unit_test(cogvideox_x_even),
        cmocka_unit_test(cogvideox_x_long),
        cmocka_unit_test(cogvideox_x_learned),
        cmocka_unit_test(cogvideox_x_still),
        cmocka_unit_test(cogvideox15_x_even),
        cmocka_unit_test(cogvideox15_x_picture),
        cmocka_unit_test(cogvideox_x_sat_2b),
        cmocka_unit_test(cogvideox_x_sat_5b),
        cmocka_unit_test(cogvideox_x_sat_15),
        PUBLISHED(published_denoiser, "cogvideox-2b"),
        PUBLISHED(published_denoiser, "cogvideox-5b"),
        PUBLISHED(published_denoiser, "cogvideox-5b-i2v"),
        PUBLISHED(published_denoiser, "cogvideox1.5-5b"),
        PUBLISHED(published_denoiser, "cogvideox1.5-5b-i2v"),
        PUBLISHED(published_vae, "cogvideox-vae"),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(frame_rates),
        cmocka_unit_test(bad_parts),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
