/* Opening a LTX-Video folder: parts, configurations, and what follows from them. */
#include <stdio.h>
#include <string.h>

#include "models/ltx/ltx_model.h"

static int open_denoiser(ltx_model *m, const zoe_folder *folder, zoe_weight_form form) {
    zoe_config config = {0};
    zoe_ltx_config c;
    int status = zoe_part_open(folder, "transformer", &config, &m->denoiser_ckpt);
    if (status == ZOE_OK) status = zoe_ltx_config_read(&config, &c);
    if (status == ZOE_OK) status = zoe_ltx_denoiser_create(m->be, &c, m->denoiser_ckpt, form, &m->denoiser);
    zoe_config_free(&config);
    return status;
}

static int open_vae(ltx_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    zoe_ltx_vae_config c;
    int status = zoe_part_open(folder, "vae", &config, &m->vae_ckpt);
    if (status == ZOE_OK) status = zoe_ltx_vae_config_read(&config, &c);
    if (status == ZOE_OK) status = zoe_ltx_vae_create(m->be, &c, m->vae_ckpt, &m->vae);
    zoe_config_free(&config);
    return status;
}

static int read_schedule(ltx_model *m, const zoe_folder *folder) {
    zoe_config config = {0};
    int status = zoe_part_config(folder, "scheduler/scheduler_config.json", &config);
    if (status == ZOE_OK) status = zoe_schedule_config_read(&config, &m->schedule);
    if (status == ZOE_OK && m->schedule.solver != ZOE_SOLVER_EULER)
        status = zoe_fail(folder->ctx, ZOE_ERR_UNSUPPORTED, "%s: expected FlowMatchEulerDiscreteScheduler for this model",
                          config.path);
    m->schedule.points = m->keyframes ? ZOE_POINTS_LINEAR_QUADRATIC : ZOE_POINTS_EVEN;
    zoe_config_free(&config);
    return status;
}

/* The parts must belong together. */
static int check_parts(const ltx_model *m) {
    const zoe_ltx_config *c = zoe_ltx_denoiser_config(m->denoiser);
    int64_t width = zoe_t5_configuration(m->text)->width, channels = zoe_ltx_vae_configuration(m->vae)->channels;
    if (width != c->text_dim)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the text encoder's width is %lld, the denoiser expects %lld",
                        m->path, (long long)width, (long long)c->text_dim);
    if (channels != c->out_channels || channels != c->in_channels)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT,
                        "%s: the VAE has %lld latent channels, the denoiser %lld in and %lld out", m->path,
                        (long long)channels, (long long)c->in_channels, (long long)c->out_channels);
    return ZOE_OK;
}

/* The last part of the model's path has `word` in it. */
static bool named(const ltx_model *m, const char *word) {
    size_t length = strlen(m->path);
    while (length > 1 && m->path[length - 1] == '/') length--;
    size_t start = length;
    while (start && m->path[start - 1] != '/') start--;
    return memmem(m->path + start, length - start, word, strlen(word));
}

/* Of distilled models only the published name tells in the diffusers layout, and of 0.9.6 how it steps. */
static void set_defaults(ltx_model *m) {
    const zoe_ltx_config *c = zoe_ltx_denoiser_config(m->denoiser);
    const zoe_ltx_vae_config *vae = zoe_ltx_vae_configuration(m->vae);
    m->distilled = m->distilled || named(m, "distilled");
    if (m->distilled && named(m, "0.9.6")) m->schedule.stochastic = true;
    if (m->distilled && named(m, "0.9.8") && (named(m, "13b") || named(m, "13B"))) m->tone_map = 0.6;
    m->defaults =
        (zoe_request){.width = 704, .height = 512, .frames = 161, .fps = 25, .steps = 50, .guidance = 3, .guidance_2 = -1};
    if (m->distilled) m->defaults.steps = 8, m->defaults.guidance = 1;
    snprintf(m->variant, sizeof m->variant, "LTX-Video %s%s, %lld layers of %lld",
             vae->shuffles   ? "0.9.5 or later"
             : vae->timestep ? "0.9.1"
                             : "0.9.0",
             m->distilled ? ", distilled" : "", (long long)c->layers, (long long)(c->heads * c->head_dim));
}

static int open_parts(ltx_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    const char *class = "";
    ZOE_TRY(zoe_config_text(&folder->index, "_class_name", &class));
    m->keyframes = m->causal = strcmp(class, "LTXConditionPipeline") == 0;
    ZOE_TRY(read_schedule(m, folder));
    ZOE_TRY(zoe_part_text(folder, m->be, NULL, linear->text, &m->tokenizer, &m->text_ckpt, &m->text));
    ZOE_TRY(open_denoiser(m, folder, linear->denoiser));
    return open_vae(m, folder);
}

static int open_all(ltx_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    const char *path = folder->file ? folder->file : folder->path;
    m->path = zoe_strdup(folder->ctx, path);
    if (!m->path) return zoe_out_of_memory(folder->ctx, strlen(path), "path");
    ZOE_TRY(folder->file ? zoe_ltx_open_file(m, folder, linear) : open_parts(m, folder, linear));
    ZOE_TRY(check_parts(m));
    set_defaults(m);
    return ZOE_OK;
}

int zoe_ltx_open(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model) {
    ltx_model *m;
    *model = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, m, 1));
    m->be = be;
    int status = open_all(m, folder, linear);
    if (status < 0)
        zoe_ltx_close(m);
    else
        *model = m;
    return status;
}

void zoe_ltx_close(void *model) {
    ltx_model *m = model;
    zoe_ltx_vae_free(m->vae);
    zoe_ltx_denoiser_free(m->denoiser);
    zoe_t5_free(m->text);
    zoe_checkpoint_close(m->vae_ckpt);
    zoe_checkpoint_close(m->denoiser_ckpt);
    zoe_checkpoint_close(m->text_ckpt);
    zoe_tokenizer_close(m->tokenizer);
    zoe_free(m->be->ctx, m->path);
    zoe_free(m->be->ctx, m);
}
