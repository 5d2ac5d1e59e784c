/* The files of a Wan model: in the diffusers layout, a folder for each part; in Wan-AI's own, files of fixed names. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "models/wan/names.h"
#include "models/wan/wan_model.h"

#define TEXT_FILE "models_t5_umt5-xxl-enc-bf16.pth"
#define CLIP_FILE "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
#define VAE_21    "Wan2.1_VAE.pth"
#define VAE_22    "Wan2.2_VAE.pth"

static bool exists(const zoe_folder *folder, const char *name) {
    char path[PATH_MAX]; /* the system knows no longer ones */
    struct stat info;
    int length = snprintf(path, sizeof path, "%s/%s", folder->path, name);
    return length > 0 && (size_t)length < sizeof path && stat(path, &info) == 0;
}

bool zoe_wan_is_original(const zoe_folder *folder) {
    return !folder->index.root && (exists(folder, VAE_21) || exists(folder, VAE_22));
}

static int open_file(const zoe_folder *folder, const char *name, zoe_checkpoint **ckpt) {
    char *path = zoe_format(folder->ctx, "%s/%s", folder->path, name);
    if (!path) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    int status = zoe_checkpoint_open(folder->ctx, path, ckpt);
    zoe_free(folder->ctx, path);
    return status;
}

/* ---- parts; config.root NULL: the tensors tell the sizes ---- */

/* Wan-AI's own layout has no configuration of the text encoder. */
static int make_text(wan_model *m, zoe_weight_form form) {
    zoe_t5_config t5;
    ZOE_TRY(zoe_t5_config_from_checkpoint(m->be->ctx, m->text_ckpt, zoe_wan_text_aliases, &t5));
    return zoe_t5_create(m->be, &t5, m->text_ckpt, zoe_wan_text_aliases, form, &m->text);
}

static int make_vae(wan_model *m, const zoe_config *config) {
    zoe_wan_vae_config vae;
    ZOE_TRY(config->root ? zoe_wan_vae_config_read(config, &vae)
                         : zoe_wan_vae_config_from_checkpoint(m->be->ctx, m->vae_ckpt, &vae));
    return zoe_wan_vae_create(m->be, &vae, m->vae_ckpt, &m->vae);
}

/* Wan-AI's CLIP is a ViT-H: heads of 80 channels. */
static int clip_config_from_checkpoint(wan_model *m, zoe_clip_config *out) {
    const zoe_entry *patch = zoe_checkpoint_find(m->clip_ckpt, "visual.patch_embedding.weight");
    const zoe_entry *rows = zoe_checkpoint_find(m->clip_ckpt, "visual.pos_embedding");
    const zoe_entry *up = zoe_checkpoint_find(m->clip_ckpt, "visual.transformer.0.mlp.0.weight");
    char name[64];
    if (!patch || patch->rank != 4 || !patch->shape[0] || patch->shape[0] % 80 || !patch->shape[2] || !rows ||
        rows->rank < 2 || rows->shape[rows->rank - 2] < 2 || !up || up->rank != 2)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT,
                        "%s: expected the vision tower of a CLIP ViT-H (visual.patch_embedding.weight, "
                        "visual.pos_embedding, visual.transformer.*)",
                        zoe_checkpoint_path(m->clip_ckpt, 0));
    *out = (zoe_clip_config){.width = patch->shape[0],
                             .ffn = up->shape[0],
                             .heads = patch->shape[0] / 80,
                             .patch = patch->shape[2],
                             .eps = 1e-5};
    out->image = out->patch * (int64_t)lround(sqrt((double)(rows->shape[rows->rank - 2] - 1)));
    for (;; out->layers++) {
        snprintf(name, sizeof name, "visual.transformer.%lld.norm1.weight", (long long)out->layers);
        if (!zoe_checkpoint_find(m->clip_ckpt, name)) return ZOE_OK;
    }
}

static int make_clip(wan_model *m, const zoe_config *config) {
    zoe_clip_config clip;
    ZOE_TRY(config->root ? zoe_clip_config_read(config, &clip) : clip_config_from_checkpoint(m, &clip));
    return zoe_clip_create(m->be, &clip, m->clip_ckpt, zoe_wan_clip_aliases, ZOE_FORM_NATIVE, &m->clip);
}

static int make_denoiser(wan_model *m, const zoe_config *config, int expert, zoe_weight_form form) {
    zoe_wan_config wan;
    ZOE_TRY(zoe_wan_config_read(config, &wan));
    zoe_wan_config_complete(&wan, m->denoiser_ckpts[expert]);
    return zoe_wan_denoiser_create(m->be, &wan, m->denoiser_ckpts[expert], form, &m->denoisers[expert]);
}

/* ---- diffusers ---- */

static int open_denoiser(wan_model *m, const zoe_folder *folder, int expert, zoe_weight_form form) {
    zoe_config config = {0};
    int status = zoe_part_open(folder, expert ? "transformer_2" : "transformer", &config, &m->denoiser_ckpts[expert]);
    if (status == ZOE_OK) status = make_denoiser(m, &config, expert, form);
    zoe_config_free(&config);
    return status;
}

static int open_vae(wan_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    int status = zoe_part_open(folder, "vae", &config, &m->vae_ckpt);
    if (status == ZOE_OK) status = make_vae(m, &config);
    zoe_config_free(&config);
    return status;
}

