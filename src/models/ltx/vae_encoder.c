/* Clips to latents, all frames at once; the past of a clip is its first frame, and a picture is a clip of one. */
#include <math.h>

#include "models/ltx/vae_blocks.h"

static int norm_silu(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x) {
    return zoe_nn_norm(be, y, x, ZOE_NORM_RMS, ZOE_LTX_VAE_EPS, NULL, NULL, ZOE_ACT_SILU);
}

/* y = conv(x) + residual, the first frame repeated in front; y is allocated */
static int convolve(zoe_backend *be, const zoe_carrier *conv, int64_t stride, const zoe_tensor *x,
                    const zoe_tensor *residual, zoe_tensor *y) {
    int kernel = (int)conv->w.shape[1], step = (int)stride, pad = kernel / 2;
    zoe_tensor before, first = zoe_view_slice(x, 0, 0, kernel - 1);
    zoe_conv p = {.kernel = {kernel, kernel, kernel},
                  .stride = {step, step, step},
                  .pad = {{0, 0}, {pad, pad}, {pad, pad}},
                  .upsample = 1,
                  .bias = &conv->b,
                  .residual = residual};
    size_t mark = zoe_arena_mark(be);
    if (kernel > 1) {
        first.stride[0] = 0;
        ZOE_TRY(zoe_new_tensor(be, &before, be->dtype, 4, first.shape));
        ZOE_TRY(zoe_op_copy(be, &before, &first));
        p.history = &before;
    }
    ZOE_TRY(zoe_op_conv(be, y, x, &conv->w, &p));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* *y, fresh on the arena, = shortcut(x) + conv(silu(norm(conv(silu(norm(x)))))) */
static int run_resnet(const zoe_ltx_vae *vae, const ltx_resnet *resnet, const zoe_tensor *x, zoe_tensor *y) {
    zoe_backend *be = vae->be;
    zoe_tensor n, hidden, shortcut;
    ZOE_TRY(ZOE_NEW(be, y, be->dtype, x->shape[0], x->shape[1], x->shape[2], resnet->conv_1.w.shape[0]));
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(zoe_new_tensor(be, &hidden, be->dtype, 4, y->shape));
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
    ZOE_TRY(norm_silu(be, &n, x));
    ZOE_TRY(convolve(be, &resnet->conv_1, 1, &n, NULL, &hidden));
    ZOE_TRY(norm_silu(be, &hidden, &hidden));
    if (resnet->shortcut.w.rank) {
        ZOE_TRY(zoe_new_tensor(be, &shortcut, be->dtype, 4, y->shape));
        ZOE_TRY(
            zoe_nn_norm(be, &n, x, ZOE_NORM_LAYER, (float)vae->config.eps, &resnet->norm_w, &resnet->norm_b, ZOE_ACT_NONE));
        ZOE_TRY(convolve(be, &resnet->shortcut, 1, &n, NULL, &shortcut));
        x = &shortcut;
    }
    ZOE_TRY(convolve(be, &resnet->conv_2, 1, &hidden, x, y));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* y [frames / time, height / space, width / space, channels * cells] packs x; a channel's cells stay together */
static int pack(zoe_backend *be, int64_t time, int64_t space, const zoe_tensor *x, zoe_tensor *y) {
    int64_t channels = x->shape[3], cells = time * space * space;
    int64_t frames = x->shape[0] / time, height = x->shape[1] / space, width = x->shape[2] / space;
    ZOE_TRY(ZOE_NEW(be, y, be->dtype, frames, height, width, channels * cells));
    for (int64_t i = 0; i < time; i++) {
        zoe_tensor from = zoe_view_slice(x, 0, i, frames), to = ZOE_VIEW(y, frames, height, width, channels, cells);
        from.stride[0] *= time;
        from = zoe_view_split(&from, 1, space);
        from = zoe_view_split(&from, 3, space); /* [frames, height, space, width, space, channels] */
        from = zoe_view_permute(&from, (const int[]){0, 1, 3, 5, 2, 4});
        to = zoe_view_slice(&to, 4, i * space * space, space * space);
        to = zoe_view_split(&to, 4, space);
        ZOE_TRY(zoe_op_copy(be, &to, &from));
    }
    return ZOE_OK;
}

/* 0.9.5: the end of a level, packing what a convolution makes, and beside it means of the packed input. */
static int shuffle(zoe_backend *be, const ltx_level *level, const int64_t stride[2], const zoe_tensor *x, zoe_tensor *y) {
    zoe_tensor longer = *x, made, packed;
    if (stride[0] > 1) {
        zoe_tensor first = zoe_view_slice(x, 0, 0, 1), to;
        ZOE_TRY(ZOE_NEW(be, &longer, be->dtype, x->shape[0] + 1, x->shape[1], x->shape[2], x->shape[3]));
        to = zoe_view_slice(&longer, 0, 0, 1);
        ZOE_TRY(zoe_op_copy(be, &to, &first));
        to = zoe_view_slice(&longer, 0, 1, x->shape[0]);
        ZOE_TRY(zoe_op_copy(be, &to, x));
    }
    ZOE_TRY(ZOE_NEW(be, &made, be->dtype, longer.shape[0], x->shape[1], x->shape[2], level->resample.w.shape[0]));
    ZOE_TRY(convolve(be, &level->resample, 1, &longer, NULL, &made));
    ZOE_TRY(pack(be, stride[0], stride[1], &made, y));
    ZOE_TRY(pack(be, stride[0], stride[1], &longer, &packed));
    int64_t group = packed.shape[3] / y->shape[3];
    for (int64_t i = 0; i < group; i++) {
        zoe_tensor part = zoe_view_slice(&packed, 3, i, y->shape[3]);
        part.stride[3] = group;
        ZOE_TRY(zoe_op_lincomb(be, y, 2, (const zoe_tensor *[]){y, &part}, (float[]){1, 1 / (float)group}));
    }
    return ZOE_OK;
}

/* *y: what a level makes of x */
static int run_level(const zoe_ltx_vae *vae, int index, const zoe_tensor *x, zoe_tensor *y) {
    zoe_backend *be = vae->be;
    const zoe_ltx_vae_config *c = &vae->config;
    const ltx_level *level = &vae->encoder.levels[index];
    zoe_tensor from = *x;
    for (int i = 0; i < level->resnet_count; i++) {
        ZOE_TRY(run_resnet(vae, &level->resnets[i], &from, y));
        from = *y;
    }
    if (c->shuffles) return level->resample.w.rank ? shuffle(be, level, c->stride[index], &from, y) : ZOE_OK;
    if (level->resample.w.rank) {
        /* The first frame makes one, and each two after it; with two in front of it, it is the last of three. */
        int64_t frames = (from.shape[0] - 1) / 2 + 1;
        ZOE_TRY(ZOE_NEW(be, y, be->dtype, frames, from.shape[1] / 2, from.shape[2] / 2, from.shape[3]));
        ZOE_TRY(convolve(be, &level->resample, 2, &from, NULL, y));
        from = *y;
    }
    return level->change.conv_1.w.rank ? run_resnet(vae, &level->change, &from, y) : ZOE_OK;
}

/* packed [frames, height, width, 3 patch^2] from pixels; a packed channel counts colour, then column, then row */
static int pack_pixels(const zoe_ltx_vae *vae, const float *clip, int64_t frames, int64_t height, int64_t width,
                       zoe_tensor *packed) {
    int64_t p = vae->config.patch;
    zoe_tensor pixels;
    ZOE_TRY(zoe_nn_from_host(vae->be, &pixels, ZOE_F32, 4, (const int64_t[]){frames, height, width, 3}, clip));
    ZOE_TRY(ZOE_NEW(vae->be, packed, vae->be->dtype, frames, height / p, width / p, 3 * p * p));
    zoe_tensor from = ZOE_VIEW(&pixels, frames, height / p, p, width / p, p, 3),
               to = ZOE_VIEW(packed, frames, height / p, width / p, 3, p, p);
    from = zoe_view_permute(&from, (const int[]){0, 1, 3, 5, 4, 2});
    return zoe_op_copy(vae->be, &to, &from);
}

/* moments [frames, height, width, channels + 1] on the host: means, and the logarithm of the variance of all channels */
static int encode(const zoe_ltx_vae *vae, const float *clip, int64_t frames, int64_t height, int64_t width,
                  float *moments) {
    zoe_backend *be = vae->be;
    const ltx_coder *coder = &vae->encoder;
    zoe_tensor packed, x, y, out, precise;
    ZOE_TRY(pack_pixels(vae, clip, frames, height, width, &packed));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, frames, packed.shape[1], packed.shape[2], vae->config.widths[0]));
    ZOE_TRY(convolve(be, &coder->conv_in, 1, &packed, NULL, &x));
    for (int i = 0; i < vae->config.levels; i++) {
        ZOE_TRY(zoe_check_cancelled(be->ctx));
        ZOE_TRY(run_level(vae, i, &x, &y));
        x = y;
    }
    for (int i = 0; i < coder->mid.resnet_count; i++) {
        ZOE_TRY(run_resnet(vae, &coder->mid.resnets[i], &x, &y));
        x = y;
    }
    ZOE_TRY(norm_silu(be, &x, &x));
    ZOE_TRY(ZOE_NEW(be, &out, be->dtype, x.shape[0], x.shape[1], x.shape[2], vae->config.channels + 1));
    ZOE_TRY(convolve(be, &coder->conv_out, 1, &x, NULL, &out));
    ZOE_TRY(zoe_new_tensor(be, &precise, ZOE_F32, 4, out.shape));
    ZOE_TRY(zoe_op_copy(be, &precise, &out));
    return zoe_download(be, moments, &precise);
}

