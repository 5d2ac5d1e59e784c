/* Frames to latents. */
#include "models/wan/vae_blocks.h"

/* One encoding in progress. */
typedef struct encoding {
    zoe_wan_vae *vae;
    bool first;          /* the frame in flight is frame 0 */
    zoe_tensor *latents; /* [channels, frames, height, width] */
    int64_t done;        /* latent frames written */
    zoe_tensor scale, shift;
} encoding;

static int begin(zoe_wan_vae *vae, int64_t height, int64_t width) {
    zoe_backend *be = vae->be;
    wan_coder *coder = &vae->encoder;
    int64_t size[2] = {height, width};
    ZOE_TRY(zoe_carrier_begin_zero(be, &coder->conv_in, height, width, 0));
    for (int i = 0; i < ZOE_WAN_VAE_LEVELS; i++) {
        wan_level *level = &coder->levels[i];
        ZOE_TRY(zoe_wan_begin_resnets(be, level->resnets, level->resnet_count, &level->rooms, NULL, size));
        if (level->temporal && vae->config.residual)
            ZOE_TRY(ZOE_NEW(be, &level->kept, be->dtype, 1, size[0], size[1], level->in));
        if (level->resample) size[0] /= 2, size[1] /= 2;
        if (level->temporal) ZOE_TRY(ZOE_NEW(be, &level->window, be->dtype, 3, size[0], size[1], level->out));
        level->waiting = 0;
    }
    ZOE_TRY(zoe_wan_begin_mid(be, coder, size[0], size[1]));
    return zoe_carrier_begin_zero(be, &coder->conv_out, size[0], size[1], coder->mid_rooms.values);
}

/*
 * 2.2: y += the mean over groups of x's channels and the pixels (of `frames` frames: `before`, then x; before NULL: zeros)
 * that one pixel of y stands for.
 */
static int add_averaged(zoe_backend *be, const zoe_tensor *before, const zoe_tensor *x, int64_t frames, int64_t space,
                        zoe_tensor *y) {
    int64_t in = x->shape[3], out = y->shape[3], cells = frames * space * space, group = in * cells / out;
    /* Packed channel (c * cells + cell) belongs to output channel (c * cells + cell) / group. */
    int64_t per_in = group < cells ? cells / group : 1;  /* output channels fed by one input channel */
    int64_t per_out = group < cells ? 1 : group / cells; /* input channels that feed one output channel */
    for (int64_t cell = 0; cell < cells; cell++) {
        const zoe_tensor *from = frames == 1 || cell / (space * space) == 1 ? x : before;
        if (!from) continue;
        int64_t row = cell / space % space, column = cell % space;
        for (int64_t i = 0; i < per_out; i++) {
            zoe_tensor source = zoe_view_slice(from, 1, row, y->shape[1]), target = *y;
            source = zoe_view_slice(&source, 2, column, y->shape[2]);
            source = zoe_view_slice(&source, 3, i, in / per_out);
            source.stride[1] *= space, source.stride[2] *= space, source.stride[3] = per_out;
            target = zoe_view_slice(&target, 3, per_in > 1 ? cell / group : 0, in / per_out);
            target.stride[3] = per_in;
            ZOE_TRY(
                zoe_op_lincomb(be, &target, 2, (const zoe_tensor *[]){&target, &source}, (float[]){1, 1 / (float)group}));
        }
    }
    return ZOE_OK;
}

/* Halves height and width; the reference pads one row below and one column to the right. */
static int shrink(zoe_backend *be, wan_level *level, const zoe_tensor *x, zoe_tensor *y) {
    zoe_conv p = {.kernel = {1, 3, 3},
                  .stride = {1, 2, 2},
                  .pad = {{0, 0}, {0, 1}, {0, 1}},
                  .upsample = 1,
                  .bias = &level->space.b};
    return zoe_op_conv(be, y, x, &level->space.w, &p);
}

/*
 * Puts a shrunk frame x into the level's window. The first frame of a clip passes as it is; of the others two at a time
 * become one. *ready: y holds a frame.
 */
static int halve_time(zoe_backend *be, wan_level *level, bool first, const zoe_tensor *x, zoe_tensor *y, bool *ready) {
    zoe_tensor last = zoe_view_slice(&level->window, 0, 0, 1),
               next = zoe_view_slice(&level->window, 0, 1 + level->waiting, 1);
    if (first) {
        *ready = true;
        ZOE_TRY(zoe_op_copy(be, &last, x));
        return zoe_op_copy(be, y, x);
    }
    ZOE_TRY(zoe_op_copy(be, &next, x));
    *ready = level->waiting == 1;
    level->waiting = !level->waiting;
    if (!*ready) return ZOE_OK;
    zoe_conv p = {.kernel = {3, 1, 1}, .stride = {2, 1, 1}, .upsample = 1, .bias = &level->time.b};
    ZOE_TRY(zoe_op_conv(be, y, &level->window, &level->time.w, &p));
    return zoe_op_copy(be, &last, &next);
}

/* The tail of the encoder: one latent frame, normalised, into its place. */
static int finish_frame(encoding *e, zoe_tensor *x) {
    zoe_wan_vae *vae = e->vae;
    zoe_backend *be = vae->be;
    int64_t channels = vae->config.channels, height = x->shape[1], width = x->shape[2];
    zoe_tensor moments, quantised, mode;
    ZOE_TRY(zoe_wan_mid(be, &vae->encoder, x));
    ZOE_TRY(ZOE_NEW(be, &moments, be->dtype, 1, height, width, 2 * channels));
    ZOE_TRY(ZOE_NEW(be, &quantised, be->dtype, 1, height, width, 2 * channels));
    ZOE_TRY(ZOE_NEW(be, &mode, ZOE_F32, 1, height, width, channels));
    ZOE_TRY(zoe_wan_head(be, &vae->encoder, &vae->encoder.mid_rooms, NULL, x, &moments));
    ZOE_TRY(zoe_carrier_run(be, &vae->quant, NULL, &quantised, &moments, NULL));
    zoe_tensor mean = zoe_view_slice(&quantised, 3, 0, channels);
    ZOE_TRY(zoe_op_copy(be, &mode, &mean));
    ZOE_TRY(zoe_op_scale_shift(be, &mode, &mode, &e->scale, &e->shift));
    zoe_tensor to = zoe_view_slice(e->latents, 1, e->done++, 1), from = zoe_view_permute(&mode, (const int[]){3, 0, 1, 2});
    return zoe_op_copy(be, &to, &from);
}

