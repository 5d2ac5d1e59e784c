/* Single networks of the LTX-Video family on random weights, to be timed. */
#include "models/bench.h"
#include "models/ltx/ltx_model.h"

/* Text rows of the prompt that denoising is timed with. */
#define PROMPT_TOKENS 128
#define SPACE         32
#define TIME          8

typedef struct task_state {
    zoe_bench_state base;
    zoe_ltx_denoiser *denoiser;
    zoe_ltx_vae *vae;
    zoe_ltx_grid grid;
    zoe_ltx_context context;
    zoe_generator generator;
    zoe_tensor v;
} task_state;

static void close_task(void *state) {
    task_state *t = state;
    if (!t) return;
    zoe_ltx_denoiser_free(t->denoiser);
    zoe_ltx_vae_free(t->vae);
    zoe_bench_release(&t->base);
    zoe_free(t->base.be->ctx, t);
}

/* Random latents [frames, height, width, channels]. */
static int random_latents(task_state *t, int64_t channels) {
    const zoe_bench_settings *s = t->base.settings;
    return zoe_bench_latents(&t->base,
                             (const int64_t[]){(s->frames - 1) / TIME + 1, s->height / SPACE, s->width / SPACE, channels},
                             SPACE);
}

static int run_denoiser(void *state) {
    task_state *t = state;
    zoe_tensor tokens = ZOE_VIEW(&t->base.latents, t->grid.video, t->base.latents.shape[3]);
    return zoe_ltx_denoiser_forward(t->denoiser, &t->grid, NULL, &tokens, (const double[]){500}, 1,
                                    &(zoe_ltx_branch){&t->context, &t->v});
}

static int prepare_denoiser(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    zoe_bench_state *b = &t->base;
    zoe_ltx_config c;
    ZOE_TRY(zoe_ltx_config_read(config, &c));
    ZOE_TRY(random_latents(t, c.in_channels));
    const zoe_tensor *l = &b->latents;
    zoe_ltx_place place = {.size = {l->shape[0], l->shape[1], l->shape[2]}, .fps = 25, .causal = true};
    ZOE_TRY(zoe_ltx_denoiser_create(b->be, &c, NULL, b->linear.denoiser, &t->denoiser));
    ZOE_TRY(zoe_bench_host(b, PROMPT_TOKENS * c.text_dim, 0.3f));
    ZOE_TRY(zoe_ltx_grid_create(t->denoiser, &place, &t->grid));
    ZOE_TRY(zoe_ltx_context_create(t->denoiser, b->host, PROMPT_TOKENS, &t->context));
    *weights = zoe_ltx_denoiser_weights(t->denoiser);
    return ZOE_NEW(b->be, &t->v, ZOE_F32, t->grid.video, c.out_channels);
}

static int run_vae(void *state) {
    task_state *t = state;
    return zoe_ltx_vae_decode(t->vae, &t->base.latents, &t->generator, &t->base.tiling, zoe_bench_ignore, NULL);
}

static int prepare_vae(void *state, const zoe_config *config, zoe_weights **weights) {
    task_state *t = state;
    zoe_ltx_vae_config c;
    ZOE_TRY(zoe_ltx_vae_config_read(config, &c));
    zoe_generator_seed(&t->generator, 0);
    ZOE_TRY(random_latents(t, c.channels));
    ZOE_TRY(zoe_ltx_vae_create(t->base.be, &c, NULL, &t->vae));
    *weights = zoe_ltx_vae_weights(t->vae);
    return ZOE_OK;
}

static const zoe_bench_part parts[] = {
    {"denoise", "_class_name", "LTXVideoTransformer3DModel", prepare_denoiser, run_denoiser},
    {"decode", "_class_name", "AutoencoderKLLTXVideo", prepare_vae, run_vae},
    {0},
};

int zoe_ltx_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task) {
    task_state *t;
    *task = (zoe_bench_task){.close = close_task};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t, 1));
    task->state = t;
    return zoe_bench_make(be, &t->base, parts, config, settings, task);
}
