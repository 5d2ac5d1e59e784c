/* Latents to frames. */
#include <math.h>

#include "models/wan/vae_blocks.h"

/* One decoding in progress. */
typedef struct decoding {
    zoe_wan_vae *vae;
    bool first;   /* the frame in flight stems from latent frame 0 */
    float *frame; /* [height, width, 3] on the host */
    int64_t values;
    bool pending; /* a frame is on its way into it */
    zoe_wan_frame_sink sink;
    void *user;
} decoding;

static int begin(zoe_wan_vae *vae, int64_t height, int64_t width) {
    zoe_backend *be = vae->be;
    wan_coder *coder = &vae->decoder;
    ZOE_TRY(zoe_wan_begin_conv(be, &coder->conv_in, height, width));
    ZOE_TRY(zoe_wan_begin_resnets(be, coder->mid, 2, height, width));
    for (int i = 0; i < ZOE_WAN_VAE_LEVELS; i++) {
        wan_level *level = &coder->levels[i];
        ZOE_TRY(zoe_wan_begin_resnets(be, level->resnets, level->resnet_count, height, width));
        if (level->temporal) ZOE_TRY(zoe_wan_begin_conv(be, &level->time, height, width));
        if (level->resample) height *= 2, width *= 2;
    }
    return zoe_wan_begin_conv(be, &coder->conv_out, height, width);
}

/* Waits for the frame that is on its way to the host and passes it on. */
static int pass_frame(decoding *d) {
    zoe_backend *be = d->vae->be;
    if (!d->pending) return ZOE_OK;
    d->pending = false;
    ZOE_TRY(zoe_download_end(be));
    for (int64_t i = 0; i < d->values; i++) {
        if (!isfinite(d->frame[i]))
            return zoe_fail(be->ctx, ZOE_ERR_NUMERIC, "the VAE decoded a pixel that is not a number");
        d->frame[i] = fminf(fmaxf(d->frame[i], -1), 1);
    }
    return d->sink(d->user, d->frame);
}

/* Pixels out of their packing and on their way to the host; the frame before goes on while these are computed. */
static int emit(decoding *d, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    int64_t patch = d->vae->config.patch, height = x->shape[1], width = x->shape[2];
    zoe_tensor pixels;
    ZOE_TRY(ZOE_NEW(be, &pixels, ZOE_F32, height, patch, width, patch, 3));
    /* A packed channel counts colour, then column, then row. */
    zoe_tensor packed = ZOE_VIEW(x, height, width, 3, patch, patch);
    zoe_tensor from = zoe_view_permute(&packed, (const int[]){0, 4, 1, 3, 2});
    ZOE_TRY(zoe_op_copy(be, &pixels, &from));
    ZOE_TRY(pass_frame(d));
    d->pending = true;
    d->values = zoe_tensor_count(&pixels);
    return zoe_download_begin(be, d->frame, &pixels);
}

/*
 * 2.2: y += x with every channel repeated and spread over the resampled frame's pixels; `at`: which of `frames` frames y
 * is.
 */
static int add_duplicated(zoe_backend *be, const zoe_tensor *x, int64_t frames, int64_t at, zoe_tensor *y) {
    int64_t in = x->shape[3], out = y->shape[3], cells = frames * 4, repeats = out * cells / in;
    for (int64_t cell = 0; cell < 4; cell++) {
        zoe_tensor from = *x, rows = zoe_view_split(y, 1, 2), to;
        rows = zoe_view_slice(&rows, 2, cell / 2, 1);
        to = zoe_view_split(&rows, 3, 2);
        to = zoe_view_slice(&to, 4, cell % 2, 1); /* [1, height, 1, width, 1, out] */
        /* Output channel c takes input channel (c * cells + at * 4 + cell) / repeats. */
        if (repeats <= cells) {
            from = zoe_view_slice(&from, 3, (at * 4 + cell) / repeats, out);
            from.stride[3] = cells / repeats;
            from = (zoe_tensor){.dtype = x->dtype,
                                .rank = 6,
                                .data = from.data,
                                .shape = {1, x->shape[1], 1, x->shape[2], 1, out},
                                .stride = {0, x->stride[1], 0, x->stride[2], 0, from.stride[3]}};
            ZOE_TRY(zoe_op_lincomb(be, &to, 2, (const zoe_tensor *[]){&to, &from}, (float[]){1, 1}));
            continue;
        }
        int64_t share = repeats / cells; /* output channels fed by one input channel */
        for (int64_t i = 0; i < share; i++) {
            zoe_tensor part = zoe_view_slice(&to, 5, i, in);
            part.stride[5] = share;
            from = (zoe_tensor){.dtype = x->dtype,
                                .rank = 6,
                                .data = x->data,
                                .shape = {1, x->shape[1], 1, x->shape[2], 1, in},
                                .stride = {0, x->stride[1], 0, x->stride[2], 0, 1}};
            ZOE_TRY(zoe_op_lincomb(be, &part, 2, (const zoe_tensor *[]){&part, &from}, (float[]){1, 1}));
        }
    }
    return ZOE_OK;
}

static int run_level(decoding *d, int index, const zoe_tensor *x);

