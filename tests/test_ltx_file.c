/* LTX-Video as Lightricks' own files: sizes from the tensors alone, what is missing, and what the names tell. */
#include "golden.h"

#include <fcntl.h>

#include "manifest.h"

#include "models/ltx/ltx_model.h"
#include "models/ltx/names.h"
#include "pipeline/model.h"
#include "weights/slots.h"

/* ---- published sizes, from files that hold nothing but a header ---- */

/* Adds the tensors of a published network to a header, under their original names; *at counts the bytes of data. */
static void add_tensors(json_t *header, const char *network, const zoe_alias *names, int64_t *at) {
    list rows = read_manifest(network);
    for (size_t i = 0; i < rows.count; i++) {
        char other[256];
        zoe_part part;
        int64_t count = 2;
        json_t *shape = json_array();
        assert_non_null(zoe_alias_next(names, rows.rows[i].name, other, sizeof other, &part));
        for (const char *axis = rows.rows[i].shape; *axis; axis += *axis == 'x') {
            char *end;
            long long size = strtoll(axis, &end, 10);
            json_array_append_new(shape, json_integer(size));
            count *= size;
            axis = end;
        }
        json_object_set_new(header, other,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", "BF16", "shape", shape, "data_offsets",
                                      (json_int_t)*at, (json_int_t)(*at + count)));
        *at += count;
    }
    free(rows.rows);
}

/* The file of both networks, without the bytes of the weights: they are a hole in it. */
static zoe_checkpoint *hollow_file(zoe_context *ctx, const char *denoiser, const char *vae, const zoe_alias *names) {
    char path[64];
    int64_t at = 0;
    zoe_checkpoint *ckpt;
    json_t *header = json_object();
    add_tensors(header, denoiser, zoe_ltx_denoiser_aliases, &at);
    add_tensors(header, vae, names, &at);
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t length = strlen(text);
    snprintf(path, sizeof path, "/tmp/zoe-hollow-%d.safetensors", (int)getpid());
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(&length, sizeof length, 1, file), 1);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(truncate(path, (off_t)(8 + length) + at), 0);
    int status = zoe_checkpoint_open(ctx, path, &ckpt);
    unlink(path);
    assert_ok(ctx, status);
    free(text);
    json_decref(header);
    return ckpt;
}

static void same_sizes(const char *denoiser, const char *vae, const zoe_alias *names) {
    bench a, b;
    zoe_ltx_config expected, found;
    zoe_ltx_vae_config expected_vae, found_vae;
    set_up(&a, denoiser);
    set_up(&b, vae);
    zoe_checkpoint *ckpt = hollow_file(a.ctx, denoiser, vae, names);
    memset(&expected_vae, 0, sizeof expected_vae);
    assert_ok(a.ctx, zoe_ltx_config_read(&a.config, &expected));
    assert_ok(a.ctx, zoe_ltx_config_from_checkpoint(a.ctx, ckpt, 32, &found));
    assert_memory_equal(&found, &expected, sizeof found);
    assert_ok(b.ctx, zoe_ltx_vae_config_read(&b.config, &expected_vae));
    assert_ok(a.ctx, zoe_ltx_vae_config_from_checkpoint(a.ctx, ckpt, &found_vae));
    assert_int_equal(found_vae.channels, expected_vae.channels);
    assert_int_equal(found_vae.patch, expected_vae.patch);
    assert_int_equal(found_vae.levels, expected_vae.levels);
    assert_int_equal(found_vae.up_levels, expected_vae.up_levels);
    assert_memory_equal(found_vae.widths, expected_vae.widths, sizeof found_vae.widths);
    assert_memory_equal(found_vae.out_widths, expected_vae.out_widths, sizeof found_vae.out_widths);
    assert_memory_equal(found_vae.layers, expected_vae.layers, sizeof found_vae.layers);
    assert_memory_equal(found_vae.stride, expected_vae.stride, sizeof found_vae.stride);
    assert_memory_equal(found_vae.up_widths, expected_vae.up_widths, sizeof found_vae.up_widths);
    assert_memory_equal(found_vae.up_layers, expected_vae.up_layers, sizeof found_vae.up_layers);
    assert_memory_equal(found_vae.up_scales, expected_vae.up_scales, sizeof found_vae.up_scales);
    assert_memory_equal(found_vae.up_residual, expected_vae.up_residual, sizeof found_vae.up_residual);
    assert_memory_equal(found_vae.up_factor, expected_vae.up_factor, sizeof found_vae.up_factor);
    assert_memory_equal(found_vae.up_noise, expected_vae.up_noise, sizeof found_vae.up_noise);
    assert_true(found_vae.timestep == expected_vae.timestep && found_vae.shuffles == expected_vae.shuffles);
    zoe_checkpoint_close(ckpt);
    tear_down(&b);
    tear_down(&a);
}

