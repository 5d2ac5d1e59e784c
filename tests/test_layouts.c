/* The layouts of the models' makers against the diffusers layout of the same weights: the same to the last bit. */
#include "golden.h"

#include <float.h>

#include "models/cogvideox/cogvideox_model.h"
#include "models/wan/names.h"
#include "models/wan/wan_model.h"
#include "pipeline/model.h"

typedef struct run {
    zoe_context *ctx;
    zoe_checkpoint *dump;
    char path[512];
} run;

/* Wan-AI's own layout has no schedule: both runs are told that of the case. */
static void take_schedule(golden *g, const char *folder, zoe_request *request) {
    char path[600];
    zoe_config config;
    const char *class = NULL;
    snprintf(path, sizeof path, "%s/model/scheduler/scheduler_config.json", folder);
    golden_check(g, zoe_config_load(g->ctx, path, &config));
    golden_check(g, zoe_config_text(&config, "_class_name", &class));
    bool euler = strcmp(class, "FlowMatchEulerDiscreteScheduler") == 0;
    golden_check(g, zoe_config_real(&config, euler ? "shift" : "flow_shift", &request->flow_shift));
    request->sampler = euler ? "euler" : "unipc";
    zoe_config_free(&config);
}

/* Makes the video of case `name` with the model in `model` and keeps everything that was dumped. */
static run run_model(const char *name, const char *model) {
    char path[600], latents[600], image[600], last_image[600];
    golden g = {0};
    zoe_config config;
    zoe_request request;
    run r = {0};
    assert_int_equal(zoe_context_create(NULL, &g.ctx), ZOE_OK);
    snprintf(g.dir, sizeof g.dir, "%s/cases/%s", TEST_DATA, name);
    snprintf(g.dump, sizeof g.dump, "/tmp/zoe-layout-%d-%s-%zu.safetensors", (int)getpid(), name, strlen(model));
    snprintf(path, sizeof path, "%s/golden.safetensors", g.dir);
    golden_check(&g, zoe_checkpoint_open(g.ctx, path, &g.expected));
    golden_check(&g, zoe_model_open(g.ctx, model, NULL, &g.model));
    snprintf(path, sizeof path, "%s/case.json", g.dir);
    golden_check(&g, zoe_config_load(g.ctx, path, &config));
    golden_request(&g, &config, &request, latents, image, last_image);
    if (strncmp(name, "wan", 3) == 0) take_schedule(&g, g.dir, &request);
    golden_check(&g, zoe_generate(g.model, &request, &g.result));
    golden_check(&g, zoe_checkpoint_open(g.ctx, g.dump, &r.dump));
    snprintf(r.path, sizeof r.path, "%s", g.dump);
    r.ctx = g.ctx;
    zoe_config_free(&config);
    zoe_model_close(g.model);
    zoe_checkpoint_close(g.expected);
    return r;
}

static void end_run(run *r) {
    zoe_checkpoint_close(r->dump);
    zoe_context_free(r->ctx);
    unlink(r->path);
}

/* Videos, latents of every step, embeddings: all tensors of both dumps. */
static void same_dumps(const zoe_checkpoint *a, const zoe_checkpoint *b) {
    assert_int_equal(zoe_checkpoint_count(a), zoe_checkpoint_count(b));
    assert_non_null(zoe_checkpoint_find(a, "video"));
    for (size_t i = 0; i < zoe_checkpoint_count(a); i++) {
        const zoe_entry *x = zoe_checkpoint_at(a, i), *y = zoe_checkpoint_find(b, x->name);
        if (!y || x->bytes != y->bytes || memcmp(x->data, y->data, x->bytes) != 0) fail_msg("%s differs", x->name);
    }
}

/* *state: "CASE" or "CASE/FILE", as tests/data/layouts has it. */
static void layouts_agree(void **state) {
    const char *place = *state;
    char name[64], diffusers[512], original[512];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(place, "/"), place);
    snprintf(diffusers, sizeof diffusers, "%s/cases/%s/model", TEST_DATA, name);
    snprintf(original, sizeof original, "%s/layouts/%s", TEST_DATA, place);
    run a = run_model(name, diffusers), b = run_model(name, original);
    same_dumps(a.dump, b.dump);
    end_run(&a);
    end_run(&b);
}

/* ---- sizes that only the tensors tell ---- */

static zoe_context *context;

static int set_up(void **state) {
    (void)state;
    return zoe_context_create(NULL, &context);
}

