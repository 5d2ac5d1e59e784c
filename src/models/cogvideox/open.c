/* Opening a CogVideoX folder: parts, configurations, and what follows from them. */
#include <stdio.h>
#include <string.h>

#include "models/cogvideox/cogvideox_model.h"

static int open_denoiser(cogvideox_model *m, const zoe_folder *folder, zoe_weight_form form) {
    zoe_config config = {0};
    zoe_cogvideox_config c;
    int status = zoe_part_open(folder, "transformer", &config, &m->denoiser_ckpt);
    if (status == ZOE_OK) status = zoe_cogvideox_config_read(&config, &c);
    if (status == ZOE_OK) status = zoe_cogvideox_denoiser_create(m->be, &c, m->denoiser_ckpt, form, &m->denoiser);
    zoe_config_free(&config);
    return status;
}

static int open_vae(cogvideox_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    zoe_cogvideox_vae_config c;
    int status = zoe_part_open(folder, "vae", &config, &m->vae_ckpt);
    if (status == ZOE_OK) status = zoe_cogvideox_vae_config_read(&config, &c);
    if (status == ZOE_OK) status = zoe_cogvideox_vae_create(m->be, &c, m->vae_ckpt, &m->vae);
    zoe_config_free(&config);
    return status;
}

static int read_schedule(cogvideox_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    int status = zoe_part_config(folder, "scheduler/scheduler_config.json", &config);
    if (status == ZOE_OK) status = zoe_schedule_config_read(&config, &m->schedule);
    if (status == ZOE_OK && m->schedule.solver != ZOE_SOLVER_DDIM && m->schedule.solver != ZOE_SOLVER_DPM)
        status = zoe_fail(folder->ctx, ZOE_ERR_UNSUPPORTED,
                          "%s: expected CogVideoXDDIMScheduler or CogVideoXDPMScheduler for this model", config.path);
    zoe_config_free(&config);
    return status;
}

/* The parts must belong together, and to the pipeline that the folder names. */
static int check_parts(cogvideox_model *m) {
    const zoe_cogvideox_config *c = zoe_cogvideox_denoiser_config(m->denoiser);
    int64_t width = zoe_t5_configuration(m->text)->width;
    int64_t channels = zoe_cogvideox_vae_configuration(m->vae)->channels, wanted = m->joins_image ? 2 * channels : channels;
    if (width != c->text_dim)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the text encoder's width is %lld, the denoiser expects %lld",
                        m->path, (long long)width, (long long)c->text_dim);
    if (channels != c->out_channels)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the VAE has %lld latent channels, the denoiser makes %lld",
                        m->path, (long long)channels, (long long)c->out_channels);
    if (c->in_channels != wanted)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the denoiser takes %lld channels, an %s pipeline needs %lld",
                        m->path, (long long)c->in_channels, m->joins_image ? "image-to-video" : "text-to-video",
                        (long long)wanted);
    return ZOE_OK;
}

/* What the model was published for. */
static void set_defaults(cogvideox_model *m) {
    const zoe_cogvideox_config *c = zoe_cogvideox_denoiser_config(m->denoiser);
    bool second = c->patch_time > 0;
    zoe_request *d = &m->defaults;
    d->width = (int32_t)c->sample_size[1] * ZOE_COGVIDEOX_VAE_SPACE;
    d->height = (int32_t)c->sample_size[0] * ZOE_COGVIDEOX_VAE_SPACE;
    /* 1.5 gives its largest size in its configuration, which is far beyond what it was trained on. */
    if (second && d->width > 1360) d->width = 1360, d->height = 768;
    d->frames = (int32_t)c->sample_frames, d->fps = second ? 16 : 8;
    d->steps = 50, d->guidance = 6, d->guidance_2 = -1;
    snprintf(m->variant, sizeof m->variant, "CogVideoX %s %s, %lld layers of %lld", second ? "1.5" : "1.0",
             m->joins_image ? "I2V" : "T2V", (long long)c->layers, (long long)(c->heads * c->head_dim));
}

static int open_parts(cogvideox_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    const char *class = "";
    ZOE_TRY(zoe_config_text(&folder->index, "_class_name", &class));
    m->joins_image = strcmp(class, "CogVideoXImageToVideoPipeline") == 0;
    ZOE_TRY(read_schedule(m, folder));
    ZOE_TRY(zoe_part_text(folder, m->be, NULL, linear->text, &m->tokenizer, &m->text_ckpt, &m->text));
    ZOE_TRY(open_denoiser(m, folder, linear->denoiser));
    return open_vae(m, folder);
}

static int open_all(cogvideox_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    m->path = zoe_strdup(folder->ctx, folder->path);
    if (!m->path) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    ZOE_TRY(zoe_cogvideox_is_original(folder) ? zoe_cogvideox_open_original(m, folder, linear)
                                              : open_parts(m, folder, linear));
    ZOE_TRY(check_parts(m));
    set_defaults(m);
    return ZOE_OK;
}

int zoe_cogvideox_open(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model) {
    cogvideox_model *m;
    *model = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, m, 1));
    m->be = be;
    int status = open_all(m, folder, linear);
    if (status < 0)
        zoe_cogvideox_close(m);
    else
        *model = m;
    return status;
}

void zoe_cogvideox_close(void *model) {
    cogvideox_model *m = model;
    zoe_cogvideox_vae_free(m->vae);
    zoe_cogvideox_denoiser_free(m->denoiser);
    zoe_t5_free(m->text);
    zoe_checkpoint_close(m->vae_ckpt);
    zoe_checkpoint_close(m->denoiser_ckpt);
    zoe_checkpoint_close(m->text_ckpt);
    zoe_tokenizer_close(m->tokenizer);
    zoe_free(m->be->ctx, m->path);
    zoe_free(m->be->ctx, m);
}
