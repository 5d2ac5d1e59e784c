/* The LTX-Video family against the reference implementation. */
#include "golden.h"

#include "manifest.h"

#include "models/ltx/ltx_model.h"
#include "pipeline/model.h"

/*
 * The rows that the denoiser was given; a case's own prompt_embeds may have been encoded with more padding. Rows of the
 * unconditional prompt come first.
 */
static void check_text(const golden *g) {
    int64_t both, count, negative_count;
    const float *expected = golden_values(g->expected, "dit_in.encoder_hidden_states", &both);
    const float *found = golden_values(g->found, "prompt_embeds", &count);
    const float *negative = golden_values(g->found, "negative_prompt_embeds", &negative_count);
    assert_int_equal(count, both / 2);
    assert_int_equal(negative_count, both / 2);
    assert_true(golden_largest(negative, expected, both / 2) <= 1e-4);
    assert_true(golden_largest(found, expected + both / 2, both / 2) <= 1e-4);
}

/* The denoiser's first call, on the reference's own inputs: unconditional, then conditional. */
static void check_denoiser(golden *g) {
    ltx_model *m = g->model->impl;
    zoe_backend *be = m->be;
    const zoe_entry *in = zoe_checkpoint_find(g->expected, "dit_in.hidden_states");
    const zoe_entry *mask = zoe_checkpoint_find(g->expected, "dit_in.encoder_attention_mask");
    int64_t values, texts, count, times, rows = mask->shape[1], tokens = in->shape[1];
    const float *x = golden_values(g->expected, "dit_in.hidden_states", &values);
    const float *text = golden_values(g->expected, "dit_in.encoder_hidden_states", &texts);
    const float *timestep = golden_values(g->expected, "dit_in.timestep", &times);
    const float *expected = golden_values(g->expected, "dit_out", &count);
    int64_t given = 0, size[3] = {2, 2, 3};
    while (times > 2 && timestep[given] == 0) given++;
    int32_t groups[64];
    for (int i = 0; i < 64; i++) groups[i] = i < given;
    float *found = malloc((size_t)count * sizeof *found);
    size_t mark = zoe_arena_mark(be), width = zoe_dtype_size(mask->dtype);
    for (int i = 0; i < 2; i++) {
        zoe_ltx_place place = {.size = {size[0], size[1], size[2]},
                               .fps = 25,
                               .causal = m->causal,
                               .levels = given ? 2 : 1,
                               .groups = groups};
        zoe_ltx_context context;
        zoe_ltx_grid grid;
        zoe_tensor latents, v;
        int64_t length = 0;
        while (length < rows && ((const char *)mask->data)[(size_t)(i * rows + length) * width]) length++;
        golden_check(g, zoe_ltx_grid_create(m->denoiser, &place, &grid));
        golden_check(g, zoe_ltx_context_create(m->denoiser, text + i * texts / 2, length, &context));
        golden_check(g, zoe_nn_from_host(be, &latents, ZOE_F32, 2, in->shape + 1, x + i * values / 2));
        golden_check(g, zoe_new_tensor(be, &v, ZOE_F32, 2, in->shape + 1));
        assert_int_equal(grid.tokens, tokens);
        golden_check(g,
                     zoe_ltx_denoiser_forward(m->denoiser, &grid, NULL, &latents, (const double[]){timestep[times - 1], 0},
                                              1, &(zoe_ltx_branch){&context, &v}));
        golden_check(g, zoe_download(be, found + i * count / 2, &v));
        zoe_arena_release(be, mark);
    }
    double error = golden_relative(found, expected, count);
    print_message("dit_out: relative error %.1e\n", error);
    assert_true(error <= 2e-5);
    free(found);
}

static void check_case(const char *name) {
    golden g;
    golden_run(&g, name);
    check_text(&g);
    golden_near(&g, "timesteps", 1e-6);
    golden_near(&g, "sigmas", 1e-6);
    check_denoiser(&g);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

#define CASE(name)                                                                                                         \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_case(#name);                                                                                                 \
    }
CASE(ltx_t2v)
CASE(ltx_i2v)
CASE(ltx095_t2v)
CASE(ltx095_i2v)