static int tear_down(void **state) {
    (void)state;
    zoe_context_free(context);
    return 0;
}

static zoe_checkpoint *open_file(const char *name) {
    char path[512];
    zoe_checkpoint *ckpt;
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, name);
    if (zoe_checkpoint_open(context, path, &ckpt) < 0) fail_msg("%s", zoe_context_error(context));
    return ckpt;
}

static zoe_config open_config(const char *name) {
    char path[512];
    zoe_config config;
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, name);
    if (zoe_config_load(context, path, &config) < 0) fail_msg("%s", zoe_context_error(context));
    return config;
}

static void check_autoencoder(const char *file, const char *config_file) {
    zoe_checkpoint *ckpt = open_file(file);
    zoe_config config = open_config(config_file);
    zoe_wan_vae_config a, b;
    assert_int_equal(zoe_wan_vae_config_from_checkpoint(context, ckpt, &a), ZOE_OK);
    assert_int_equal(zoe_wan_vae_config_read(&config, &b), ZOE_OK);
    assert_int_equal(a.base, b.base);
    assert_int_equal(a.decoder_base, b.decoder_base);
    assert_int_equal(a.channels, b.channels);
    assert_memory_equal(a.multiples, b.multiples, sizeof a.multiples);
    assert_int_equal(a.resnets, b.resnets);
    assert_memory_equal(a.temporal, b.temporal, sizeof a.temporal);
    assert_int_equal(a.residual, b.residual);
    assert_int_equal(a.patch, b.patch);
    for (int64_t i = 0; i < a.channels; i++) {
        assert_true(fabs(a.mean[i] - b.mean[i]) < 1e-12);
        assert_true(fabs(a.std[i] - b.std[i]) < 1e-12);
    }
    zoe_wan_vae_config_free(context, &a);
    zoe_wan_vae_config_free(context, &b);
    zoe_config_free(&config);
    zoe_checkpoint_close(ckpt);
}

static void autoencoder_sizes(void **state) {
    (void)state;
    check_autoencoder("layouts/wan_t2v_euler/Wan2.1_VAE.pth", "cases/wan_t2v_euler/model/vae/config.json");
    check_autoencoder("layouts/wan_ti2v/Wan2.2_VAE.pth", "cases/wan_ti2v/model/vae/config.json");
}

static void text_encoder_sizes(void **state) {
    (void)state;
    zoe_checkpoint *ckpt = open_file("layouts/wan_t2v_euler/models_t5_umt5-xxl-enc-bf16.pth");
    zoe_config config = open_config("cases/wan_t2v_euler/model/text_encoder/config.json");
    zoe_t5_config a, b;
    assert_int_equal(zoe_t5_config_from_checkpoint(context, ckpt, zoe_wan_text_aliases, &a), ZOE_OK);
    assert_int_equal(zoe_t5_config_read(&config, &b), ZOE_OK);
    assert_int_equal(a.width, b.width);
    assert_int_equal(a.head_dim, b.head_dim);
    assert_int_equal(a.heads, b.heads);
    assert_int_equal(a.ffn, b.ffn);
    assert_int_equal(a.layers, b.layers);
    assert_int_equal(a.vocabulary, b.vocabulary);
    assert_int_equal(a.buckets, b.buckets);
    assert_int_equal(a.max_distance, b.max_distance);
    assert_true(fabs(a.eps - b.eps) < DBL_EPSILON);
    assert_int_equal(a.table_in_every_block, b.table_in_every_block);
    zoe_config_free(&config);
    zoe_checkpoint_close(ckpt);
}

/* Files of another kind are refused with what was expected. */
static void other_files_are_refused(void **state) {
    (void)state;
    zoe_checkpoint *text = open_file("layouts/wan_ti2v/models_t5_umt5-xxl-enc-bf16.pth");
    zoe_checkpoint *vae = open_file("layouts/wan_ti2v/Wan2.2_VAE.pth");
    zoe_wan_vae_config vae_config;
    zoe_t5_config text_config;
    assert_int_equal(zoe_wan_vae_config_from_checkpoint(context, text, &vae_config), ZOE_ERR_FORMAT);
    assert_non_null(strstr(zoe_context_error(context), "models_t5_umt5-xxl-enc-bf16.pth"));
    assert_non_null(strstr(zoe_context_error(context), "encoder.conv1.weight"));
    assert_int_equal(zoe_t5_config_from_checkpoint(context, vae, zoe_wan_text_aliases, &text_config), ZOE_ERR_FORMAT);
    assert_non_null(strstr(zoe_context_error(context), "Wan2.2_VAE.pth"));
    zoe_checkpoint_close(text);
    zoe_checkpoint_close(vae);
}

