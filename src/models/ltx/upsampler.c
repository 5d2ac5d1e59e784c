#include "models/ltx/upsampler.h"

#include <math.h>
#include <stdio.h>

#define GROUPS      32
#define NORM_EPS    1e-5f
#define MOST_BLOCKS 16
#define MOST_WIDTH  (1 << 16)

typedef struct conv {
    zoe_tensor w, b;
} conv;

typedef struct block {
    conv conv_1, conv_2;
    zoe_tensor norm_1_w, norm_1_b, norm_2_w, norm_2_b;
} block;

typedef struct ends {
    conv in, up, out;
    zoe_tensor norm_w, norm_b;
} ends;

struct zoe_ltx_upsampler {
    zoe_backend *be;
    zoe_ltx_upsampler_config config;
    zoe_weights *weights;
    ends ends;
    block blocks[2][MOST_BLOCKS]; /* before and after the pixels are doubled */
};

/* C channels of the latents, W width */
static const zoe_slot end_slots[] = {
    {"initial_conv.weight", offsetof(ends, in.w), ZOE_SLOT_CONV, "W C 3 3 3", 0},
    {"initial_conv.bias", offsetof(ends, in.b), ZOE_SLOT_VECTOR, "W", 0},
    {"initial_norm.weight", offsetof(ends, norm_w), ZOE_SLOT_VECTOR, "W", 0},
    {"initial_norm.bias", offsetof(ends, norm_b), ZOE_SLOT_VECTOR, "W", 0},
    {"upsampler.0.weight", offsetof(ends, up.w), ZOE_SLOT_CONV, "4W W 3 3", 0},
    {"upsampler.0.bias", offsetof(ends, up.b), ZOE_SLOT_VECTOR, "4W", 0},
    {"final_conv.weight", offsetof(ends, out.w), ZOE_SLOT_CONV, "C W 3 3 3", 0},
    {"final_conv.bias", offsetof(ends, out.b), ZOE_SLOT_VECTOR, "C", 0},
    {0},
};

static const zoe_slot block_slots[] = {
    {"conv1.weight", offsetof(block, conv_1.w), ZOE_SLOT_CONV, "W W 3 3 3", 0},
    {"conv1.bias", offsetof(block, conv_1.b), ZOE_SLOT_VECTOR, "W", 0},
    {"norm1.weight", offsetof(block, norm_1_w), ZOE_SLOT_VECTOR, "W", 0},
    {"norm1.bias", offsetof(block, norm_1_b), ZOE_SLOT_VECTOR, "W", 0},
    {"conv2.weight", offsetof(block, conv_2.w), ZOE_SLOT_CONV, "W W 3 3 3", 0},
    {"conv2.bias", offsetof(block, conv_2.b), ZOE_SLOT_VECTOR, "W", 0},
    {"norm2.weight", offsetof(block, norm_2_w), ZOE_SLOT_VECTOR, "W", 0},
    {"norm2.bias", offsetof(block, norm_2_b), ZOE_SLOT_VECTOR, "W", 0},
    {0},
};

/* ---- set-up ---- */

int zoe_ltx_upsampler_config_read(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_ltx_upsampler_config *out) {
    const zoe_entry *in = zoe_checkpoint_find(ckpt, "initial_conv.weight"),
                    *up = zoe_checkpoint_find(ckpt, "upsampler.0.weight");
    char name[64];
    *out = (zoe_ltx_upsampler_config){0};
    if (!in || in->rank != 5 || !up)
        return zoe_fail(ctx, ZOE_ERR_FORMAT,
                        "%s is no spatial upsampler of LTX-Video: expected initial_conv, res_blocks.*, upsampler.0, "
                        "post_upsample_res_blocks.* and final_conv, with convolutions over time",
                        zoe_checkpoint_path(ckpt, 0));
    if (up->rank != 4)
        return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED,
                        "%s enlarges in time: expected a spatial upsampler (ltxv-spatial-upscaler)",
                        zoe_checkpoint_path(ckpt, 0));
    out->width = in->shape[0];
    out->channels = in->shape[1];
    for (;; out->blocks++) {
        snprintf(name, sizeof name, "res_blocks.%d.conv1.weight", (int)out->blocks);
        if (!zoe_checkpoint_find(ckpt, name)) break;
    }
    bool sane = out->width && out->width <= MOST_WIDTH && out->channels && out->channels <= MOST_WIDTH;
    if (sane && out->width % GROUPS == 0 && out->blocks <= MOST_BLOCKS) return ZOE_OK;
    return zoe_fail(ctx, ZOE_ERR_UNSUPPORTED, "%s: expected a width in steps of %d and up to %d blocks a stage",
                    zoe_checkpoint_path(ckpt, 0), GROUPS, MOST_BLOCKS);
}

