/* Single networks of the CogVideoX family on random weights, to be timed. */
#include "models/bench.h"
#include "models/cogvideox/cogvideox_model.h"

#define TEXT_TOKENS 226

typedef struct task_state {
    zoe_bench_state base;
    zoe_cogvideox_denoiser *denoiser;
    zoe_cogvideox_vae *vae;
    zoe_cogvideox_grid grid;
    zoe_tensor words, v;
} task_state;

static void close_task(void *state) {
    task_state *t = state;
    if (!t) return;
    zoe_cogvideox_denoiser_free(t->denoiser);
    zoe_cogvideox_vae_free(t->vae);
    zoe_bench_release(&t->base);
    zoe_free(t->base.be->ctx, t);
}

/* Random latents [frames, channels, height, width] of a picture of multiples of `step` pixels. */
static int random_latents(task_state *t, int64_t frames, int64_t channels, int64_t step) {
    const zoe_bench_settings *s = t->base.settings;
    return zoe_bench_latents(&t->base,
                             (const int64_t[]){frames, channels, s->height / ZOE_COGVIDEOX_VAE_SPACE,
                                               s->width / ZOE_COGVIDEOX_VAE_SPACE},
                             step);
}

static int run_denoiser(void *state) {
    task_state *t = state;
    const zoe_tensor *parts[] = {&t->base.latents};
    return zoe_cogvideox_denoiser_forward(t->denoiser, &t->grid, 1, parts, 500, 1,
                                          &(zoe_cogvideox_branch){&t->words, &t->v});
}

static int prepare_denoiser(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    zoe_bench_state *b = &t->base;
    zoe_cogvideox_config c;
    ZOE_TRY(zoe_cogvideox_config_read(config, &c));
    int64_t patch = c.patch_time ? c.patch_time : 1, frames = (b->settings->frames - 1) / c.time_ratio + 1;
    frames = (frames + patch - 1) / patch * patch;
    ZOE_TRY(random_latents(t, frames, c.in_channels, ZOE_COGVIDEOX_VAE_SPACE * c.patch));
    const int64_t out[4] = {frames, c.out_channels, b->latents.shape[2], b->latents.shape[3]};
    ZOE_TRY(zoe_cogvideox_denoiser_create(b->be, &c, NULL, b->linear.denoiser, &t->denoiser));
    ZOE_TRY(zoe_bench_host(b, c.text_rows * c.text_dim, 0.3f));
    ZOE_TRY(zoe_cogvideox_grid_create(t->denoiser, frames, out[2], out[3], &t->grid));
    ZOE_TRY(zoe_cogvideox_text_create(t->denoiser, b->host, &t->words));
    *weights = zoe_cogvideox_denoiser_weights(t->denoiser);
    return zoe_new_tensor(b->be, &t->v, ZOE_F32, 4, out);
}

static int run_vae(void *state) {
    task_state *t = state;
    return zoe_cogvideox_vae_decode(t->vae, &t->base.latents, &t->base.tiling, zoe_bench_ignore, NULL);
}

static int prepare_vae(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    zoe_cogvideox_vae_config c;
    ZOE_TRY(zoe_cogvideox_vae_config_read(config, &c));
    ZOE_TRY(random_latents(t, (t->base.settings->frames - 1) / ZOE_COGVIDEOX_VAE_TIME + 1, c.channels,
                           ZOE_COGVIDEOX_VAE_SPACE));
    ZOE_TRY(zoe_cogvideox_vae_create(t->base.be, &c, NULL, &t->vae));
    *weights = zoe_cogvideox_vae_weights(t->vae);
    return ZOE_OK;
}

/* The text encoder is the one that LTX-Video has, too. */
static const zoe_bench_part parts[] = {
    {"denoise", "_class_name", "CogVideoXTransformer3DModel", prepare_denoiser, run_denoiser},
    {"decode", "_class_name", "AutoencoderKLCogVideoX", prepare_vae, run_vae},
    {"text", "model_type", "t5", zoe_bench_prepare_text, zoe_bench_run_text},
    {0},
};

int zoe_cogvideox_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings,
                        zoe_bench_task *task) {
    task_state *t;
    *task = (zoe_bench_task){.close = close_task};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t, 1));
    t->base.text_tokens = TEXT_TOKENS;
    task->state = t;
    return zoe_bench_make(be, &t->base, parts, config, settings, task);
}
