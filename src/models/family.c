#include "models/family.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "models/cogvideox/cogvideox.h"
#include "models/ltx/ltx.h"
#include "models/wan/wan.h"
#include "weights/quantise.h"

const zoe_family *const zoe_families[] = {&zoe_wan_family, &zoe_cogvideox_family, &zoe_ltx_family, NULL};

int zoe_family_find(const zoe_folder *folder, const zoe_family **out) {
    const char *class = NULL;
    for (int i = 0; zoe_families[i]; i++)
        if (zoe_families[i]->recognises(folder)) {
            *out = zoe_families[i];
            return ZOE_OK;
        }
    if (folder->file)
        return zoe_fail(folder->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s is no file that holds a whole model known here: expected one of LTX-Video's "
                        "(model.diffusion_model.* and vae.*); other models open by their folder",
                        folder->file);
    if (folder->index.root) ZOE_TRY(zoe_config_text(&folder->index, "_class_name", &class));
    if (class && strcmp(class, "LTXLatentUpsamplePipeline") == 0)
        return zoe_fail(folder->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s is a latent upsampler, not a model: name it with --upsampler beside a model of LTX-Video",
                        folder->path);
    if (class)
        return zoe_fail(
            folder->ctx, ZOE_ERR_UNSUPPORTED,
            "%s: pipeline %s is not supported; supported are WanPipeline, WanImageToVideoPipeline, CogVideoXPipeline, "
            "CogVideoXImageToVideoPipeline, LTXPipeline, LTXImageToVideoPipeline and LTXConditionPipeline",
            folder->path, class);
    return zoe_fail(
        folder->ctx, ZOE_ERR_FORMAT,
        "%s is no model folder that is known here: expected model_index.json (diffusers layout), config.json with "
        "Wan2.1_VAE.pth or Wan2.2_VAE.pth (Wan-AI's own layout), or vae/3d-vae.pt (CogVideoX' own, SAT)",
        folder->path);
}

int zoe_linear_policy_find(zoe_context *ctx, const char *name, zoe_linear_policy *out) {
    zoe_dtype dtype;
    if (!zoe_form_named(name ? name : "native", &dtype))
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "linear: found \"%.100s\", expected one of native|int8|fp8|int4|nvfp4",
                        name);
    out->denoiser = out->text = (zoe_weight_form){.dtype = dtype};
    return ZOE_OK;
}

/* folder/name, freed by zoe_free(); NULL after the failure was recorded. */
static char *part_path(const zoe_folder *folder, const char *name) {
    char *path = zoe_format(folder->ctx, "%s/%s", folder->path, name);
    if (!path) zoe_out_of_memory(folder->ctx, strlen(folder->path) + strlen(name) + 2, "path");
    return path;
}

int zoe_part_config(const zoe_folder *folder, const char *name, zoe_config *config) {
    char *path = part_path(folder, name);
    int status = path ? zoe_config_load(folder->ctx, path, config) : ZOE_ERR_NOMEM;
    zoe_free(folder->ctx, path);
    return status;
}

int zoe_part_tokenizer(const zoe_folder *folder, const char *name, zoe_tokenizer **tokenizer) {
    char *path = part_path(folder, name);
    int status = path ? zoe_tokenizer_open(folder->ctx, path, tokenizer) : ZOE_ERR_NOMEM;
    zoe_free(folder->ctx, path);
    return status;
}

int zoe_part_open(const zoe_folder *folder, const char *name, zoe_config *config, zoe_checkpoint **ckpt) {
    char file[64], *dir = part_path(folder, name);
    snprintf(file, sizeof file, "%s/config.json", name);
    int status = dir ? zoe_part_config(folder, file, config) : ZOE_ERR_NOMEM;
    if (status == ZOE_OK) status = zoe_checkpoint_open(folder->ctx, dir, ckpt);
    zoe_free(folder->ctx, dir);
    return status;
}

static bool holds(const zoe_folder *folder, const char *name) {
    char path[PATH_MAX]; /* the system knows no longer ones */
    int length = snprintf(path, sizeof path, "%s/%s", folder->path, name);
    return length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0;
}

int zoe_part_text(const zoe_folder *folder, zoe_backend *be, const zoe_alias *aliases, zoe_weight_form form,
                  zoe_tokenizer **tokenizer, zoe_checkpoint **ckpt, zoe_t5 **text) {
    zoe_config config = {0};
    zoe_t5_config t5;
    const zoe_folder home = {.ctx = folder->ctx, .path = folder->text ? folder->text : folder->path};
    bool flat = holds(&home, "spiece.model") && holds(&home, "config.json");
    int status = zoe_part_tokenizer(&home, flat ? "." : "tokenizer", tokenizer);
    if (status == ZOE_OK) status = zoe_part_open(&home, flat ? "." : "text_encoder", &config, ckpt);
    if (status == ZOE_OK) status = zoe_t5_config_read(&config, &t5);
    if (status == ZOE_OK) status = zoe_t5_create(be, &t5, *ckpt, aliases, form, text);
    zoe_config_free(&config);
    return status;
}

int zoe_run_dump(zoe_run *run, const char *name, int rank, const int64_t *shape, const float *data) {
    return run->dump ? zoe_safetensors_add(run->dump, name, ZOE_F32, rank, shape, data) : ZOE_OK;
}
