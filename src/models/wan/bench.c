/* Single networks of the Wan family on random weights, to be timed. */
#include <string.h>

#include "models/bench.h"
#include "models/wan/wan_model.h"

/* Text rows of the prompt that denoising is timed with. */
#define PROMPT_TOKENS 40

typedef struct task_state {
    zoe_bench_state base;
    zoe_wan_denoiser *denoiser;
    zoe_wan_vae *vae;
    zoe_wan_grid grid;
    zoe_wan_context context;
    zoe_tensor v;
    int64_t frames, pixels; /* to encode; values of a frame */
} task_state;

static void close_task(void *state) {
    task_state *t = state;
    if (!t) return;
    zoe_wan_denoiser_free(t->denoiser);
    zoe_wan_vae_free(t->vae);
    zoe_bench_release(&t->base);
    zoe_free(t->base.be->ctx, t);
}

/* ---- denoise ---- */

static int run_denoiser(void *state) {
    task_state *t = state;
    const zoe_tensor *parts[] = {&t->base.latents};
    const zoe_wan_step step = {.parts = 1, .latents = parts, .groups = 1, .timesteps = (const double[]){500}};
    return zoe_wan_denoiser_forward(t->denoiser, &t->grid, &step, 1, &(zoe_wan_branch){&t->context, &t->v});
}

static int prepare_denoiser(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    zoe_bench_state *b = &t->base;
    const zoe_bench_settings *s = b->settings;
    zoe_wan_config c;
    ZOE_TRY(zoe_wan_config_read(config, &c));
    int64_t space = c.out_channels == 48 ? 16 : 8;
    const int64_t shape[4] = {c.in_channels, (s->frames - 1) / 4 + 1, s->height / space, s->width / space};
    const int64_t out[4] = {c.out_channels, shape[1], shape[2], shape[3]};
    int64_t image_rows = c.image_positions ? c.image_positions : c.image_dim ? 257 : 0, text = PROMPT_TOKENS * c.text_dim;
    ZOE_TRY(zoe_bench_latents(b, shape, space * c.patch[2]));
    ZOE_TRY(zoe_wan_denoiser_create(b->be, &c, NULL, b->linear.denoiser, &t->denoiser));
    ZOE_TRY(zoe_bench_host(b, text + image_rows * c.image_dim, 0.3f));
    ZOE_TRY(zoe_wan_grid_create(t->denoiser, shape[1], shape[2], shape[3], &t->grid));
    ZOE_TRY(zoe_wan_context_create(t->denoiser, b->host, PROMPT_TOKENS, image_rows ? b->host + text : NULL, image_rows,
                                   &t->context));
    *weights = zoe_wan_denoiser_weights(t->denoiser);
    return zoe_new_tensor(b->be, &t->v, ZOE_F32, 4, out);
}

/* ---- decode and encode ---- */

static int run_decoder(void *state) {
    task_state *t = state;
    return zoe_wan_vae_decode(t->vae, &t->base.latents, &t->base.tiling, zoe_bench_ignore, NULL);
}

static int prepare_decoder(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    const zoe_bench_settings *s = t->base.settings;
    zoe_wan_vae_config c;
    ZOE_TRY(zoe_wan_vae_config_read(config, &c));
    int64_t space = zoe_wan_vae_space_factor(&c), frames = (s->frames - 1) / zoe_wan_vae_time_factor(&c) + 1;
    ZOE_TRY(zoe_bench_latents(&t->base, (const int64_t[]){c.channels, frames, s->height / space, s->width / space}, space));
    ZOE_TRY(zoe_wan_vae_create(t->base.be, &c, NULL, &t->vae));
    *weights = zoe_wan_vae_weights(t->vae);
    return ZOE_OK;
}

static int noise_frame(void *user, int64_t index, float *frame) {
    task_state *t = user;
    (void)index;
    memcpy(frame, t->base.host, (size_t)t->pixels * sizeof *frame);
    return ZOE_OK;
}

static int run_encoder(void *state) {
    task_state *t = state;
    return zoe_wan_vae_encode(t->vae, t->frames, noise_frame, t, &t->base.latents);
}

static int prepare_encoder(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    const zoe_bench_settings *s = t->base.settings;
    ZOE_TRY(prepare_decoder(state, config, weights));
    int64_t step = zoe_wan_vae_time_factor(zoe_wan_vae_configuration(t->vae));
    t->frames = (s->frames - 1) / step * step + 1;
    t->pixels = (int64_t)s->width * s->height * 3;
    return zoe_bench_host(&t->base, t->pixels, 1);
}

static const zoe_bench_part parts[] = {
    {"denoise", "_class_name", "WanTransformer3DModel", prepare_denoiser, run_denoiser},
    {"decode", "_class_name", "AutoencoderKLWan", prepare_decoder, run_decoder},
    {"encode", "_class_name", "AutoencoderKLWan", prepare_encoder, run_encoder},
    {"text", "model_type", "umt5", zoe_bench_prepare_text, zoe_bench_run_text},
    {0},
};

int zoe_wan_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task) {
    task_state *t;
    *task = (zoe_bench_task){.close = close_task};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t, 1));
    t->base.text_tokens = ZOE_WAN_TEXT_ROWS;
    task->state = t;
    return zoe_bench_make(be, &t->base, parts, config, settings, task);
}