/* Draws come channel by channel, latents go pixel by pixel. statistics [2, channels]: mean and deviation of latents. */
static void sample(const float *moments, const float *noise, const float *statistics, int64_t pixels, int64_t channels,
                   float *latents) {
    for (int64_t pixel = 0; pixel < pixels; pixel++) {
        const float *row = moments + pixel * (channels + 1);
        float deviation = expf(0.5f * fminf(fmaxf(row[channels], -30), 20));
        for (int64_t i = 0; i < channels; i++)
            latents[pixel * channels + i] =
                (row[i] + deviation * noise[i * pixels + pixel] - statistics[i]) / statistics[channels + i];
    }
}

int zoe_ltx_vae_encode(zoe_ltx_vae *vae, const float *clip, int64_t frames, int64_t height, int64_t width,
                       zoe_generator *generator, float *latents) {
    zoe_backend *be = vae->be;
    int64_t factor = zoe_ltx_vae_space_factor(&vae->config), channels = vae->config.channels;
    int64_t time = zoe_ltx_vae_time_factor(&vae->config);
    int64_t pixels = ((frames - 1) / time + 1) * (height / factor) * (width / factor);
    size_t mark = zoe_arena_mark(be);
    float *moments = NULL, *noise = NULL, *statistics = NULL;
    int status;
    ZOE_TRY(zoe_ltx_vae_acquire(vae, ZOE_LTX_VAE_ENCODER_UNIT));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, moments, pixels * (channels + 1)));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, noise, pixels * channels));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, statistics, 2 * channels));
    ZOE_TRY_DONE(zoe_download(be, statistics, &vae->mean));
    ZOE_TRY_DONE(zoe_download(be, statistics + channels, &vae->std));
    ZOE_TRY_DONE(encode(vae, clip, frames, height, width, moments));
    zoe_generator_normal(generator, noise, pixels * channels);
    sample(moments, noise, statistics, pixels, channels, latents);
done:
    zoe_free(be->ctx, moments);
    zoe_free(be->ctx, noise);
    zoe_free(be->ctx, statistics);
    status = zoe_ltx_vae_release(vae, ZOE_LTX_VAE_ENCODER_UNIT, status);
    zoe_arena_release(be, mark);
    return status;
}