/* Pictures go to CLIP in one way: resized bicubically, the middle cut out, normalised. */
static int check_processor(const zoe_config *config) {
    static const char *const steps[] = {"do_resize", "do_center_crop", "do_rescale", "do_normalize"};
    int64_t resample = 3; /* bicubic, in Pillow's numbers */
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        bool done = true;
        ZOE_TRY(zoe_config_bool(config, steps[i], &done));
        if (!done) return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: %s must be true", config->path, steps[i]);
    }
    ZOE_TRY(zoe_config_int(config, "resample", 0, 5, &resample));
    if (resample == 3) return ZOE_OK;
    return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: resample must be 3 (bicubic), found %lld", config->path,
                    (long long)resample);
}

static int open_clip(wan_model *m, const zoe_folder *folder) {
    zoe_config config = {0}, processor = {0};
    int status = zoe_part_open(folder, "image_encoder", &config, &m->clip_ckpt);
    if (status == ZOE_OK) status = make_clip(m, &config);
    if (status == ZOE_OK) status = zoe_part_config(folder, "image_processor/preprocessor_config.json", &processor);
    if (status == ZOE_OK) status = check_processor(&processor);
    if (status == ZOE_OK && zoe_config_has(&processor, "image_mean"))
        status = zoe_config_reals(&processor, "image_mean", 3, m->clip_mean);
    if (status == ZOE_OK && zoe_config_has(&processor, "image_std"))
        status = zoe_config_reals(&processor, "image_std", 3, m->clip_std);
    zoe_config_free(&config);
    zoe_config_free(&processor);
    return status;
}

static int read_schedule(wan_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    int status = zoe_part_config(folder, "scheduler/scheduler_config.json", &config);
    if (status == ZOE_OK) status = zoe_schedule_config_read(&config, &m->schedule);
    zoe_config_free(&config);
    return status;
}

/* A part is there if the index gives it a class: ["transformers", "CLIPVisionModel"] and not [null, null]. */
static bool has_part(const zoe_folder *folder, const char *name) {
    return json_is_string(json_array_get(json_object_get(folder->index.root, name), 1));
}

static int open_diffusers(wan_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    ZOE_TRY(zoe_config_bool(&folder->index, "expand_timesteps", &m->expand_timesteps));
    ZOE_TRY(read_schedule(m, folder));
    ZOE_TRY(zoe_part_text(folder, m->be, zoe_wan_text_aliases, linear->text, &m->tokenizer, &m->text_ckpt, &m->text));
    ZOE_TRY(open_denoiser(m, folder, 0, linear->denoiser));
    if (has_part(folder, "transformer_2")) ZOE_TRY(open_denoiser(m, folder, 1, linear->denoiser));
    if (m->denoisers[1]) ZOE_TRY(zoe_config_real_in(&folder->index, "boundary_ratio", 0, 1, &m->boundary));
    if (zoe_wan_denoiser_config(m->denoisers[0])->image_dim) ZOE_TRY(open_clip(m, folder));
    return open_vae(m, folder);
}

/* ---- Wan-AI ---- */

static int open_original_denoiser(wan_model *m, const zoe_folder *folder, const char *name, int expert,
                                  zoe_weight_form form) {
    zoe_context *ctx = folder->ctx;
    zoe_config config = {0};
    char *file = zoe_format(ctx, "%s/config.json", name);
    int status = file ? zoe_part_config(folder, file, &config) : zoe_out_of_memory(ctx, 64, "path");
    zoe_free(ctx, file);
    if (status == ZOE_OK) status = open_file(folder, name, &m->denoiser_ckpts[expert]);
    if (status == ZOE_OK) status = make_denoiser(m, &config, expert, form);
    zoe_config_free(&config);
    return status;
}

static int open_original(wan_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    const zoe_config none = {.ctx = folder->ctx};
    bool experts = exists(folder, "high_noise_model") || exists(folder, "low_noise_model");
    m->schedule = (zoe_schedule_config){.train_steps = 1000, .order = 2, .lower_order_final = true};
    m->expand_timesteps = exists(folder, VAE_22);
    ZOE_TRY(zoe_part_tokenizer(folder, "google/umt5-xxl", &m->tokenizer));
    ZOE_TRY(open_file(folder, TEXT_FILE, &m->text_ckpt));
    ZOE_TRY(make_text(m, linear->text));
    ZOE_TRY(open_original_denoiser(m, folder, experts ? "high_noise_model" : ".", 0, linear->denoiser));
    if (experts) ZOE_TRY(open_original_denoiser(m, folder, "low_noise_model", 1, linear->denoiser));
    if (zoe_wan_denoiser_config(m->denoisers[0])->image_dim) {
        ZOE_TRY(open_file(folder, CLIP_FILE, &m->clip_ckpt));
        ZOE_TRY(make_clip(m, &none));
    }
    ZOE_TRY(open_file(folder, m->expand_timesteps ? VAE_22 : VAE_21, &m->vae_ckpt));
    return make_vae(m, &none);
}

int zoe_wan_open_parts(wan_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    if (zoe_wan_is_original(folder)) return open_original(m, folder, linear);
    if (exists(folder, "high_noise_model") || exists(folder, TEXT_FILE))
        zoe_log(folder->ctx, ZOE_LOG_WARNING,
                "%s mixes the diffusers layout (model_index.json) with files of Wan-AI's own layout; "
                "the latter are not used",
                folder->path);
    return open_diffusers(m, folder, linear);
}
