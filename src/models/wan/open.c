/* Opening a Wan folder: which kind it is, whether its parts belong together, and its defaults. */
#include <string.h>

#include "models/wan/wan_model.h"

enum { T2V, I2V, FLF2V, T2V_A14B, I2V_A14B, TI2V };

static const wan_kind kinds[] = {
    [T2V] = {"Wan 2.1 text-to-video", 832, 480, 81, 16, 50, 5, -1, 5, 0},
    [I2V] = {"Wan 2.1 image-to-video", 832, 480, 81, 16, 40, 5, -1, 3, 0},
    [FLF2V] = {"Wan 2.1 first-and-last-frame-to-video", 1280, 720, 81, 16, 50, 5, -1, 16, 0},
    [T2V_A14B] = {"Wan 2.2 text-to-video, two experts", 1280, 720, 81, 16, 40, 4, 3, 12, 0.875},
    [I2V_A14B] = {"Wan 2.2 image-to-video, two experts", 1280, 720, 81, 16, 40, 3.5, 3.5, 5, 0.9},
    [TI2V] = {"Wan 2.2 text- and image-to-video", 1280, 704, 121, 24, 50, 5, -1, 5, 0},
};

/* Wan-AI's own negative prompt for all its models: a list of defects. */
static const char negative_prompt[] = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最"
                                      "差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
                                      "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合"
                                      "，静止不动的画面，杂乱的背景，三条腿，"
                                      "背景人很多，倒着走";

static int find_kind(wan_model *m) {
    const zoe_wan_config *c = zoe_wan_denoiser_config(m->denoisers[0]);
    m->joins_image = c->in_channels > c->out_channels;
    if (m->expand_timesteps)
        m->kind = &kinds[TI2V];
    else if (m->denoisers[1])
        m->kind = &kinds[m->joins_image ? I2V_A14B : T2V_A14B];
    else if (m->joins_image)
        m->kind = &kinds[c->image_positions ? FLF2V : I2V];
    else
        m->kind = &kinds[T2V];
    if (m->joins_image && c->in_channels != 2 * c->out_channels + 4)
        return zoe_fail(
            m->be->ctx, ZOE_ERR_UNSUPPORTED,
            "%s: the denoiser has %lld input and %lld output channels; expected as many, or for pictures 2 x output + 4",
            m->path, (long long)c->in_channels, (long long)c->out_channels);
    if (!m->schedule.flow_shift) m->schedule.flow_shift = m->kind->flow_shift;
    if (!m->boundary) m->boundary = m->kind->boundary;
    return ZOE_OK;
}

/* The parts must belong together. */
static int check_parts(const wan_model *m) {
    const zoe_wan_vae_config *vae = zoe_wan_vae_configuration(m->vae);
    int64_t text = zoe_t5_configuration(m->text)->width;
    for (int i = 0; i < 2 && m->denoisers[i]; i++) {
        const zoe_wan_config *c = zoe_wan_denoiser_config(m->denoisers[i]);
        if (text != c->text_dim)
            return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the text encoder's width is %lld, the denoiser expects %lld",
                            m->path, (long long)text, (long long)c->text_dim);
        if (vae->channels != c->out_channels)
            return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the VAE has %lld latent channels, the denoiser makes %lld",
                            m->path, (long long)vae->channels, (long long)c->out_channels);
        if (m->clip && zoe_clip_configuration(m->clip)->width != c->image_dim)
            return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the image encoder's width is %lld, the denoiser expects %lld",
                            m->path, (long long)zoe_clip_configuration(m->clip)->width, (long long)c->image_dim);
    }
    if (m->denoisers[1] && memcmp(zoe_wan_denoiser_config(m->denoisers[0]), zoe_wan_denoiser_config(m->denoisers[1]),
                                  sizeof(zoe_wan_config)) != 0)
        return zoe_fail(m->be->ctx, ZOE_ERR_FORMAT, "%s: the two experts differ in their configurations", m->path);
    return ZOE_OK;
}

