/* Latents to frames, chunk by chunk. */
#include "models/cogvideox/vae_blocks.h"

/* One decoding in progress. */
typedef struct decoding {
    zoe_cogvideox_vae *vae;
    zoe_film film;
} decoding;

static int begin(zoe_cogvideox_vae *vae, int64_t height, int64_t width) {
    zoe_backend *be = vae->be;
    cogvideox_coder *coder = &vae->decoder;
    ZOE_TRY(zoe_carrier_begin(be, &coder->conv_in, height, width, 0));
    ZOE_TRY(zoe_cogvideox_begin_resnets(be, coder->mid, 2, height, width));
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        cogvideox_level *level = &coder->levels[i];
        ZOE_TRY(zoe_cogvideox_begin_resnets(be, level->resnets, level->resnet_count, height, width));
        if (level->resample) height *= 2, width *= 2;
    }
    return zoe_carrier_begin(be, &coder->conv_out, height, width, 0);
}

/* Room for what a level makes of x; where it doubles time, the first frame of an odd number stands alone. */
static int new_enlarged(zoe_backend *be, const cogvideox_level *level, const zoe_tensor *x, zoe_tensor *y) {
    int64_t frames = level->temporal ? 2 * x->shape[0] - x->shape[0] % 2 : x->shape[0];
    return ZOE_NEW(be, y, be->dtype, frames, 2 * x->shape[1], 2 * x->shape[2], level->out);
}

/* y: every frame of x enlarged, followed by its copy where the level doubles time. */
static int enlarge(zoe_backend *be, const cogvideox_level *level, const zoe_tensor *x, zoe_tensor *y) {
    int64_t frames = x->shape[0], alone = frames % 2, at = 0;
    if (!level->temporal) return zoe_carrier_enlarge(be, &level->space, NULL, y, x);
    for (int64_t i = 0; i < frames; i++) {
        zoe_tensor from = zoe_view_slice(x, 0, i, 1), to = zoe_view_slice(y, 0, at++, 1);
        ZOE_TRY(zoe_carrier_enlarge(be, &level->space, NULL, &to, &from));
        if (i < alone) continue;
        zoe_tensor copy = zoe_view_slice(y, 0, at++, 1);
        ZOE_TRY(zoe_op_copy(be, &copy, &to));
    }
    return ZOE_OK;
}

/* The frames of a chunk to the host and on. */
static int emit(decoding *d, const zoe_tensor *x) {
    zoe_tensor pixels = ZOE_VIEW(x, x->shape[0], x->shape[1], 1, x->shape[2], 1, 3);
    return zoe_film_add(&d->film, &pixels);
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

/* Whole frames, or those of a tile. */
static int run_whole(decoding *d, const zoe_tensor *latents) {
    zoe_cogvideox_vae *vae = d->vae;
    zoe_backend *be = vae->be;
    int64_t frames = latents->shape[0];
    size_t all = zoe_arena_mark(be);
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
    zoe_arena_release(be, all);
    return zoe_film_flush(&d->film);
}

static int run_tiles(decoding *d, const zoe_tensor *latents, const zoe_tiles *tiles) {
    const int64_t *shape = latents->shape;
    int64_t start[2], tile[2], size[2], stride[2];
    for (int i = 0; i < 2; i++)
        size[i] = tiles->size[i] / ZOE_COGVIDEOX_VAE_SPACE, stride[i] = tiles->stride[i] / ZOE_COGVIDEOX_VAE_SPACE;
    for (start[0] = 0; start[0] < shape[2]; start[0] += stride[0])
        for (start[1] = 0; start[1] < shape[3]; start[1] += stride[1]) {
            zoe_tensor part = *latents;
            for (int i = 0; i < 2; i++) {
                int64_t rest = shape[2 + i] - start[i];
                part = zoe_view_slice(&part, 2 + i, start[i], rest < size[i] ? rest : size[i]);
                tile[i] = start[i] / stride[i];
            }
            bool last = start[0] + stride[0] >= shape[2] && start[1] + stride[1] >= shape[3];
            ZOE_TRY(zoe_film_next_part(&d->film, tile, last));
            ZOE_TRY(run_whole(d, &part));
        }
    return ZOE_OK;
}

/*
 * In whole frames, or as the reference divides them: norms are taken over whole frames, so that no parts give the same
 * numbers.
 */
static int run_clip(decoding *d, const zoe_tensor *latents, const zoe_tiling *tiling) {
    zoe_tiles tiles;
    int64_t frames = latents->shape[0], odd = frames % 2, size[2] = {latents->shape[2], latents->shape[3]};
    if (tiling->kind == ZOE_TILING_NONE) return run_whole(d, latents);
    ZOE_TRY(zoe_cogvideox_vae_tiles(d->vae, &tiles));
    for (int i = 0; i < 2; i++) size[i] *= ZOE_COGVIDEOX_VAE_SPACE;
    if (size[0] <= tiles.size[0] && size[1] <= tiles.size[1]) return run_whole(d, latents);
    ZOE_TRY(zoe_film_divide(&d->film, (frames - odd) * ZOE_COGVIDEOX_VAE_TIME + odd, &tiles));
    return run_tiles(d, latents, &tiles);
}

int zoe_cogvideox_vae_decode(zoe_cogvideox_vae *vae, const zoe_tensor *latents, const zoe_tiling *tiling,
                             zoe_frame_sink sink, void *user) {
    zoe_backend *be = vae->be;
    size_t mark = zoe_arena_mark(be);
    decoding d = {.vae = vae};
    zoe_film_open(be, latents->shape[2] * ZOE_COGVIDEOX_VAE_SPACE, latents->shape[3] * ZOE_COGVIDEOX_VAE_SPACE, false, sink,
                  user, &d.film);
    int status = zoe_weights_acquire(vae->weights, ZOE_COGVIDEOX_VAE_DECODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&d, latents, tiling);
        status = zoe_weights_release(vae->weights, ZOE_COGVIDEOX_VAE_DECODER_UNIT, status);
    }
    zoe_arena_release(be, mark);
    zoe_film_close(&d.film);
    return status;
}
