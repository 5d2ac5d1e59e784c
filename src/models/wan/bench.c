/* Single networks of the Wan family on random weights, to be timed. */
#include <string.h>

#include "models/wan/wan_model.h"
#include "weights/convert.h"

/* Text rows of the prompt that denoising is timed with, and tokens that encoding is timed with. */
#define PROMPT_TOKENS 40
#define TEXT_TOKENS   ZOE_WAN_TEXT_ROWS

typedef struct task_state {
    zoe_backend *be;
    zoe_wan_denoiser *denoiser;
    zoe_wan_vae *vae;
    zoe_t5 *text;
    zoe_wan_grid grid;
    zoe_wan_context context;
    zoe_tensor latents, v;
    float *host;
    int64_t frames, pixels; /* to encode; values of a frame */
    int32_t *ids;
    zoe_tiling tiling;
} task_state;

static void close_task(void *state) {
    task_state *t = state;
    if (!t) return;
    zoe_context *ctx = t->be->ctx;
    zoe_wan_denoiser_free(t->denoiser);
    zoe_wan_vae_free(t->vae);
    zoe_t5_free(t->text);
    zoe_free(ctx, t->host);
    zoe_free(ctx, t->ids);
    zoe_free(ctx, t);
}

/* Random latents [channels, frames, height, width] on the arena. */
static int random_latents(task_state *t, const int64_t shape[4]) {
    int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    float *host;
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
    return zoe_wan_denoiser_forward(t->denoiser, &t->grid, &t->context, 1, parts, 1, (const double[]){500}, 0, &t->v);
}

static int prepare_denoiser(task_state *t, const zoe_config *config, const zoe_bench_settings *s, zoe_weight_form form) {
    zoe_wan_config c;
    ZOE_TRY(zoe_wan_config_read(config, &c));
    int64_t space = c.out_channels == 48 ? 16 : 8;
    const int64_t shape[4] = {c.in_channels, (s->frames - 1) / 4 + 1, s->height / space, s->width / space};
    const int64_t out[4] = {c.out_channels, shape[1], shape[2], shape[3]};
    int64_t image_rows = c.image_positions ? c.image_positions : c.image_dim ? 257 : 0;
    if (shape[2] % c.patch[1] || shape[3] % c.patch[2] || s->height % space || s->width % space || !shape[2] || !shape[3])
        return zoe_fail(t->be->ctx, ZOE_ERR_ARGUMENT, "size %dx%d: expected multiples of %lld", s->width, s->height,
                        (long long)(space * c.patch[2]));
    ZOE_TRY(zoe_wan_denoiser_create(t->be, &c, NULL, form, &t->denoiser));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->host, PROMPT_TOKENS * c.text_dim + image_rows * c.image_dim));
    zoe_random_fill(t->host, ZOE_F32, PROMPT_TOKENS * c.text_dim + image_rows * c.image_dim, 2, 0, 0.3f);
    ZOE_TRY(zoe_wan_grid_create(t->denoiser, shape[1], shape[2], shape[3], &t->grid));
    ZOE_TRY(zoe_wan_context_create(t->denoiser, t->host, PROMPT_TOKENS,
                                   image_rows ? t->host + PROMPT_TOKENS * c.text_dim : NULL, image_rows, &t->context));
    ZOE_TRY(random_latents(t, shape));
    return zoe_new_tensor(t->be, &t->v, ZOE_F32, 4, out);
}

/* ---- decode ---- */

static int ignore_frame(void *user, const float *frame) {
    (void)user, (void)frame;
    return ZOE_OK;
}

static int run_vae(void *state) {
    task_state *t = state;
    return zoe_wan_vae_decode(t->vae, &t->latents, &t->tiling, ignore_frame, NULL);
}

/* ---- encode ---- */

static int noise_frame(void *user, int64_t index, float *frame) {
    task_state *t = user;
    (void)index;
    memcpy(frame, t->host, (size_t)t->pixels * sizeof *frame);
    return ZOE_OK;
}

static int run_encoder(void *state) {
    task_state *t = state;
    return zoe_wan_vae_encode(t->vae, t->frames, noise_frame, t, &t->latents);
}

static int prepare_encoder(task_state *t, const zoe_bench_settings *s) {
    int64_t step = zoe_wan_vae_time_factor(zoe_wan_vae_configuration(t->vae));
    t->frames = (s->frames - 1) / step * step + 1;
    t->pixels = (int64_t)s->width * s->height * 3;
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->host, t->pixels));
    zoe_random_fill(t->host, ZOE_F32, t->pixels, 3, 0, 1);
    return ZOE_OK;
}

static int prepare_vae(task_state *t, const zoe_config *config, const zoe_bench_settings *s) {
    zoe_wan_vae_config c;
    ZOE_TRY(zoe_wan_vae_config_read(config, &c));
    int64_t space = zoe_wan_vae_space_factor(&c);
    const int64_t shape[4] = {c.channels, (s->frames - 1) / zoe_wan_vae_time_factor(&c) + 1, s->height / space,
                              s->width / space};
    ZOE_TRY(zoe_wan_vae_create(t->be, &c, NULL, &t->vae));
    if (s->height % space || s->width % space || !shape[2] || !shape[3])
        return zoe_fail(t->be->ctx, ZOE_ERR_ARGUMENT, "size %dx%d: expected multiples of %lld", s->width, s->height,
                        (long long)space);
    return random_latents(t, shape);
}

/* ---- text ---- */

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
    if (strcmp(class, "WanTransformer3DModel") == 0 && strcmp(s->what, "denoise") == 0) {
        ZOE_TRY(prepare_denoiser(t, config, s, linear.denoiser));
        task->run = run_denoiser;
        weights = zoe_wan_denoiser_weights(t->denoiser);
    } else if (strcmp(class, "AutoencoderKLWan") == 0 && (!strcmp(s->what, "decode") || !strcmp(s->what, "encode"))) {
        bool encode = strcmp(s->what, "encode") == 0;
        ZOE_TRY(prepare_vae(t, config, s));
        if (encode) ZOE_TRY(prepare_encoder(t, s));
        task->run = encode ? run_encoder : run_vae;
        weights = zoe_wan_vae_weights(t->vae);
    } else if (strcmp(type, "umt5") == 0 && strcmp(s->what, "text") == 0) {
        ZOE_TRY(prepare_text(t, config, linear.text));
        task->run = run_text;
        weights = zoe_t5_weights(t->text);
    } else {
        return ZOE_ERR_UNSUPPORTED;
    }
    task->weight_bytes = zoe_weights_bytes(weights);
    return ZOE_OK;
}

int zoe_wan_bench(zoe_backend *be, const zoe_config *config, const zoe_bench_settings *settings, zoe_bench_task *task) {
    task_state *t;
    *task = (zoe_bench_task){.close = close_task};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t, 1));
    t->be = be;
    t->tiling = zoe_bench_tiling(settings);
    task->state = t;
    return prepare(t, config, settings, task);
}