/* One frame through this level and all below it; x is used up. */
static int run_level(encoding *e, int index, zoe_tensor *x) {
    zoe_backend *be = e->vae->be;
    bool residual = e->vae->config.residual, ready = true;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y, shrunk, out;
    ZOE_TRY(zoe_check_cancelled(be->ctx));
    if (index == ZOE_WAN_VAE_LEVELS) {
        ZOE_TRY(finish_frame(e, x));
        zoe_arena_release(be, mark);
        return ZOE_OK;
    }
    wan_level *level = &e->vae->encoder.levels[index];
    ZOE_TRY(zoe_wan_resnets(be, level->resnets, level->resnet_count, &level->rooms, NULL, residual, x, &y));
    out = y;
    if (level->resample) {
        ZOE_TRY(ZOE_NEW(be, &shrunk, be->dtype, 1, y.shape[1] / 2, y.shape[2] / 2, level->out));
        ZOE_TRY(shrink(be, level, &y, &shrunk));
        out = shrunk;
    }
    if (level->temporal) {
        ZOE_TRY(zoe_new_tensor(be, &out, be->dtype, 4, shrunk.shape));
        ZOE_TRY(halve_time(be, level, e->first, &shrunk, &out, &ready));
    }
    if (residual && ready)
        ZOE_TRY(
            add_averaged(be, e->first ? NULL : &level->kept, x, level->temporal ? 2 : 1, level->resample ? 2 : 1, &out));
    if (residual && level->temporal && !ready) ZOE_TRY(zoe_op_copy(be, &level->kept, x));
    if (ready) ZOE_TRY(run_level(e, index + 1, &out));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* Frame `index` from the source, its pixels packed into channels, through the encoder. */
static int run_frame(encoding *e, int64_t index, zoe_wan_frame_source source, void *user, float *host, int64_t height,
                     int64_t width) {
    zoe_wan_vae *vae = e->vae;
    zoe_backend *be = vae->be;
    int64_t patch = vae->config.patch, h = height / patch, w = width / patch;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor pixels, packed, x;
    e->first = index == 0;
    ZOE_TRY(source(user, index, host));
    ZOE_TRY(zoe_nn_from_host(be, &pixels, ZOE_F32, 5, (const int64_t[]){h, patch, w, patch, 3}, host));
    ZOE_TRY(ZOE_NEW(be, &packed, be->dtype, 1, h, w, 3 * patch * patch));
    zoe_tensor to = ZOE_VIEW(&packed, h, w, 3, patch, patch);
    zoe_tensor from = zoe_view_permute(&pixels, (const int[]){0, 2, 4, 3, 1}); /* colour, then column, then row */
    ZOE_TRY(zoe_op_copy(be, &to, &from));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, 1, h, w, vae->config.base));
    ZOE_TRY(zoe_carrier_run(be, &vae->encoder.conv_in, NULL, &x, &packed, NULL));
    ZOE_TRY(zoe_carrier_copy(be, &vae->encoder.conv_in, &packed));
    ZOE_TRY(run_level(e, 0, &x));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int run_clip(encoding *e, int64_t frames, zoe_wan_frame_source source, void *user, float *host) {
    zoe_wan_vae *vae = e->vae;
    int64_t channels = vae->config.channels, factor = zoe_wan_vae_space_factor(&vae->config);
    int64_t height = e->latents->shape[2] * factor, width = e->latents->shape[3] * factor;
    for (int64_t i = 0; i < channels; i++) {
        host[i] = (float)(1 / vae->config.std[i]);
        host[channels + i] = (float)(-vae->config.mean[i] / vae->config.std[i]);
    }
    ZOE_TRY(zoe_nn_from_host(vae->be, &e->scale, ZOE_F32, 1, &channels, host));
    ZOE_TRY(zoe_nn_from_host(vae->be, &e->shift, ZOE_F32, 1, &channels, host + channels));
    ZOE_TRY(begin(vae, height / vae->config.patch, width / vae->config.patch));
    for (int64_t i = 0; i < frames; i++) ZOE_TRY(run_frame(e, i, source, user, host, height, width));
    return ZOE_OK;
}

int zoe_wan_vae_encode(zoe_wan_vae *vae, int64_t frames, zoe_wan_frame_source source, void *user, zoe_tensor *latents) {
    zoe_backend *be = vae->be;
    int64_t factor = zoe_wan_vae_space_factor(&vae->config);
    size_t mark = zoe_arena_mark(be);
    encoding e = {.vae = vae, .latents = latents};
    int64_t pixels = latents->shape[2] * factor * latents->shape[3] * factor * 3;
    float *host;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, host, pixels + 2 * vae->config.channels));
    int status = zoe_weights_acquire(vae->weights, ZOE_WAN_VAE_ENCODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&e, frames, source, user, host);
        status = zoe_weights_release(vae->weights, ZOE_WAN_VAE_ENCODER_UNIT, status);
    }
    zoe_arena_release(be, mark);
    zoe_free(be->ctx, host);
    return status;
}