static int bind(zoe_ltx_upsampler *u) {
    const zoe_dims dims = {['C' - 'A'] = u->config.channels, ['W' - 'A'] = u->config.width};
    ZOE_TRY(zoe_weights_unit(u->weights));
    ZOE_TRY(zoe_weights_bind(u->weights, end_slots, dims, &u->ends, "%s", ""));
    for (int stage = 0; stage < 2; stage++)
        for (int i = 0; i < (int)u->config.blocks; i++)
            ZOE_TRY(zoe_weights_bind(u->weights, block_slots, dims, &u->blocks[stage][i],
                                     stage ? "post_upsample_res_blocks.%d." : "res_blocks.%d.", i));
    return zoe_weights_check(u->weights);
}

int zoe_ltx_upsampler_create(zoe_backend *be, const zoe_ltx_upsampler_config *config, const zoe_checkpoint *ckpt,
                             zoe_ltx_upsampler **out) {
    int status;
    zoe_ltx_upsampler *u;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, u, 1));
    u->be = be;
    u->config = *config;
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "upsampler", NULL, ZOE_FORM_NATIVE, &u->weights));
    ZOE_TRY_DONE(bind(u));
    *out = u;
    return ZOE_OK;
done:
    zoe_ltx_upsampler_free(u);
    return status;
}

void zoe_ltx_upsampler_free(zoe_ltx_upsampler *u) {
    if (!u) return;
    zoe_weights_free(u->weights);
    zoe_free(u->be->ctx, u);
}

zoe_weights *zoe_ltx_upsampler_weights(zoe_ltx_upsampler *u) {
    return u->weights;
}

const zoe_ltx_upsampler_config *zoe_ltx_upsampler_configuration(const zoe_ltx_upsampler *u) {
    return &u->config;
}

/* ---- running ---- */

/* y = conv(x), zeros around all frames */
static int convolve(zoe_backend *be, const conv *c, const zoe_tensor *x, zoe_tensor *y) {
    int time = (int)c->w.shape[1], pad = time / 2;
    return zoe_op_conv(be, y, x, &c->w,
                       &(zoe_conv){.kernel = {time, 3, 3},
                                   .stride = {1, 1, 1},
                                   .pad = {{pad, pad}, {1, 1}, {1, 1}},
                                   .upsample = 1,
                                   .bias = &c->b});
}

static int norm(zoe_backend *be, const zoe_tensor *weight, const zoe_tensor *bias, zoe_act act, zoe_tensor *x) {
    return zoe_op_group_norm(
        be, x, x, &(zoe_group_norm){.groups = GROUPS, .eps = NORM_EPS, .weight = weight, .bias = bias, .act = act});
}