/* Sizes of zero are nobody's, and must not be divided by. */
static void sizes_of_zero_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int rank;
        int64_t shape[5];
    } tensors[] = {
        {"token_embedding.weight", 2, {4, 8}},        {"blocks.0.attn.q.weight", 2, {8, 8}},
        {"blocks.0.ffn.fc1.weight", 2, {8, 8}},       {"blocks.0.pos_embedding.embedding.weight", 2, {32, 0}},
        {"encoder.conv1.weight", 5, {0, 3, 3, 3, 3}}, {"decoder.head.0.gamma", 1, {8}},
        {"conv2.weight", 5, {16, 16, 1, 1, 1}},
    };
    static const float zeros[256];
    char path[64];
    zoe_safetensors_writer *writer;
    zoe_checkpoint *ckpt;
    zoe_wan_vae_config vae_config;
    zoe_t5_config text_config;
    snprintf(path, sizeof path, "/tmp/zoe-layout-%d.safetensors", (int)getpid());
    assert_int_equal(zoe_safetensors_create(context, path, &writer), ZOE_OK);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        assert_int_equal(zoe_safetensors_add(writer, tensors[i].name, ZOE_F32, tensors[i].rank, tensors[i].shape, zeros),
                         ZOE_OK);
    assert_int_equal(zoe_safetensors_finish(writer), ZOE_OK);
    assert_int_equal(zoe_checkpoint_open(context, path, &ckpt), ZOE_OK);
    unlink(path);
    assert_int_equal(zoe_t5_config_from_checkpoint(context, ckpt, zoe_wan_text_aliases, &text_config), ZOE_ERR_FORMAT);
    assert_int_equal(zoe_wan_vae_config_from_checkpoint(context, ckpt, &vae_config), ZOE_ERR_FORMAT);
    zoe_checkpoint_close(ckpt);
}

/* ---- CogVideoX ---- */

/* What the configuration of a published CogVideoX transformer says, its tensors tell too. */
static void published_cogvideox(const char *network, bool stored_table) {
    static const char *const dit = "model.diffusion_model.";
    char path[512], file[64], name[160];
    snprintf(path, sizeof path, "manifests/%s/config.json", network);
    zoe_config config = open_config(path);
    zoe_cogvideox_config a, b;
    zoe_safetensors_writer *writer;
    zoe_checkpoint *ckpt;
    assert_int_equal(zoe_cogvideox_config_read(&config, &a), ZOE_OK);
    int64_t width = a.heads * a.head_dim, cells = a.patch * a.patch * (a.patch_time ? a.patch_time : 1);
    float *zeros = calloc((size_t)(width * 4096 + width * a.in_channels * cells), sizeof *zeros);
    assert_non_null(zeros);
    snprintf(file, sizeof file, "/tmp/zoe-layout-%d.safetensors", (int)getpid());
    assert_int_equal(zoe_safetensors_create(context, file, &writer), ZOE_OK);
#define ADD(rank, tensor, ...)                                                                                             \
    (snprintf(name, sizeof name, "%s%s", dit, tensor),                                                                     \
     assert_int_equal(zoe_safetensors_add(writer, name, ZOE_F32, rank, (const int64_t[]){__VA_ARGS__}, zeros), ZOE_OK))
    if (a.patch_time)
        ADD(2, "mixins.patch_embed.proj.weight", width, a.in_channels * cells);
    else
        ADD(4, "mixins.patch_embed.proj.weight", width, a.in_channels, a.patch, a.patch);
    ADD(2, "mixins.patch_embed.text_proj.weight", width, a.text_dim);
    ADD(2, "mixins.final_layer.linear.weight", a.out_channels * cells, width);
    ADD(2, "time_embed.0.weight", a.time_dim, width);
    if (a.ofs_dim) ADD(2, "ofs_embed.0.weight", a.ofs_dim, a.ofs_dim);
    if (a.rotary) ADD(1, "mixins.pos_embed.freqs_cos", 1);
    if (stored_table) ADD(1, "mixins.pos_embed.pos_embedding", 1);
    for (int i = 0; i < a.layers; i++) {
        char layer[80];
        snprintf(layer, sizeof layer, "mixins.adaln_layer.query_layernorm_list.%d.weight", i);
        ADD(1, layer, a.head_dim);
    }
#undef ADD
    assert_int_equal(zoe_safetensors_finish(writer), ZOE_OK);
    assert_int_equal(zoe_checkpoint_open(context, file, &ckpt), ZOE_OK);
    unlink(file);
    assert_int_equal(zoe_cogvideox_config_from_checkpoint(context, ckpt, &b), ZOE_OK);
    if (a.patch_time) b.text_rows = a.text_rows; /* 224 for the authors, 226 in the other layout */
    assert_memory_equal(&a, &b, sizeof a);
    zoe_checkpoint_close(ckpt);
    zoe_config_free(&config);
    free(zeros);
}