/* A folder may bring its own defaults in model_index.json, under "zoe_defaults". */
static int read_own_defaults(wan_model *m, const zoe_folder *folder, const json_t *own) {
    zoe_request *d = &m->defaults;
    zoe_config config = {.ctx = folder->ctx, .root = (json_t *)(uintptr_t)own, .path = folder->index.path};
    int64_t width = d->width, height = d->height, frames = d->frames, steps = d->steps;
    const char *negative = "";
    ZOE_TRY(zoe_config_int(&config, "width", 16, 16384, &width));
    ZOE_TRY(zoe_config_int(&config, "height", 16, 16384, &height));
    ZOE_TRY(zoe_config_int(&config, "num_frames", 1, 100000, &frames));
    ZOE_TRY(zoe_config_int(&config, "num_inference_steps", 1, 1000, &steps));
    ZOE_TRY(zoe_config_real(&config, "fps", &d->fps));
    ZOE_TRY(zoe_config_real(&config, "guidance_scale", &d->guidance));
    ZOE_TRY(zoe_config_text(&config, "negative_prompt", &negative));
    d->width = (int32_t)width, d->height = (int32_t)height, d->frames = (int32_t)frames, d->steps = (int32_t)steps;
    m->negative = zoe_strdup(folder->ctx, negative);
    if (!m->negative) return zoe_out_of_memory(folder->ctx, strlen(negative), "negative prompt");
    d->negative = m->negative;
    return ZOE_OK;
}

static int set_defaults(wan_model *m, const zoe_folder *folder) {
    const wan_kind *k = m->kind;
    const json_t *own = folder->index.root ? json_object_get(folder->index.root, "zoe_defaults") : NULL;
    m->defaults = (zoe_request){.width = k->width,
                                .height = k->height,
                                .frames = k->frames,
                                .fps = k->fps,
                                .steps = k->steps,
                                .guidance = k->guidance,
                                .guidance_2 = k->guidance_2,
                                .negative = negative_prompt};
    return json_is_object(own) ? read_own_defaults(m, folder, own) : ZOE_OK;
}

static int open_all(wan_model *m, const zoe_folder *folder, const zoe_linear_policy *linear) {
    m->path = zoe_strdup(folder->ctx, folder->path);
    if (!m->path) return zoe_out_of_memory(folder->ctx, strlen(folder->path), "path");
    ZOE_TRY(zoe_wan_open_parts(m, folder, linear));
    ZOE_TRY(find_kind(m));
    ZOE_TRY(check_parts(m));
    return set_defaults(m, folder);
}

int zoe_wan_open(zoe_backend *be, const zoe_folder *folder, const zoe_linear_policy *linear, void **model) {
    wan_model *m;
    *model = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, m, 1));
    *m = (wan_model){.be = be,
                     .clip_mean = {0.48145466, 0.4578275, 0.40821073},
                     .clip_std = {0.26862954, 0.26130258, 0.27577711},
                     .expert = -1};
    int status = open_all(m, folder, linear);
    if (status < 0)
        zoe_wan_close(m);
    else
        *model = m;
    return status;
}

void zoe_wan_close(void *model) {
    wan_model *m = model;
    zoe_wan_vae_free(m->vae);
    zoe_clip_free(m->clip);
    zoe_t5_free(m->text);
    for (int i = 0; i < 2; i++) {
        zoe_wan_denoiser_free(m->denoisers[i]);
        zoe_checkpoint_close(m->denoiser_ckpts[i]);
    }
    zoe_checkpoint_close(m->vae_ckpt);
    zoe_checkpoint_close(m->clip_ckpt);
    zoe_checkpoint_close(m->text_ckpt);
    zoe_tokenizer_close(m->tokenizer);
    zoe_free(m->be->ctx, m->negative);
    zoe_free(m->be->ctx, m->path);
    zoe_free(m->be->ctx, m);
}
