/* Latents to frames, chunk by chunk. */
#include <math.h>

#include "models/cogvideox/vae_blocks.h"

/* One decoding in progress. */
typedef struct decoding {
    zoe_cogvideox_vae *vae;
    float *frame; /* [height, width, 3] on the host */
    zoe_cogvideox_frame_sink sink;
    void *user;
} decoding;

static int begin(zoe_cogvideox_vae *vae, int64_t height, int64_t width) {
    zoe_backend *be = vae->be;
    cogvideox_coder *coder = &vae->decoder;
    ZOE_TRY(zoe_cogvideox_begin_conv(be, &coder->conv_in, height, width));
    ZOE_TRY(zoe_cogvideox_begin_resnets(be, coder->mid, 2, height, width));
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        cogvideox_level *level = &coder->levels[i];
        ZOE_TRY(zoe_cogvideox_begin_resnets(be, level->resnets, level->resnet_count, height, width));
        if (level->resample) height *= 2, width *= 2;
    }
    return zoe_cogvideox_begin_conv(be, &coder->conv_out, height, width);
}

/* Room for what a level makes of x; where it doubles time, the first frame of an odd number stands alone. */
static int new_enlarged(zoe_backend *be, const cogvideox_level *level, const zoe_tensor *x, zoe_tensor *y) {
    int64_t frames = level->temporal ? 2 * x->shape[0] - x->shape[0] % 2 : x->shape[0];
    return ZOE_NEW(be, y, be->dtype, frames, 2 * x->shape[1], 2 * x->shape[2], level->out);
}

/* y: every frame of x enlarged, followed by its copy where the level doubles time. */
static int enlarge(zoe_backend *be, const cogvideox_level *level, const zoe_tensor *x, zoe_tensor *y) {
    int64_t frames = x->shape[0], alone = frames % 2, at = 0;
    zoe_conv p = {.kernel = {1, 3, 3},
                  .stride = {1, 1, 1},
                  .pad = {{0, 0}, {1, 1}, {1, 1}},
                  .upsample = 2,
                  .bias = &level->space.b};
    for (int64_t i = 0; i < frames; i++) {
        zoe_tensor from = zoe_view_slice(x, 0, i, 1), to = zoe_view_slice(y, 0, at++, 1);
        ZOE_TRY(zoe_op_conv(be, &to, &from, &level->space.w, &p));
        if (!level->temporal || i < alone) continue;
        zoe_tensor copy = zoe_view_slice(y, 0, at++, 1);
        ZOE_TRY(zoe_op_copy(be, &copy, &to));
    }
    return ZOE_OK;
}

/* The frames of a chunk to the host and on. */
static int emit(decoding *d, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    zoe_tensor pixels;
    ZOE_TRY(ZOE_NEW(be, &pixels, ZOE_F32, 1, x->shape[1], x->shape[2], 3));
    for (int64_t i = 0; i < x->shape[0]; i++) {
        zoe_tensor frame = zoe_view_slice(x, 0, i, 1);
        ZOE_TRY(zoe_op_copy(be, &pixels, &frame));
        ZOE_TRY(zoe_download(be, d->frame, &pixels));
        for (int64_t j = 0; j < zoe_tensor_count(&pixels); j++)
            if (!isfinite(d->frame[j]))
                return zoe_fail(be->ctx, ZOE_ERR_NUMERIC, "the VAE decoded a pixel that is not a number");
        ZOE_TRY(d->sink(d->user, d->frame));
    }
    return ZOE_OK;
}

/* One chunk z [frames, height, width, channels], unscaled, through the decoder. */
static int run_chunk(decoding *d, const zoe_tensor *z) {
    zoe_cogvideox_vae *vae = d->vae;
    zoe_backend *be = vae->be;
    cogvideox_coder *coder = &vae->decoder;
    zoe_tensor x, y, larger;
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, z->shape[0], z->shape[1], z->shape[2], coder->levels[0].in));
    ZOE_TRY(zoe_cogvideox_conv(be, &coder->conv_in, &x, z, NULL));
    ZOE_TRY(zoe_cogvideox_resnets(vae, coder->mid, 2, z, &x, &y));
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        cogvideox_level *level = &coder->levels[i];
        ZOE_TRY(zoe_check_cancelled(be->ctx));
        x = y;
        if (level->resample) ZOE_TRY(new_enlarged(be, level, &x, &larger));
        size_t mark = zoe_arena_mark(be);
        ZOE_TRY(zoe_cogvideox_resnets(vae, level->resnets, level->resnet_count, z, &x, &y));
        if (!level->resample) continue;
        ZOE_TRY(enlarge(be, level, &y, &larger));
        zoe_arena_release(be, mark);
        y = larger;
    }
    ZOE_TRY(zoe_cogvideox_norm_silu(vae, &coder->norm_out, &y, &y, z));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, y.shape[0], y.shape[1], y.shape[2], 3));
    ZOE_TRY(zoe_cogvideox_conv(be, &coder->conv_out, &x, &y, NULL));
    return emit(d, &x);
}

static int run_clip(decoding *d, const zoe_tensor *latents) {
    zoe_cogvideox_vae *vae = d->vae;
    zoe_backend *be = vae->be;
    int64_t frames = latents->shape[0];
    zoe_tensor z;
    ZOE_TRY(begin(vae, latents->shape[2], latents->shape[3]));
    for (int64_t start = 0, count; start < frames; start += count) {
        count = frames == 1 ? 1 : start == 0 ? 2 + frames % 2 : 2;
        size_t mark = zoe_arena_mark(be);
        zoe_tensor part = zoe_view_slice(latents, 0, start, count),
                   from = zoe_view_permute(&part, (const int[]){0, 2, 3, 1});
        ZOE_TRY(zoe_new_tensor(be, &z, be->dtype, 4, from.shape));
        ZOE_TRY(zoe_op_lincomb(be, &z, 1, (const zoe_tensor *[]){&from}, (float[]){(float)(1 / vae->config.scale)}));
        ZOE_TRY(run_chunk(d, &z));
        zoe_arena_release(be, mark);
    }
    return ZOE_OK;
}

int zoe_cogvideox_vae_decode(zoe_cogvideox_vae *vae, const zoe_tensor *latents, zoe_cogvideox_frame_sink sink, void *user) {
    zoe_backend *be = vae->be;
    size_t mark = zoe_arena_mark(be);
    int64_t pixels = latents->shape[2] * latents->shape[3] * ZOE_COGVIDEOX_VAE_SPACE * ZOE_COGVIDEOX_VAE_SPACE;
    decoding d = {.vae = vae, .sink = sink, .user = user};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, d.frame, pixels * 3));
    int status = zoe_weights_acquire(vae->weights, ZOE_COGVIDEOX_VAE_DECODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&d, latents);
        zoe_weights_release(vae->weights, ZOE_COGVIDEOX_VAE_DECODER_UNIT);
    }
    zoe_arena_release(be, mark);
    zoe_free(be->ctx, d.frame);
    return status;
}