/* Other sizes, lengths and versions, made by tests/reference/make_family_cases.sh. */
static void check_other(const char *name) {
    golden g;
    int64_t texts, count;
    golden_run(&g, name);
    const float *text = golden_values(g.expected, "dit_in.encoder_hidden_states", &texts);
    const float *found = golden_values(g.found, "prompt_embeds", &count);
    assert_true(golden_largest(found, text + texts - count, count) <= 1e-4);
    golden_near(&g, "timesteps", 1e-6);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

/* Two passes: the latents of the second have a size of their own. */
static void check_passes(const char *name) {
    golden g;
    golden_run(&g, name);
    golden_rows_near(&g, "step_latents", 2e-4);
    golden_rows_near(&g, "refined_latents", 2e-4);
    golden_video_near(&g, 55);
    golden_end(&g);
}

static void ltx_x_passes(void **state) {
    (void)state;
    check_passes("ltx_x_passes");
}

static void ltx_x_passes_given(void **state) {
    (void)state;
    check_passes("ltx_x_passes_given");
}

#define OTHER(name)                                                                                                        \
    static void name(void **state) {                                                                                       \
        (void)state;                                                                                                       \
        check_other(#name);                                                                                                \
    }
OTHER(ltx_x_long)
OTHER(ltx_x_still)
OTHER(ltx_x_noise)
OTHER(ltx_x_ends)
OTHER(ltx_x_end)
OTHER(ltx_x_first)
OTHER(ltx_x_second)
OTHER(ltx_x_stochastic)
OTHER(ltx_x_timesteps)
OTHER(ltx_x_pictures)
OTHER(ltx_x_clips)
OTHER(ltx_x_clip)

/* ---- published networks ---- */

static void published_denoiser(void **state) {
    bench b;
    zoe_ltx_config config;
    zoe_ltx_denoiser *d;
    set_up(&b, *state);
    assert_ok(b.ctx, zoe_ltx_config_read(&b.config, &config));
    assert_ok(b.ctx, zoe_ltx_denoiser_create(b.be, &config, NULL, ZOE_FORM_NATIVE, &d));
    same_as_published(*state, zoe_ltx_denoiser_weights(d));
    zoe_ltx_denoiser_free(d);
    tear_down(&b);
}

static void published_vae(void **state) {
    bench b;
    zoe_ltx_vae_config config;
    zoe_ltx_vae *vae;
    set_up(&b, *state);
    assert_ok(b.ctx, zoe_ltx_vae_config_read(&b.config, &config));
    assert_ok(b.ctx, zoe_ltx_vae_create(b.be, &config, NULL, &vae));
    same_as_published(*state, zoe_ltx_vae_weights(vae));
    zoe_ltx_vae_free(vae);
    tear_down(&b);
}

/* The first published configuration lists less: what it leaves out is as in 0.9.0. */
static void first_configuration(void **state) {
    static const char *const later[] = {"decoder_block_out_channels", "decoder_layers_per_block",
                                        "down_block_types",           "decoder_spatio_temporal_scaling",
                                        "decoder_inject_noise",       "downsample_type",
                                        "upsample_residual",          "upsample_factor",
                                        "timestep_conditioning",      "spatial_compression_ratio",
                                        "temporal_compression_ratio"};
    (void)state;
    bench b;
    zoe_ltx_vae_config expected, found;
    set_up(&b, "ltx-0.9.0-vae");
    assert_ok(b.ctx, zoe_ltx_vae_config_read(&b.config, &expected));
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++) json_object_del(b.config.root, later[i]);
    assert_ok(b.ctx, zoe_ltx_vae_config_read(&b.config, &found));
    assert_memory_equal(&found, &expected, sizeof found);
    json_object_set_new(b.config.root, "decoder_block_out_channels", json_array());
    assert_fails(b.ctx, zoe_ltx_vae_config_read(&b.config, &found), ZOE_ERR_FORMAT, "decoder_block_out_channels");
    tear_down(&b);
}

/* ---- requests that the models cannot do ---- */

static void bad_requests(void **state) {
    static const char picture[] = TEST_DATA "/cases/ltx_i2v/image.png";
    (void)state;
    REFUSES("ltx_t2v", "96x64", .width = 100);
    REFUSES("ltx_t2v", "9 and 17", .frames = 12);
    REFUSES("ltx_t2v", "0.9.5", .last_image = picture);
    REFUSES("ltx095_t2v", "one frame", .frames = 1, .last_image = picture);
    REFUSES("ltx_t2v", "falling numbers", .timesteps = "500,900");
    REFUSES("ltx_t2v", "falling numbers", .timesteps = "1001");
    REFUSES("ltx_t2v", "falling numbers", .timesteps = "900,0");
    REFUSES("ltx_t2v", "falling numbers", .timesteps = "900;100");
}

static void bad_conditions(void **state) {
#define CLIP    TEST_DATA "/cases/ltx_x_clip/given0.png"
#define PICTURE TEST_DATA "/cases/ltx_i2v/image.png"
    (void)state;
    REFUSES("ltx_t2v", "with --image", .conditions = PICTURE "@0");
    REFUSES("cogvideox_2b", "takes no pictures or clips", .conditions = PICTURE "@0");
    REFUSES("ltx_t2v", "takes no pictures or clips", .condition_noise = 0.1);
    REFUSES("ltx095_t2v", "FILE@FRAME", .conditions = PICTURE);
    REFUSES("ltx095_t2v", "FILE@FRAME", .conditions = "@3");
    REFUSES("ltx095_t2v", "FILE@FRAME", .conditions = PICTURE "@-1");
    REFUSES("ltx095_t2v", "FILE@FRAME", .conditions = PICTURE "@0:0");
    REFUSES("ltx095_t2v", "FILE@FRAME", .conditions = PICTURE "@0:1.5");
    REFUSES("ltx095_t2v", "FILE@FRAME", .conditions = PICTURE "@0:0.5x");
    REFUSES("ltx095_t2v", "frames 0 to 8", .conditions = PICTURE "@9");
    REFUSES("ltx095_t2v", "no-such.png", .conditions = PICTURE "@0\nno-such.png@8");
    REFUSES("ltx095_t2v", "the nearest is 8", .frames = 25, .conditions = CLIP "@12");
    REFUSES("ltx095_t2v", "at most 16",
            .conditions = "a@0\nb@0\nc@0\nd@0\ne@0\nf@0\ng@0\nh@0\ni@0\nj@0\nk@0\nl@0\nm@0\nn@0\no@0\np@0\nq@0");
    REFUSES("ltx095_t2v", "condition noise", .condition_noise = -1);
}

#define UPSAMPLER TEST_DATA "/cases/ltx_x_passes/upsampler"

static void bad_upsamplers(void **state) {
    (void)state;
    REFUSES("cogvideox_2b", "takes none", .upsampler = UPSAMPLER);
    REFUSES("ltx_t2v", "from 0.9.5 on", .upsampler = UPSAMPLER);
    REFUSES("ltx095_t2v", "steps of 64", .upsampler = UPSAMPLER);
    REFUSES("ltx095_t2v", "no-such", .width = 64, .upsampler = "no-such");
    REFUSES("ltx095_t2v", "no spatial upsampler", .width = 64, .upsampler = TEST_DATA "/cases/ltx095_t2v/model/vae");
    REFUSES("ltx095_t2v", "expected 1 to 3", .width = 64, .upsampler = UPSAMPLER, .refine_steps = 3,
            .refine_strength = 0.3);
    REFUSES("ltx095_t2v", "euler", .width = 64, .upsampler = UPSAMPLER, .sampler = "unipc");
}

/* The published network, from its own file too; and one for another number of channels, or for time. */
static void published_upsampler(void **state) {
    (void)state;
    test_memory memory;
    zoe_backend *be;
    zoe_context *ctx = test_context(&memory);
    zoe_ltx_upsampler *u;
    assert_ok(ctx, zoe_plan_backend_create(ctx, ZOE_BF16, false, &be));
    assert_ok(ctx, zoe_ltx_upsampler_create(be, &(zoe_ltx_upsampler_config){.channels = 128, .width = 512, .blocks = 4},
                                            NULL, &u));
    list published = read_manifest("ltx-0.9.7-upsampler"), wanted = wanted_by(zoe_ltx_upsampler_weights(u));
    assert_int_equal(published.count, 72);
    same_tensors(&published, &wanted);
    free(published.rows);
    free(wanted.rows);
    zoe_ltx_upsampler_free(u);
    zoe_backend_close(be);
    test_context_free(&memory, ctx);
}

/* Defaults of the second pass: the end of ten steps; of distilled models the published timesteps. */
static void second_passes(void **state) {
    static const struct {
        const char *name;
        int count;
        double first, last;
        double tone_map;
    } rows[] = {{"LTX-Video-0.9.7-dev", 4, 932, 347, 0},
                {"LTX-Video-0.9.7-distilled", 3, 909, 421, 0},
                {"LTX-Video-0.9.8-13B-distilled", 3, 909, 421, 0.6},
                {"ltxv-2b-0.9.8-distilled", 3, 909, 421, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char folder[64], path[128];
        zoe_context *ctx;
        zoe_model *model;
        zoe_request request;
        test_folder_create(folder);
        snprintf(path, sizeof path, "%s/%s", folder, rows[i].name);
        assert_int_equal(symlink(TEST_DATA "/cases/ltx_x_end/model", path), 0);
        assert_int_equal(zoe_context_create(NULL, &ctx), ZOE_OK);
        assert_ok(ctx, zoe_model_open(ctx, path, NULL, &model));
        zoe_request_init(model, &request);
        request.prompt = "fox";
        request.width = request.height = 64, request.frames = 9;
        request.upsampler = UPSAMPLER "/latent_upsampler/diffusion_pytorch_model.safetensors";
        ltx_model *m = model->impl;
        zoe_run run = {.ctx = ctx, .be = model->be};
        assert_ok(ctx, model->family->prepare(m, &request, &run));
        assert_int_equal(run.second_steps, rows[i].count);
        assert_int_equal(run.schedule.given, i ? 8 : 0);
        assert_true(fabs(m->second.timesteps[0] - rows[i].first) < 1);
        assert_true(fabs(m->second.timesteps[rows[i].count - 1] - rows[i].last) < 1);
        assert_true(m->tone_map == rows[i].tone_map);
        model->family->finish(m);
        zoe_model_close(model);
        zoe_context_free(ctx);
        test_folder_remove(folder);
    }
}

static void bad_parts(void **state) {
    (void)state;
    golden_refuses_parts("ltx_t2v", "transformer", NULL, "/transformer");
    golden_refuses_parts("ltx_t2v", "text_encoder", "ltx_x_long", "width");
    golden_refuses_parts("ltx_t2v", "scheduler", "cogvideox_2b", "FlowMatchEulerDiscreteScheduler");
    golden_refuses_parts("ltx_t2v", "vae", "cogvideox_2b", "/vae");
}

static void out_of_memory(void **state) {
    (void)state;
    golden_starve("ltx095_i2v", 64, 32, 9, NULL);
    golden_starve("ltx_x_end", 32, 32, 25, &(zoe_request){.conditions = CLIP "@8:0.5\n" PICTURE "@0"});
    golden_starve("ltx_x_end", 64, 64, 9, &(zoe_request){.upsampler = UPSAMPLER, .conditions = PICTURE "@8"});
}

int main(void) {
#define PUBLISHED(kind, network)                                                                                           \
    { .name = network, .test_func = kind, .initial_state = network }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ltx_t2v),
        cmocka_unit_test(ltx_i2v),
        cmocka_unit_test(ltx095_t2v),
        cmocka_unit_test(ltx095_i2v),
        cmocka_unit_test(ltx_x_long),
        cmocka_unit_test(ltx_x_still),
        cmocka_unit_test(ltx_x_noise),
        cmocka_unit_test(ltx_x_ends),
        cmocka_unit_test(ltx_x_end),
        cmocka_unit_test(ltx_x_first),
        cmocka_unit_test(ltx_x_second),
        cmocka_unit_test(ltx_x_stochastic),
        cmocka_unit_test(ltx_x_timesteps),
        cmocka_unit_test(ltx_x_pictures),
        cmocka_unit_test(ltx_x_clips),
        cmocka_unit_test(ltx_x_clip),
        cmocka_unit_test(ltx_x_passes),
        cmocka_unit_test(ltx_x_passes_given),
        PUBLISHED(published_denoiser, "ltx-0.9.0-2b"),
        PUBLISHED(published_denoiser, "ltx-0.9.7-13b"),
        PUBLISHED(published_vae, "ltx-0.9.0-vae"),
        PUBLISHED(published_vae, "ltx-0.9.1-vae"),
        PUBLISHED(published_vae, "ltx-0.9.5-vae"),
        PUBLISHED(published_vae, "ltx-0.9.7-vae"),
        cmocka_unit_test(first_configuration),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(bad_conditions),
        cmocka_unit_test(published_upsampler),
        cmocka_unit_test(second_passes),
        cmocka_unit_test(bad_upsamplers),
        cmocka_unit_test(bad_parts),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
