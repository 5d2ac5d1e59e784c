/* Single networks of the CogVideoX family on random weights, to be timed. */
#include <string.h>

#include "models/cogvideox/cogvideox_model.h"
#include "weights/convert.h"

#define TEXT_TOKENS 226

typedef struct task_state {
    zoe_backend *be;
    zoe_cogvideox_denoiser *denoiser;
    zoe_cogvideox_vae *vae;
    zoe_t5 *text;
    zoe_cogvideox_grid grid;
    zoe_tensor words, latents, v;
    float *host;
    int32_t *ids;
    zoe_tiling tiling;
} task_state;

static void close_task(void *state) {
    task_state *t = state;
    if (!t) return;
    zoe_context *ctx = t->be->ctx;
    zoe_cogvideox_denoiser_free(t->denoiser);
    zoe_cogvideox_vae_free(t->vae);
    zoe_t5_free(t->text);
    zoe_free(ctx, t->host);
    zoe_free(ctx, t->ids);
    zoe_free(ctx, t);
}

/* Random latents [frames, channels, height, width] on the arena, for the size asked for. */
static int random_latents(task_state *t, const zoe_bench_settings *s, int64_t frames, int64_t channels, int step) {
    const int64_t shape[4] = {frames, channels, s->height / ZOE_COGVIDEOX_VAE_SPACE, s->width / ZOE_COGVIDEOX_VAE_SPACE};
    int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    float *host;
    if (s->width < step || s->height < step || s->width % step || s->height % step || frames < 1)
        return zoe_fail(t->be->ctx, ZOE_ERR_ARGUMENT, "size %dx%d, %d frames: expected multiples of %d and at least one",
                        s->width, s->height, s->frames, step);
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, host, count));
    zoe_random_fill(host, ZOE_F32, count, 1, 0, 1.7f);
    int status = zoe_nn_from_host(t->be, &t->latents, ZOE_F32, 4, shape, host);
    zoe_free(t->be->ctx, host);
    return status;
}

/* ---- denoise ---- */

static int run_denoiser(void *state) {
    task_state *t = state;
    const zoe_tensor *parts[] = {&t->latents};
    return zoe_cogvideox_denoiser_forward(t->denoiser, &t->grid, &t->words, 1, parts, 500, &t->v);
}

static int prepare_denoiser(task_state *t, const zoe_config *config, const zoe_bench_settings *s, zoe_weight_form form) {
    zoe_cogvideox_config c;
    ZOE_TRY(zoe_cogvideox_config_read(config, &c));
    int64_t patch = c.patch_time ? c.patch_time : 1, frames = (s->frames - 1) / c.time_ratio + 1;
    frames = (frames + patch - 1) / patch * patch;
    ZOE_TRY(random_latents(t, s, frames, c.in_channels, (int)(ZOE_COGVIDEOX_VAE_SPACE * c.patch)));
    const int64_t out[4] = {frames, c.out_channels, t->latents.shape[2], t->latents.shape[3]};
    ZOE_TRY(zoe_cogvideox_denoiser_create(t->be, &c, NULL, form, &t->denoiser));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->host, c.text_rows * c.text_dim));
    zoe_random_fill(t->host, ZOE_F32, c.text_rows * c.text_dim, 2, 0, 0.3f);
    ZOE_TRY(zoe_cogvideox_grid_create(t->denoiser, frames, out[2], out[3], &t->grid));
    ZOE_TRY(zoe_cogvideox_text_create(t->denoiser, t->host, &t->words));
    return zoe_new_tensor(t->be, &t->v, ZOE_F32, 4, out);
}

/* ---- decode ---- */

static int ignore_frame(void *user, const float *frame) {
    (void)user, (void)frame;
    return ZOE_OK;
}

static int run_vae(void *state) {
    task_state *t = state;
    return zoe_cogvideox_vae_decode(t->vae, &t->latents, &t->tiling, ignore_frame, NULL);
}

static int prepare_vae(task_state *t, const zoe_config *config, const zoe_bench_settings *s) {
    zoe_cogvideox_vae_config c;
    ZOE_TRY(zoe_cogvideox_vae_config_read(config, &c));
    ZOE_TRY(random_latents(t, s, (s->frames - 1) / ZOE_COGVIDEOX_VAE_TIME + 1, c.channels, ZOE_COGVIDEOX_VAE_SPACE));
    return zoe_cogvideox_vae_create(t->be, &c, NULL, &t->vae);
}

/* ---- text: the encoder that LTX-Video has, too ---- */

static int run_text(void *state) {
    task_state *t = state;
    return zoe_t5_encode(t->text, t->ids, TEXT_TOKENS, t->host);
}

static int prepare_text(task_state *t, const zoe_config *config, zoe_weight_form form) {
    zoe_t5_config c;
    ZOE_TRY(zoe_t5_config_read(config, &c));
    ZOE_TRY(zoe_t5_create(t->be, &c, NULL, NULL, form, &t->text));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->host, TEXT_TOKENS * c.width));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->ids, TEXT_TOKENS));
    for (int i = 0; i < TEXT_TOKENS; i++) t->ids[i] = (int32_t)(i * 7919 % c.vocabulary);
    return ZOE_OK;
}

/* ---- which of them ---- */

static int prepare(task_state *t, const zoe_config *config, const zoe_bench_settings *s, zoe_bench_task *task) {
    const char *class = "", *type = "";
    zoe_linear_policy linear;
    zoe_weights *weights;
    ZOE_TRY(zoe_bench_policy(t->be->ctx, s, &linear));
    ZOE_TRY(zoe_config_text(config, "_class_name", &class));
    ZOE_TRY(zoe_config_text(config, "model_type", &type));
    if (strcmp(class, "CogVideoXTransformer3DModel") == 0 && strcmp(s->what, "denoise") == 0) {
        ZOE_TRY(prepare_denoiser(t, config, s, linear.denoiser));
        task->run = run_denoiser;
        weights = zoe_cogvideox_denoiser_weights(t->denoiser);
    } else if (strcmp(class, "AutoencoderKLCogVideoX") == 0 && strcmp(s->what, "decode") == 0) {
        ZOE_TRY(prepare_vae(t, config, s));
        task->run = run_vae;
        weights = zoe_cogvideox_vae_weights(t->vae);
    } else if (strcmp(type, "t5") == 0 && strcmp(s->what, "text") == 0) {
        ZOE_TRY(prepare_text(t, config, linear.text));
        task->run = run_text;
        weights = zoe_t5_weights(t->text);
    } else {
        return ZOE_ERR_UNSUPPORTED;
    }
    task->weight_bytes = zoe_weights_bytes(weights);
    return ZOE_OK;
}

int zoe_cogvideox_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings,
                        zoe_bench_task *task) {
    task_state *t;
    *task = (zoe_bench_task){.close = close_task};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t, 1));
    t->be = be;
    t->tiling = zoe_bench_tiling(settings);
    task->state = t;
    return prepare(t, config, settings, task);
}