static void published_sizes(void **state) {
    (void)state;
    same_sizes("ltx-0.9.0-2b", "ltx-0.9.0-vae", zoe_ltx_vae_090_aliases);
    same_sizes("ltx-0.9.0-2b", "ltx-0.9.1-vae", zoe_ltx_vae_091_aliases);
    same_sizes("ltx-0.9.7-13b", "ltx-0.9.7-vae", zoe_ltx_vae_095_aliases);
}

/* ---- files that stand alone, or are something else ---- */

static char folder[64];
static zoe_context *context;

static int set_up_folder(void **state) {
    (void)state;
    test_folder_create(folder);
    return zoe_context_create(NULL, &context);
}

static int tear_down_folder(void **state) {
    (void)state;
    zoe_context_free(context);
    test_folder_remove(folder);
    return 0;
}

/* A link in the folder to a file of tests/data; returns its path. */
static const char *link_to(const char *data, const char *name) {
    static char path[128];
    char from[600];
    snprintf(from, sizeof from, "%s/%s", TEST_DATA, data);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(symlink(from, path), 0);
    return path;
}

static void text_encoder_elsewhere(void **state) {
    (void)state;
    zoe_model_settings settings;
    zoe_model *model;
    const char *path = link_to("layouts/ltx_x_first/model.safetensors", "ltx-video-2b-v0.9.safetensors");
    assert_fails(context, zoe_model_open(context, path, NULL, &model), ZOE_ERR_IO, "--text-encoder DIR");
    zoe_model_settings_init(&settings);
    settings.text_encoder = TEST_DATA "/layouts/ltx_x_first";
    assert_ok(context, zoe_model_open(context, path, &settings, &model));
    zoe_model_close(model);
}

static void other_files(void **state) {
    (void)state;
    zoe_model *model;
    const char *path = link_to("cases/wan21_t2v/model/transformer/diffusion_pytorch_model.safetensors", "a.safetensors");
    assert_fails(context, zoe_model_open(context, path, NULL, &model), ZOE_ERR_UNSUPPORTED, "LTX-Video");
    path = link_to("cases/ltx_t2v/case.json", "case.json");
    assert_fails(context, zoe_model_open(context, path, NULL, &model), ZOE_ERR_FORMAT, ".safetensors file");
}

/* The published upsampler's folder is no model. */
static void upsampler_as_model(void **state) {
    (void)state;
    char path[128];
    zoe_model *model;
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    static const char index[] = "{\"_class_name\": \"LTXLatentUpsamplePipeline\"}";
    test_write(path, index, sizeof index - 1);
    assert_fails(context, zoe_model_open(context, folder, NULL, &model), ZOE_ERR_UNSUPPORTED, "--upsampler");
}

/* Writes some tensors of a published name, with metadata as `config`. */
static const char *write_file(const char *tensor) {
    static char path[128];
    static const float zeros[64];
    zoe_safetensors_writer *writer;
    snprintf(path, sizeof path, "%s/part.safetensors", folder);
    assert_ok(context, zoe_safetensors_create(context, path, &writer));
    assert_ok(context, zoe_safetensors_add(writer, tensor, ZOE_F32, 2, (const int64_t[]){8, 8}, zeros));
    assert_ok(context, zoe_safetensors_finish(writer));
    return path;
}