static void cogvideox_sizes(void **state) {
    (void)state;
    published_cogvideox("cogvideox-2b", true);
    published_cogvideox("cogvideox-5b", false);
    published_cogvideox("cogvideox-5b-i2v", true);
    published_cogvideox("cogvideox1.5-5b", false);
    published_cogvideox("cogvideox1.5-5b-i2v", false);
}

static void cogvideox_autoencoder(void **state) {
    (void)state;
    zoe_checkpoint *ckpt = open_file("layouts/cogvideox_x_sat_2b/vae/3d-vae.pt");
    zoe_config config = open_config("cases/cogvideox_x_sat_2b/model/vae/config.json");
    zoe_cogvideox_vae_config a, b;
    assert_int_equal(zoe_cogvideox_vae_config_read(&config, &a), ZOE_OK);
    assert_int_equal(zoe_cogvideox_vae_config_from_checkpoint(context, ckpt, &b), ZOE_OK);
    assert_memory_equal(a.widths, b.widths, sizeof a.widths);
    assert_true(a.channels == b.channels && a.resnets == b.resnets && a.groups == b.groups && a.eps == b.eps);
    zoe_config_free(&config);
    zoe_checkpoint_close(ckpt);
}

/* Opening a copy of a layout of which something is missing or changed. */
static void cogvideox_refuses(const char *left_out, const char *added, const char *part) {
    static const char *const parts[] = {"vae", "transformer", "t5-v1_1-xxl"};
    char folder[64], from[600], to[128];
    zoe_model *model;
    test_folder_create(folder);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(parts[i], left_out) == 0) continue;
        snprintf(from, sizeof from, "%s/layouts/cogvideox_x_sat_5b/%s", TEST_DATA, parts[i]);
        snprintf(to, sizeof to, "%s/%s", folder, parts[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    if (added) {
        snprintf(from, sizeof from, "%s/cases/cogvideox_x_sat_5b/model/transformer", TEST_DATA);
        snprintf(to, sizeof to, "%s/%s", folder, added);
        assert_int_equal(symlink(from, to), 0);
    }
    assert_true(zoe_model_open(context, folder, NULL, &model) < 0);
    if (!strstr(zoe_context_error(context), part)) fail_msg("\"%s\" lacks \"%s\"", zoe_context_error(context), part);
    test_folder_remove(folder);
}

static void cogvideox_parts(void **state) {
    (void)state;
    cogvideox_refuses("transformer", NULL, "no folder transformer");
    cogvideox_refuses("t5-v1_1-xxl", NULL, "--text-encoder DIR");
    cogvideox_refuses("", "transformer_t2v", "two models");
    cogvideox_refuses("transformer", "transformer", "a file named latest");
    cogvideox_refuses("vae", NULL, "vae/3d-vae.pt");
}

#define LAYOUT(name)                                                                                                       \
    { "layouts agree: " name, layouts_agree, NULL, NULL, (void *)(uintptr_t)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        LAYOUT("wan_t2v_euler"),
        LAYOUT("wan_t2v_experts"),
        LAYOUT("wan_flf2v_tall"),
        LAYOUT("wan_ti2v"),
        LAYOUT("cogvideox_x_sat_2b"),
        LAYOUT("cogvideox_x_sat_5b"),
        LAYOUT("cogvideox_x_sat_15"),
        LAYOUT("ltx_x_first/model.safetensors"),
        LAYOUT("ltx_x_second/model.safetensors"),
        LAYOUT("ltx_x_end/model.safetensors"),
        cmocka_unit_test_setup_teardown(autoencoder_sizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cogvideox_sizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cogvideox_autoencoder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cogvideox_parts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(text_encoder_sizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_files_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sizes_of_zero_are_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