/* x = silu(x + norm(conv(silu(norm(conv(x)))))) */
static int run_block(zoe_backend *be, const block *b, zoe_tensor *x) {
    size_t mark = zoe_arena_mark(be);
    zoe_tensor hidden, made;
    ZOE_TRY(zoe_check_cancelled(be->ctx));
    ZOE_TRY(zoe_new_tensor(be, &hidden, be->dtype, 4, x->shape));
    ZOE_TRY(zoe_new_tensor(be, &made, be->dtype, 4, x->shape));
    ZOE_TRY(convolve(be, &b->conv_1, x, &hidden));
    ZOE_TRY(norm(be, &b->norm_1_w, &b->norm_1_b, ZOE_ACT_SILU, &hidden));
    ZOE_TRY(convolve(be, &b->conv_2, &hidden, &made));
    ZOE_TRY(norm(be, &b->norm_2_w, &b->norm_2_b, ZOE_ACT_NONE, &made));
    ZOE_TRY(zoe_op_lincomb(be, x, 2, (const zoe_tensor *[]){x, &made}, (float[]){1, 1}));
    ZOE_TRY(zoe_op_activate(be, x, x, NULL, ZOE_ACT_SILU));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* y [frames, 2 height, 2 width, width] from x: four channels become four pixels */
static int double_pixels(zoe_ltx_upsampler *u, const zoe_tensor *x, zoe_tensor *y) {
    zoe_backend *be = u->be;
    int64_t frames = x->shape[0], height = x->shape[1], width = x->shape[2], channels = u->config.width;
    zoe_tensor made;
    ZOE_TRY(ZOE_NEW(be, y, be->dtype, frames, 2 * height, 2 * width, channels));
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(ZOE_NEW(be, &made, be->dtype, frames, height, width, 4 * channels));
    ZOE_TRY(convolve(be, &u->ends.up, x, &made));
    zoe_tensor from = ZOE_VIEW(&made, frames * height, width, channels, 2, 2),
               to = ZOE_VIEW(y, frames * height, 2, width, 2, channels);
    to = zoe_view_permute(&to, (const int[]){0, 2, 4, 1, 3});
    ZOE_TRY(zoe_op_copy(be, &to, &from));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int run(zoe_ltx_upsampler *u, const float *latents, const int64_t size[3], float *out) {
    zoe_backend *be = u->be;
    const int64_t shape[4] = {size[0], size[1], size[2], u->config.channels};
    zoe_tensor given, in, x, large, made, precise;
    ZOE_TRY(zoe_nn_from_host(be, &given, ZOE_F32, 4, shape, latents));
    ZOE_TRY(zoe_new_tensor(be, &in, be->dtype, 4, shape));
    ZOE_TRY(zoe_op_copy(be, &in, &given));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, size[0], size[1], size[2], u->config.width));
    ZOE_TRY(convolve(be, &u->ends.in, &in, &x));
    ZOE_TRY(norm(be, &u->ends.norm_w, &u->ends.norm_b, ZOE_ACT_SILU, &x));
    for (int i = 0; i < (int)u->config.blocks; i++) ZOE_TRY(run_block(be, &u->blocks[0][i], &x));
    ZOE_TRY(double_pixels(u, &x, &large));
    for (int i = 0; i < (int)u->config.blocks; i++) ZOE_TRY(run_block(be, &u->blocks[1][i], &large));
    ZOE_TRY(ZOE_NEW(be, &made, be->dtype, size[0], 2 * size[1], 2 * size[2], u->config.channels));
    ZOE_TRY(convolve(be, &u->ends.out, &large, &made));
    ZOE_TRY(zoe_new_tensor(be, &precise, ZOE_F32, 4, made.shape));
    ZOE_TRY(zoe_op_copy(be, &precise, &made));
    return zoe_download(be, out, &precise);
}

int zoe_ltx_upsampler_run(zoe_ltx_upsampler *u, const float *latents, const int64_t size[3], float *out) {
    size_t mark = zoe_arena_mark(u->be);
    ZOE_TRY(zoe_weights_acquire(u->weights, 0));
    int status = run(u, latents, size, out);
    status = zoe_weights_release(u->weights, 0, status);
    zoe_arena_release(u->be, mark);
    return status;
}

/* ---- after it ---- */

static void statistics(const float *values, int64_t count, int64_t stride, double *mean, double *deviation) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i * stride];
    *mean = sum / (double)count;
    for (int64_t i = 0; i < count; i++) squares += (values[i * stride] - *mean) * (values[i * stride] - *mean);
    *deviation = count > 1 ? sqrt(squares / (double)(count - 1)) : 0;
}

void zoe_ltx_match_statistics(float *latents, int64_t count, const float *reference, int64_t reference_count,
                              int64_t channels, double factor) {
    if (factor == 0) return;
    for (int64_t c = 0; c < channels; c++) {
        double mean, deviation, wanted_mean, wanted;
        statistics(latents + c, count, channels, &mean, &deviation);
        statistics(reference + c, reference_count, channels, &wanted_mean, &wanted);
        double scale = deviation > 0 ? wanted / deviation : 1;
        for (int64_t i = 0; i < count; i++) {
            float *value = &latents[i * channels + c];
            double matched = (*value - mean) * scale + wanted_mean;
            *value = (float)(*value + factor * (matched - *value));
        }
    }
}

void zoe_ltx_tone_map(float *latents, int64_t count, double ratio) {
    double scale = 0.75 * ratio;
    if (ratio == 0) return;
    for (int64_t i = 0; i < count; i++)
        latents[i] = (float)(latents[i] * (1 - 0.8 * scale / (1 + exp(-4 * scale * (fabs((double)latents[i]) - 1)))));
}
