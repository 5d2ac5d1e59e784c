/* Single networks of the LTX-Video family on random weights, to be timed. */
#include <string.h>

#include "models/ltx/ltx_model.h"
#include "weights/convert.h"

/* Text rows of the prompt that denoising is timed with. */
#define PROMPT_TOKENS 128
#define SPACE         32
#define TIME          8

typedef struct task_state {
    zoe_backend *be;
    zoe_ltx_denoiser *denoiser;
    zoe_ltx_vae *vae;
    zoe_ltx_grid grid;
    zoe_ltx_context context;
    zoe_generator generator;
    zoe_tensor latents, v;
    float *host;
    zoe_tiling tiling;
} task_state;

static void close_task(void *state) {
    task_state *t = state;
    if (!t) return;
    zoe_context *ctx = t->be->ctx;
    zoe_ltx_denoiser_free(t->denoiser);
    zoe_ltx_vae_free(t->vae);
    zoe_free(ctx, t->host);
    zoe_free(ctx, t);
}

/* Random latents [frames, height, width, channels] on the arena, for the size asked for. */
static int random_latents(task_state *t, const zoe_bench_settings *s, int64_t channels) {
    const int64_t shape[4] = {(s->frames - 1) / TIME + 1, s->height / SPACE, s->width / SPACE, channels};
    int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    float *host;
    if (s->width < SPACE || s->height < SPACE || s->width % SPACE || s->height % SPACE || s->frames < 1)
        return zoe_fail(t->be->ctx, ZOE_ERR_ARGUMENT, "size %dx%d, %d frames: expected multiples of %d and at least one",
                        s->width, s->height, s->frames, SPACE);
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, host, count));
    zoe_random_fill(host, ZOE_F32, count, 1, 0, 1.7f);
    int status = zoe_nn_from_host(t->be, &t->latents, ZOE_F32, 4, shape, host);
    zoe_free(t->be->ctx, host);
    return status;
}

/* ---- denoise ---- */

static int run_denoiser(void *state) {
    task_state *t = state;
    zoe_tensor tokens = ZOE_VIEW(&t->latents, t->grid.video, t->latents.shape[3]);
    return zoe_ltx_denoiser_forward(t->denoiser, &t->grid, &t->context, NULL, &tokens, (const double[]){500}, &t->v);
}

static int prepare_denoiser(task_state *t, const zoe_config *config, const zoe_bench_settings *s, zoe_weight_form form) {
    zoe_ltx_config c;
    ZOE_TRY(zoe_ltx_config_read(config, &c));
    ZOE_TRY(random_latents(t, s, c.in_channels));
    const zoe_tensor *l = &t->latents;
    zoe_ltx_place place = {.size = {l->shape[0], l->shape[1], l->shape[2]}, .fps = 25, .causal = true};
    ZOE_TRY(zoe_ltx_denoiser_create(t->be, &c, NULL, form, &t->denoiser));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->host, PROMPT_TOKENS * c.text_dim));
    zoe_random_fill(t->host, ZOE_F32, PROMPT_TOKENS * c.text_dim, 2, 0, 0.3f);
    ZOE_TRY(zoe_ltx_grid_create(t->denoiser, &place, &t->grid));
    ZOE_TRY(zoe_ltx_context_create(t->denoiser, t->host, PROMPT_TOKENS, &t->context));
    return ZOE_NEW(t->be, &t->v, ZOE_F32, t->grid.video, c.out_channels);
}

/* ---- decode ---- */

static int ignore_frame(void *user, const float *frame) {
    (void)user, (void)frame;
    return ZOE_OK;
}

static int run_vae(void *state) {
    task_state *t = state;
    return zoe_ltx_vae_decode(t->vae, &t->latents, &t->generator, &t->tiling, ignore_frame, NULL);
}

static int prepare_vae(task_state *t, const zoe_config *config, const zoe_bench_settings *s) {
    zoe_ltx_vae_config c;
    ZOE_TRY(zoe_ltx_vae_config_read(config, &c));
    zoe_generator_seed(&t->generator, 0);
    ZOE_TRY(random_latents(t, s, c.channels));
    return zoe_ltx_vae_create(t->be, &c, NULL, &t->vae);
}

/* ---- which of them ---- */

static int prepare(task_state *t, const zoe_config *config, const zoe_bench_settings *s, zoe_bench_task *task) {
    const char *class = "";
    zoe_linear_policy linear;
    zoe_weights *weights;
    ZOE_TRY(zoe_bench_policy(t->be->ctx, s, &linear));
    ZOE_TRY(zoe_config_text(config, "_class_name", &class));
    if (strcmp(class, "LTXVideoTransformer3DModel") == 0 && strcmp(s->what, "denoise") == 0) {
        ZOE_TRY(prepare_denoiser(t, config, s, linear.denoiser));
        task->run = run_denoiser;
        weights = zoe_ltx_denoiser_weights(t->denoiser);
    } else if (strcmp(class, "AutoencoderKLLTXVideo") == 0 && strcmp(s->what, "decode") == 0) {
        ZOE_TRY(prepare_vae(t, config, s));
        task->run = run_vae;
        weights = zoe_ltx_vae_weights(t->vae);
    } else {
        return ZOE_ERR_UNSUPPORTED;
    }
    task->weight_bytes = zoe_weights_bytes(weights);
    return ZOE_OK;
}

int zoe_ltx_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task) {
    task_state *t;
    *task = (zoe_bench_task){.close = close_task};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t, 1));
    t->be = be;
    t->tiling = zoe_bench_tiling(settings);
    task->state = t;
    return prepare(t, config, settings, task);
}
