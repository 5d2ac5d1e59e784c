#include "models/bench.h"

#include <string.h>

#include "weights/convert.h"

static int choose_form(zoe_bench_state *state) {
    const zoe_bench_settings *s = state->settings;
    ZOE_TRY(zoe_linear_policy_find(state->be->ctx, s->linear, &state->linear));
    if (state->linear.denoiser.dtype == ZOE_DTYPE_COUNT && strcmp(s->dtype, "f32") == 0)
        state->linear.denoiser.dtype = state->linear.text.dtype = ZOE_F32;
    return ZOE_OK;
}

static zoe_tiling tiling_of(const zoe_bench_settings *settings) {
    const char *name = settings->vae_tiling ? settings->vae_tiling : "none";
    if (strcmp(name, "reference") == 0) return (zoe_tiling){.kind = ZOE_TILING_REFERENCE};
    if (strcmp(name, "exact") == 0)
        return (zoe_tiling){.kind = ZOE_TILING_EXACT, .parts = settings->vae_parts, .frames = 1};
    return (zoe_tiling){0};
}

int zoe_bench_make(zoe_backend *be, zoe_bench_state *state, const zoe_bench_part *parts, const zoe_config *config,
                   const zoe_bench_settings *settings, zoe_bench_task *task) {
    zoe_weights *weights;
    state->be = be;
    state->settings = settings;
    state->tiling = tiling_of(settings);
    ZOE_TRY(choose_form(state));
    for (const zoe_bench_part *part = parts; part->what; part++) {
        const char *value = "";
        ZOE_TRY(zoe_config_text(config, part->key, &value));
        if (strcmp(value, part->value) != 0 || strcmp(settings->what, part->what) != 0) continue;
        task->run = part->run;
        ZOE_TRY(part->prepare(state, config, &weights));
        task->weight_bytes = zoe_weights_bytes(weights);
        return ZOE_OK;
    }
    return ZOE_ERR_UNSUPPORTED;
}

void zoe_bench_release(zoe_bench_state *state) {
    zoe_context *ctx = state->be->ctx;
    zoe_t5_free(state->text);
    zoe_free(ctx, state->host);
    zoe_free(ctx, state->ids);
}

int zoe_bench_latents(zoe_bench_state *state, const int64_t shape[4], int64_t step) {
    zoe_context *ctx = state->be->ctx;
    const zoe_bench_settings *s = state->settings;
    int64_t count = shape[0] * shape[1] * shape[2] * shape[3];
    float *host;
    if (s->width < step || s->height < step || s->width % step || s->height % step || s->frames < 1)
        return zoe_fail(ctx, ZOE_ERR_ARGUMENT, "size %dx%d, %d frames: expected multiples of %lld and at least one",
                        s->width, s->height, s->frames, (long long)step);
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, host, count));
    zoe_random_fill(host, ZOE_F32, count, 1, 0, 1.7f);
    int status = zoe_nn_from_host(state->be, &state->latents, ZOE_F32, 4, shape, host);
    zoe_free(ctx, host);
    return status;
}

int zoe_bench_host(zoe_bench_state *state, int64_t count, float size) {
    ZOE_TRY(ZOE_NEW_ARRAY(state->be->ctx, state->host, count));
    zoe_random_fill(state->host, ZOE_F32, count, 2, 0, size);
    return ZOE_OK;
}

int zoe_bench_prepare_text(void *state, const zoe_config *config, zoe_weights **weights) {
    zoe_bench_state *t = state;
    zoe_t5_config c;
    ZOE_TRY(zoe_t5_config_read(config, &c));
    ZOE_TRY(zoe_t5_create(t->be, &c, NULL, NULL, t->linear.text, &t->text));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->host, t->text_tokens * c.width));
    ZOE_TRY(ZOE_NEW_ARRAY(t->be->ctx, t->ids, t->text_tokens));
    for (int64_t i = 0; i < t->text_tokens; i++) t->ids[i] = (int32_t)(i * 7919 % c.vocabulary);
    *weights = zoe_t5_weights(t->text);
    return ZOE_OK;
}

int zoe_bench_run_text(void *state) {
    zoe_bench_state *t = state;
    return zoe_t5_encode(t->text, t->ids, t->text_tokens, t->host);
}

int zoe_bench_ignore(void *user, const float *frame) {
    (void)user, (void)frame;
    return ZOE_OK;
}