/* Enlarges one frame after time resampling (number `at` of `frames`) and passes it on. `top`: the level's input. */
static int enlarge(decoding *d, int index, const zoe_tensor *x, const zoe_tensor *top, int64_t frames, int64_t at) {
    zoe_backend *be = d->vae->be;
    wan_level *level = &d->vae->decoder.levels[index];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y;
    zoe_conv p = {.kernel = {1, 3, 3},
                  .stride = {1, 1, 1},
                  .pad = {{0, 0}, {1, 1}, {1, 1}},
                  .upsample = 2,
                  .bias = &level->space.b};
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, 2 * x->shape[1], 2 * x->shape[2], level->resampled));
    ZOE_TRY(zoe_op_conv(be, &y, x, &level->space.w, &p));
    if (d->vae->config.residual) ZOE_TRY(add_duplicated(be, top, frames, at, &y));
    ZOE_TRY(run_level(d, index + 1, &y));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* One frame [1, height, width, channels] through this level and all below it. */
static int run_level(decoding *d, int index, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    wan_coder *coder = &d->vae->decoder;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y, both, one;
    ZOE_TRY(zoe_check_cancelled(be->ctx));
    if (index == ZOE_WAN_VAE_LEVELS) {
        ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, x->shape[1], x->shape[2], coder->conv_out.w.shape[0]));
        ZOE_TRY(zoe_wan_head(be, coder, x, &y));
        ZOE_TRY(emit(d, &y));
        zoe_arena_release(be, mark);
        return ZOE_OK;
    }
    wan_level *level = &coder->levels[index];
    ZOE_TRY(zoe_wan_resnets(be, level->resnets, level->resnet_count, x, &y));
    int64_t frames = level->temporal ? 2 : 1, height = y.shape[1], width = y.shape[2];
    if (!level->resample) {
        ZOE_TRY(run_level(d, index + 1, &y));
    } else if (frames == 1 || d->first) {
        ZOE_TRY(enlarge(d, index, &y, x, frames, frames - 1));
    } else {
        ZOE_TRY(ZOE_NEW(be, &both, be->dtype, 1, height, width, 2 * level->out));
        ZOE_TRY(ZOE_NEW(be, &one, be->dtype, 1, height, width, level->out));
        ZOE_TRY(zoe_wan_conv(be, &level->time, &both, &y, NULL));
        for (int64_t i = 0; i < 2; i++) {
            zoe_tensor half = zoe_view_slice(&both, 3, i * level->out, level->out);
            ZOE_TRY(zoe_op_copy(be, &one, &half));
            ZOE_TRY(enlarge(d, index, &one, x, frames, i));
        }
    }
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* Latent frame number `index`, denormalised and channels-last, through the decoder. */
static int run_frame(decoding *d, const zoe_tensor *latents, int64_t index, const zoe_tensor *mean, const zoe_tensor *std) {
    zoe_wan_vae *vae = d->vae;
    zoe_backend *be = vae->be;
    int64_t channels = latents->shape[0], height = latents->shape[2], width = latents->shape[3];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor z, quantised, x, y;
    zoe_tensor frame = zoe_view_slice(latents, 1, index, 1), from = zoe_view_permute(&frame, (const int[]){1, 2, 3, 0});
    d->first = index == 0;
    ZOE_TRY(ZOE_NEW(be, &z, be->dtype, 1, height, width, channels));
    ZOE_TRY(ZOE_NEW(be, &quantised, be->dtype, 1, height, width, channels));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, 1, height, width, vae->decoder.levels[0].in));
    ZOE_TRY(zoe_op_copy(be, &z, &from));
    ZOE_TRY(zoe_op_scale_shift(be, &z, &z, std, mean));
    ZOE_TRY(zoe_wan_conv(be, &vae->post_quant, &quantised, &z, NULL));
    ZOE_TRY(zoe_wan_conv(be, &vae->decoder.conv_in, &x, &quantised, NULL));
    ZOE_TRY(zoe_wan_mid(be, &vae->decoder, &x, &y));
    ZOE_TRY(run_level(d, 0, &y));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int run_clip(decoding *d, const zoe_tensor *latents) {
    zoe_wan_vae *vae = d->vae;
    int64_t channels = vae->config.channels;
    zoe_tensor mean, std;
    float *statistics;
    ZOE_TRY(ZOE_NEW_ARRAY(vae->be->ctx, statistics, 2 * channels));
    for (int64_t i = 0; i < channels; i++) {
        statistics[i] = (float)vae->config.mean[i];
        statistics[channels + i] = (float)vae->config.std[i];
    }
    int status = zoe_nn_from_host(vae->be, &mean, ZOE_F32, 1, &channels, statistics);
    if (status == ZOE_OK) status = zoe_nn_from_host(vae->be, &std, ZOE_F32, 1, &channels, statistics + channels);
    zoe_free(vae->be->ctx, statistics);
    ZOE_TRY(status);
    ZOE_TRY(begin(vae, latents->shape[2], latents->shape[3]));
    for (int64_t i = 0; i < latents->shape[1]; i++) ZOE_TRY(run_frame(d, latents, i, &mean, &std));
    return pass_frame(d);
}

int zoe_wan_vae_decode(zoe_wan_vae *vae, const zoe_tensor *latents, zoe_wan_frame_sink sink, void *user) {
    zoe_backend *be = vae->be;
    int64_t factor = zoe_wan_vae_space_factor(&vae->config);
    size_t mark = zoe_arena_mark(be);
    decoding d = {.vae = vae, .sink = sink, .user = user};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, d.frame, latents->shape[2] * factor * latents->shape[3] * factor * 3));
    int status = zoe_weights_acquire(vae->weights, ZOE_WAN_VAE_DECODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&d, latents);
        zoe_weights_release(vae->weights, ZOE_WAN_VAE_DECODER_UNIT);
    }
    zoe_arena_release(be, mark);
    zoe_free(be->ctx, d.frame);
    return status;
}