static void halves(void **state) {
    (void)state;
    zoe_model_settings settings;
    zoe_model *model;
    zoe_model_settings_init(&settings);
    settings.text_encoder = TEST_DATA "/layouts/ltx_x_first";
    const char *path = write_file("vae.per_channel_statistics.std-of-means");
    assert_fails(context, zoe_model_open(context, path, &settings, &model), ZOE_ERR_FORMAT, "expected the denoiser");
    path = write_file("model.diffusion_model.patchify_proj.weight");
    assert_fails(context, zoe_model_open(context, path, &settings, &model), ZOE_ERR_FORMAT, "transformer_blocks");
}

/* Axes that no network has, in tensors without any bytes, are refused before anything is multiplied by them. */
static void absurd_sizes(void **state) {
    static const struct {
        const char *name;
        int64_t shape[2];
    } tensors[] = {{"model.diffusion_model.patchify_proj.weight", {(int64_t)1 << 60, 0}},
                   {"model.diffusion_model.proj_out.weight", {(int64_t)1 << 60, 0}},
                   {"model.diffusion_model.caption_projection.linear_1.weight", {0, (int64_t)1 << 60}},
                   {"model.diffusion_model.transformer_blocks.0.scale_shift_table", {6, 8}},
                   {"vae.decoder.conv_in.conv.weight", {(int64_t)1 << 60, 0}},
                   {"initial_conv.weight", {(int64_t)1 << 60, 0}}};
    static const float zeros[64];
    (void)state;
    char path[128];
    zoe_safetensors_writer *writer;
    zoe_checkpoint *ckpt;
    zoe_ltx_config config;
    zoe_ltx_vae_config vae;
    zoe_ltx_upsampler_config upsampler;
    snprintf(path, sizeof path, "%s/absurd.safetensors", folder);
    assert_ok(context, zoe_safetensors_create(context, path, &writer));
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        assert_ok(context, zoe_safetensors_add(writer, tensors[i].name, ZOE_F32, 2, tensors[i].shape, zeros));
    assert_ok(context, zoe_safetensors_finish(writer));
    assert_ok(context, zoe_checkpoint_open(context, path, &ckpt));
    assert_int_equal(zoe_ltx_config_from_checkpoint(context, ckpt, 32, &config), ZOE_ERR_FORMAT);
    assert_int_equal(zoe_ltx_vae_config_from_checkpoint(context, ckpt, &vae), ZOE_ERR_FORMAT);
    assert_true(zoe_ltx_upsampler_config_read(context, ckpt, &upsampler) < 0);
    zoe_checkpoint_close(ckpt);
}

/* ---- distilled models ---- */

static void defaults_of(const char *name, int steps, double guidance, bool stochastic) {
    char path[128];
    zoe_model *model;
    zoe_request request;
    snprintf(path, sizeof path, "%s", link_to("cases/ltx_x_end/model", name));
    assert_ok(context, zoe_model_open(context, path, NULL, &model));
    zoe_request_init(model, &request);
    assert_int_equal(request.steps, steps);
    assert_true(request.guidance == guidance);
    assert_true(((ltx_model *)model->impl)->schedule.stochastic == stochastic);
    zoe_model_close(model);
}

static void distilled(void **state) {
    (void)state;
    defaults_of("LTX-Video-0.9.5", 50, 3, false);
    defaults_of("LTX-Video-0.9.7-distilled", 8, 1, false);
    defaults_of("ltxv-2b-0.9.6-distilled-04-25", 8, 1, true);
}

static void out_of_memory(void **state) {
    (void)state;
    golden_starve_model(TEST_DATA "/layouts/ltx_x_second/model.safetensors", NULL, 32, 32, 9, NULL);
}

int main(void) {
#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up_folder, tear_down_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_sizes),
        IN_FOLDER(text_encoder_elsewhere),
        IN_FOLDER(other_files),
        IN_FOLDER(halves),
        IN_FOLDER(upsampler_as_model),
        IN_FOLDER(absurd_sizes),
        IN_FOLDER(distilled),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
