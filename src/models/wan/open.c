/* Opening a Wan folder: parts, configurations, and what follows from them. */
#include <stdio.h>
#include <string.h>

#include "models/wan/names.h"
#include "models/wan/wan_model.h"

static int open_text(wan_model *m, const zoe_folder *folder, zoe_dtype dtype) {
    zoe_context *ctx = folder->ctx;
    zoe_config config = {0};
    zoe_t5_config t5;
    char *path = zoe_format(ctx, "%s/tokenizer", folder->path);
    int status = path ? zoe_tokenizer_open(ctx, path, &m->tokenizer) : zoe_out_of_memory(ctx, strlen(folder->path), "path");
    zoe_free(ctx, path);
    if (status == ZOE_OK) status = zoe_part_open(folder, "text_encoder", &config, &m->text_ckpt);
    if (status == ZOE_OK) status = zoe_t5_config_read(&config, &t5);
    if (status == ZOE_OK) status = zoe_t5_create(m->be, &t5, m->text_ckpt, NULL, dtype, &m->text);
    zoe_config_free(&config);
    return status;
}

static int open_denoiser(wan_model *m, const zoe_folder *folder, zoe_dtype dtype) {
    zoe_config config = {0};
    zoe_wan_config wan;
    int status = zoe_part_open(folder, "transformer", &config, &m->denoiser_ckpt);
    if (status == ZOE_OK) status = zoe_wan_config_read(&config, &wan);
    if (status == ZOE_OK) status = zoe_wan_denoiser_create(m->be, &wan, m->denoiser_ckpt, dtype, &m->denoiser);
    zoe_config_free(&config);
    return status;
}

static int open_vae(wan_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    zoe_wan_vae_config vae;
    int status = zoe_part_open(folder, "vae", &config, &m->vae_ckpt);
    if (status == ZOE_OK) status = zoe_wan_vae_config_read(&config, &vae);
    if (status == ZOE_OK) status = zoe_wan_vae_create(m->be, &vae, m->vae_ckpt, &m->vae);
    zoe_config_free(&config);
    return status;
}

static int read_schedule(wan_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    char *path = zoe_format(folder->ctx, "%s/scheduler/scheduler_config.json", folder->path);
    int status = path ? zoe_config_load(folder->ctx, path, &config) : zoe_out_of_memory(folder->ctx, 64, "path");
    zoe_free(folder->ctx, path);
    if (status == ZOE_OK) status = zoe_schedule_config_read(&config, &m->schedule);
    zoe_config_free(&config);
    return status;
}

/* The parts must belong together. */
static int check_parts(const wan_model *m) {
    const zoe_wan_config *denoiser = zoe_wan_denoiser_config(m->denoiser);
    const zoe_t5_config *text = zoe_t5_configuration(m->text);
    const zoe_wan_vae_config *vae = zoe_wan_vae_configuration(m->vae);
    if (text->width != denoiser->text_dim)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the text encoder's width is %lld, the denoiser expects %lld",
                        m->path, (long long)text->width, (long long)denoiser->text_dim);
    if (vae->channels != denoiser->out_channels)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the VAE has %lld latent channels, the denoiser makes %lld",
                        m->path, (long long)vae->channels, (long long)denoiser->out_channels);
    return ZOE_OK;
}

/* Wan-AI's recommendations by variant, then what the folder itself says. */
static int set_defaults(wan_model *m, const zoe_folder *folder) {
    const zoe_wan_config *c = zoe_wan_denoiser_config(m->denoiser);
    const json_t *own = folder->index.root ? json_object_get(folder->index.root, "zoe_defaults") : NULL;
    zoe_request *d = &m->defaults;
    d->width = 832, d->height = 480, d->frames = 81, d->fps = 16, d->steps = 50, d->guidance = 5, d->guidance_2 = -1;
    if (m->expand_timesteps) d->width = 1280, d->height = 704, d->frames = 121, d->fps = 24;
    snprintf(m->variant, sizeof m->variant, "Wan %s, %lld layers of %lld", m->expand_timesteps ? "2.2 TI2V" : "2.1 T2V",
             (long long)c->layers, (long long)(c->heads * c->head_dim));
    if (!json_is_object(own)) return ZOE_OK;
    zoe_config config = {.ctx = folder->ctx, .root = (json_t *)(uintptr_t)own, .path = folder->index.path};
    int64_t width = d->width, height = d->height, frames = d->frames, steps = d->steps;
    ZOE_TRY(zoe_config_int(&config, "width", 16, 16384, &width));
    ZOE_TRY(zoe_config_int(&config, "height", 16, 16384, &height));
    ZOE_TRY(zoe_config_int(&config, "num_frames", 1, 100000, &frames));
    ZOE_TRY(zoe_config_int(&config, "num_inference_steps", 1, 1000, &steps));
    ZOE_TRY(zoe_config_real(&config, "fps", &d->fps));
    ZOE_TRY(zoe_config_real(&config, "guidance_scale", &d->guidance));
    d->width = (int32_t)width, d->height = (int32_t)height, d->frames = (int32_t)frames, d->steps = (int32_t)steps;
    return ZOE_OK;
}

static int open_parts(wan_model *m, const zoe_folder *folder, zoe_dtype dtype) {
    m->path = zoe_strdup(folder->ctx, folder->path);
    if (!m->path) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    if (folder->index.root) ZOE_TRY(zoe_config_bool(&folder->index, "expand_timesteps", &m->expand_timesteps));
    ZOE_TRY(read_schedule(m, folder));
    ZOE_TRY(open_text(m, folder, dtype));
    ZOE_TRY(open_denoiser(m, folder, dtype));
    ZOE_TRY(open_vae(m, folder));
    ZOE_TRY(check_parts(m));
    return set_defaults(m, folder);
}

int zoe_wan_open(zoe_backend *be, const zoe_folder *folder, zoe_dtype weight_dtype, void **model) {
    wan_model *m;
    *model = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, m, 1));
    m->be = be;
    int status = open_parts(m, folder, weight_dtype);
    if (status < 0)
        zoe_wan_close(m);
    else
        *model = m;
    return status;
}

void zoe_wan_close(void *model) {
    wan_model *m = model;
    zoe_wan_vae_free(m->vae);
    zoe_wan_denoiser_free(m->denoiser);
    zoe_t5_free(m->text);
    zoe_checkpoint_close(m->vae_ckpt);
    zoe_checkpoint_close(m->denoiser_ckpt);
    zoe_checkpoint_close(m->text_ckpt);
    zoe_tokenizer_close(m->tokenizer);
    zoe_free(m->be->ctx, m->path);
    zoe_free(m->be->ctx, m);
}
