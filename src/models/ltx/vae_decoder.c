/*
 * Latents to frames. The decoder is a chain of stages. A frame is handed to the first; each stage hands on the frames that
 * it can finish, at the end of the clip those that it still owes, and then the end itself.
 */
#include <math.h>
#include <string.h>

#include "models/ltx/vae_blocks.h"

#define FREQ_DIM    256
#define MOST_STAGES ((ZOE_LTX_VAE_LEVELS + 1) * (ZOE_LTX_VAE_RESNETS + 2) + 2)

typedef enum stage_kind { STAGE_IN, STAGE_RESNET, STAGE_ENLARGE, STAGE_OUT } stage_kind;

typedef struct stage {
    stage_kind kind;
    ltx_resnet *resnet;
    ltx_level *level;
    int index; /* of the level */
} stage;

/* One decoding in progress. */
typedef struct decoding {
    zoe_ltx_vae *vae;
    zoe_generator *generator;
    stage stages[MOST_STAGES];
    int count;
    float *frame; /* [height, width, 3] on the host */
    zoe_ltx_frame_sink sink;
    void *user;
} decoding;

/* Hands x [1, height, width, channels], or the end (NULL), to a stage. */
static int feed(decoding *d, int at, const zoe_tensor *x);

/* ---- convolutions over a stream ---- */

static int begin_conv(zoe_backend *be, ltx_conv *conv, int64_t height, int64_t width) {
    conv->begun = false;
    return ZOE_NEW(be, &conv->history, be->dtype, 2, height, width, conv->w.shape[4]);
}

/*
 * Takes the next frame, or the end (NULL): y = conv around the frame before + residual. The first frame makes nothing, as
 * the one after it is not known yet: *made says whether there is a y.
 */
static int push(zoe_backend *be, ltx_conv *conv, const zoe_tensor *x, const zoe_tensor *residual, zoe_tensor *y,
                bool *made) {
    zoe_tensor older = zoe_view_slice(&conv->history, 0, 0, 1), newer = zoe_view_slice(&conv->history, 0, 1, 1);
    zoe_conv p = {.kernel = {3, 3, 3},
                  .stride = {1, 1, 1},
                  .pad = {{0, 0}, {1, 1}, {1, 1}},
                  .upsample = 1,
                  .history = &conv->history,
                  .bias = &conv->b,
                  .residual = residual};
    *made = conv->begun;
    if (!x) return zoe_op_conv(be, y, &newer, &conv->w, &p);
    if (conv->begun) {
        ZOE_TRY(zoe_op_conv(be, y, x, &conv->w, &p));
        ZOE_TRY(zoe_op_copy(be, &older, &newer));
    } else {
        ZOE_TRY(zoe_op_copy(be, &older, x));
    }
    conv->begun = true;
    return zoe_op_copy(be, &newer, x);
}

/* y = silu(norm(x) * (1 + scale) + shift); rows [.., channels] with the shift at row `at` and the scale behind it, or none
 */
static int norm_silu(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *rows, int64_t at) {
    zoe_norm p = {.kind = ZOE_NORM_RMS, .eps = ZOE_LTX_VAE_EPS, .act = ZOE_ACT_SILU};
    zoe_tensor shift, scale;
    if (rows->rank) {
        shift = zoe_view_slice(rows, 0, at, 1), scale = zoe_view_slice(rows, 0, at + 1, 1);
        p.shift = &shift, p.scale = &scale;
    }
    return zoe_op_norm(be, y, x, &p);
}

/* ---- resnets ---- */

/* x += drawn * how much each channel takes */
static int add_noise(zoe_backend *be, zoe_tensor *x, const zoe_tensor *drawn, const zoe_tensor *amount) {
    int64_t pixels = x->shape[1] * x->shape[2], channels = x->shape[3];
    size_t mark = zoe_arena_mark(be);
    if (!drawn->rank) return ZOE_OK;
    zoe_tensor noise, spread = *drawn, rows = ZOE_VIEW(x, pixels, channels), each = ZOE_VIEW(amount, channels);
    spread.shape[1] = channels, spread.stride[1] = 0;
    ZOE_TRY(ZOE_NEW(be, &noise, be->dtype, pixels, channels));
    ZOE_TRY(zoe_op_scale_shift(be, &noise, &spread, &each, NULL));
    ZOE_TRY(zoe_op_lincomb(be, &rows, 2, (const zoe_tensor *[]){&rows, &noise}, (float[]){1, 1}));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* *residual: what stands beside the next frame that a resnet makes */
static int take_shortcut(decoding *d, const ltx_resnet *r, zoe_tensor *residual) {
    zoe_backend *be = d->vae->be;
    zoe_tensor kept = zoe_view_slice(&r->kept, 0, r->made % 2, 1), n;
    zoe_conv p = {.kernel = {1, 1, 1}, .stride = {1, 1, 1}, .upsample = 1, .bias = &r->shortcut.b};
    *residual = kept;
    if (!r->shortcut.w.rank) return ZOE_OK;
    ZOE_TRY(ZOE_NEW(be, residual, be->dtype, 1, kept.shape[1], kept.shape[2], r->shortcut.w.shape[0]));
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, kept.shape));
    ZOE_TRY(zoe_nn_norm(be, &n, &kept, ZOE_NORM_LAYER, (float)d->vae->config.eps, &r->norm_w, &r->norm_b, ZOE_ACT_NONE));
    return zoe_op_conv(be, residual, &n, &r->shortcut.w, &p);
}

/* What comes out of the first convolution, or the end (NULL), through the second and on. */
static int second_half(decoding *d, int at, zoe_tensor *hidden, const int64_t shape[4]) {
    zoe_backend *be = d->vae->be;
    ltx_resnet *r = d->stages[at].resnet;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y, residual;
    bool made;
    if (hidden) {
        ZOE_TRY(add_noise(be, hidden, &r->drawn_1, &r->noise_1));
        ZOE_TRY(norm_silu(be, hidden, hidden, &r->rows, 2));
    }
    ZOE_TRY(zoe_new_tensor(be, &y, be->dtype, 4, shape));
    ZOE_TRY(take_shortcut(d, r, &residual));
    ZOE_TRY(push(be, &r->conv_2, hidden, &residual, &y, &made));
    if (made) {
        ZOE_TRY(add_noise(be, &y, &r->drawn_2, &r->noise_2));
        r->made++;
        ZOE_TRY(feed(d, at + 1, &y));
    }
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int feed_resnet(decoding *d, int at, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_resnet *r = d->stages[at].resnet;
    const int64_t shape[4] = {1, r->kept.shape[1], r->kept.shape[2], r->conv_1.w.shape[0]};
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n, hidden;
    bool made;
    ZOE_TRY(zoe_new_tensor(be, &hidden, be->dtype, 4, shape));
    if (x) {
        ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
        ZOE_TRY(norm_silu(be, &n, x, &r->rows, 0));
    }
    ZOE_TRY(push(be, &r->conv_1, x ? &n : NULL, NULL, &hidden, &made));
    if (made) ZOE_TRY(second_half(d, at, &hidden, shape));
    if (x) {
        zoe_tensor slot = zoe_view_slice(&r->kept, 0, r->taken++ % 2, 1);
        ZOE_TRY(zoe_op_copy(be, &slot, x));
    } else {
        ZOE_TRY(second_half(d, at, NULL, shape));
        ZOE_TRY(feed(d, at + 1, NULL));
    }
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* ---- enlarging ---- */

/*
 * Frame `half` of the two that x [1, height, width, 8 channels] holds, as a view [height, 2, width, 2, channels]; a
 * channel's eight cells lie together, time first.
 */
static zoe_tensor unpack(const zoe_tensor *x, int64_t half) {
    zoe_tensor view = ZOE_VIEW(x, x->shape[1], x->shape[2], x->shape[3] / 8, 2, 2, 2);
    view = zoe_view_slice(&view, 3, half, 1);
    return (zoe_tensor){.dtype = view.dtype,
                        .rank = 5,
                        .data = view.data,
                        .shape = {view.shape[0], 2, view.shape[1], 2, view.shape[2]},
                        .stride = {view.stride[0], view.stride[4], view.stride[1], view.stride[5], view.stride[2]}};
}

/* The two frames in y; of the clip's first, the first is dropped. */
static int enlarge(decoding *d, int at, const zoe_tensor *y) {
    zoe_backend *be = d->vae->be;
    ltx_level *level = d->stages[at].level;
    int64_t channels = y->shape[3] / 8;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor frame;
    ZOE_TRY(ZOE_NEW(be, &frame, be->dtype, 1, 2 * y->shape[1], 2 * y->shape[2], channels));
    for (int64_t half = level->made == 0; half < 2; half++) {
        zoe_tensor from = unpack(y, half), to = ZOE_VIEW(&frame, y->shape[1], 2, y->shape[2], 2, channels);
        ZOE_TRY(zoe_op_copy(be, &to, &from));
        if (d->vae->config.up_residual[d->stages[at].index]) {
            from = unpack(&level->kept, half);
            for (int64_t i = 0; i < channels; i += from.shape[4]) {
                zoe_tensor part = zoe_view_slice(&to, 4, i, from.shape[4]);
                ZOE_TRY(zoe_op_lincomb(be, &part, 2, (const zoe_tensor *[]){&part, &from}, (float[]){1, 1}));
            }
        }
        ZOE_TRY(feed(d, at + 1, &frame));
    }
    level->made++;
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int feed_enlarge(decoding *d, int at, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_level *level = d->stages[at].level;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y;
    bool made;
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, level->kept.shape[1], level->kept.shape[2], level->resample.w.shape[0]));
    ZOE_TRY(push(be, &level->resample, x, NULL, &y, &made));
    if (made) ZOE_TRY(enlarge(d, at, &y));
    if (x)
        ZOE_TRY(zoe_op_copy(be, &level->kept, x));
    else
        ZOE_TRY(feed(d, at + 1, NULL));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* ---- ends ---- */

static int feed_in(decoding *d, int at, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_conv *conv = &d->vae->decoder.conv_in;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y;
    bool made;
    ZOE_TRY(zoe_check_cancelled(be->ctx));
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, conv->history.shape[1], conv->history.shape[2], conv->w.shape[0]));
    ZOE_TRY(push(be, conv, x, NULL, &y, &made));
    if (made) ZOE_TRY(feed(d, at + 1, &y));
    if (!x) ZOE_TRY(feed(d, at + 1, NULL));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* Pixels out of their packing, to the host and on. */
static int emit(decoding *d, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    int64_t p = d->vae->config.patch, height = x->shape[1], width = x->shape[2];
    zoe_tensor pixels, from = ZOE_VIEW(x, height, width, 3, p, p);
    ZOE_TRY(ZOE_NEW(be, &pixels, ZOE_F32, height, p, width, p, 3));
    /* A packed channel counts colour, then column, then row. */
    from = zoe_view_permute(&from, (const int[]){0, 4, 1, 3, 2});
    ZOE_TRY(zoe_op_copy(be, &pixels, &from));
    ZOE_TRY(zoe_download(be, d->frame, &pixels));
    for (int64_t i = 0; i < zoe_tensor_count(&pixels); i++)
        if (!isfinite(d->frame[i]))
            return zoe_fail(be->ctx, ZOE_ERR_NUMERIC, "the VAE decoded a pixel that is not a number");
    return d->sink(d->user, d->frame);
}

static int feed_out(decoding *d, const zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_coder *coder = &d->vae->decoder;
    ltx_conv *conv = &coder->conv_out;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n, y;
    bool made;
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, 1, conv->history.shape[1], conv->history.shape[2], conv->w.shape[0]));
    if (x) {
        ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
        ZOE_TRY(norm_silu(be, &n, x, &coder->rows, 0));
    }
    ZOE_TRY(push(be, conv, x ? &n : NULL, NULL, &y, &made));
    if (made) ZOE_TRY(emit(d, &y));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int feed(decoding *d, int at, const zoe_tensor *x) {
    switch (d->stages[at].kind) {
    case STAGE_IN:
        return feed_in(d, at, x);
    case STAGE_RESNET:
        return feed_resnet(d, at, x);
    case STAGE_ENLARGE:
        return feed_enlarge(d, at, x);
    case STAGE_OUT:
        return feed_out(d, x);
    }
    return ZOE_OK;
}

/* ---- set-up of a clip ---- */

/* rows [n, channels] = table [n, channels] + MLP(sinusoid of the timestep), fresh on the arena */
static int embed_time(const zoe_ltx_vae *vae, const ltx_time *time, const zoe_tensor *table, double timestep,
                      zoe_tensor *rows) {
    zoe_backend *be = vae->be;
    int64_t n = table->shape[0], channels = table->shape[1];
    float values[FREQ_DIM];
    zoe_tensor sinusoid, hidden;
    ZOE_TRY(ZOE_NEW(be, rows, ZOE_F32, n, channels));
    size_t mark = zoe_arena_mark(be);
    zoe_tensor flat = ZOE_VIEW(rows, 1, n * channels);
    zoe_timestep_embedding(values, &timestep, 1, FREQ_DIM);
    ZOE_TRY(zoe_nn_from_host(be, &sinusoid, ZOE_F32, 2, (const int64_t[]){1, FREQ_DIM}, values));
    ZOE_TRY(ZOE_NEW(be, &hidden, ZOE_F32, 1, n * channels));
    ZOE_TRY(zoe_nn_linear(be, &hidden, &sinusoid, &time->first, ZOE_ACT_SILU));
    ZOE_TRY(zoe_nn_linear(be, &flat, &hidden, &time->second, ZOE_ACT_NONE));
    zoe_arena_release(be, mark);
    return zoe_op_lincomb(be, rows, 2, (const zoe_tensor *[]){rows, table}, (float[]){1, 1});
}

/* One plane of noise, drawn on the host. */
static int draw_plane(decoding *d, int64_t pixels, zoe_tensor *drawn) {
    zoe_context *ctx = d->vae->be->ctx;
    float *host;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, host, pixels));
    zoe_generator_normal(d->generator, host, pixels);
    int status = zoe_nn_from_host(d->vae->be, drawn, ZOE_F32, 2, (const int64_t[]){pixels, 1}, host);
    zoe_free(ctx, host);
    return status;
}

static int begin_resnet(decoding *d, ltx_resnet *r, const ltx_time *time, double timestep, int64_t height, int64_t width) {
    zoe_backend *be = d->vae->be;
    r->taken = r->made = 0;
    r->rows = r->drawn_1 = r->drawn_2 = (zoe_tensor){0};
    if (r->table.rank) ZOE_TRY(embed_time(d->vae, time, &r->table, timestep, &r->rows));
    if (r->noise_1.rank) {
        ZOE_TRY(draw_plane(d, height * width, &r->drawn_1));
        ZOE_TRY(draw_plane(d, height * width, &r->drawn_2));
    }
    ZOE_TRY(ZOE_NEW(be, &r->kept, be->dtype, 2, height, width, r->conv_1.w.shape[4]));
    ZOE_TRY(begin_conv(be, &r->conv_1, height, width));
    ZOE_TRY(begin_conv(be, &r->conv_2, height, width));
    d->stages[d->count++] = (stage){.kind = STAGE_RESNET, .resnet = r};
    return ZOE_OK;
}

static int begin_level(decoding *d, ltx_level *level, int index, double timestep, int64_t *height, int64_t *width) {
    zoe_backend *be = d->vae->be;
    if (level->change.conv_1.w.rank) ZOE_TRY(begin_resnet(d, &level->change, &level->time, timestep, *height, *width));
    if (level->resample.w.rank) {
        level->made = 0;
        ZOE_TRY(ZOE_NEW(be, &level->kept, be->dtype, 1, *height, *width, level->resample.w.shape[4]));
        ZOE_TRY(begin_conv(be, &level->resample, *height, *width));
        d->stages[d->count++] = (stage){.kind = STAGE_ENLARGE, .level = level, .index = index};
        *height *= 2, *width *= 2;
    }
    for (int i = 0; i < level->resnet_count; i++)
        ZOE_TRY(begin_resnet(d, &level->resnets[i], &level->time, timestep, *height, *width));
    return ZOE_OK;
}

static int begin(decoding *d, int64_t height, int64_t width) {
    zoe_ltx_vae *vae = d->vae;
    ltx_coder *coder = &vae->decoder;
    float multiplier = 0;
    if (vae->config.timestep) ZOE_TRY(zoe_download(vae->be, &multiplier, &coder->multiplier));
    double timestep = (double)((float)ZOE_LTX_DECODE_TIMESTEP * multiplier);
    d->stages[d->count++] = (stage){.kind = STAGE_IN};
    ZOE_TRY(begin_conv(vae->be, &coder->conv_in, height, width));
    ZOE_TRY(begin_level(d, &coder->mid, 0, timestep, &height, &width));
    for (int i = 0; i < vae->config.up_levels; i++)
        ZOE_TRY(begin_level(d, &coder->levels[i], i, timestep, &height, &width));
    coder->rows = (zoe_tensor){0};
    if (vae->config.timestep) ZOE_TRY(embed_time(vae, &coder->time, &coder->table, timestep, &coder->rows));
    d->stages[d->count++] = (stage){.kind = STAGE_OUT};
    return begin_conv(vae->be, &coder->conv_out, height, width);
}

/* ---- clips ---- */

/* noise [channels, frames, height, width], as the reference draws it; rank 0 where the decoder takes none */
static int draw_noise(decoding *d, const zoe_tensor *latents, zoe_tensor *noise) {
    zoe_context *ctx = d->vae->be->ctx;
    const int64_t shape[4] = {latents->shape[3], latents->shape[0], latents->shape[1], latents->shape[2]};
    float *host;
    *noise = (zoe_tensor){0};
    if (!d->vae->config.timestep) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, host, zoe_tensor_count(latents)));
    zoe_generator_normal(d->generator, host, zoe_tensor_count(latents));
    int status = zoe_nn_from_host(d->vae->be, noise, ZOE_F32, 4, shape, host);
    zoe_free(ctx, host);
    return status;
}

static int run_clip(decoding *d, const zoe_tensor *latents) {
    zoe_backend *be = d->vae->be;
    const zoe_ltx_vae *vae = d->vae;
    zoe_tensor noise, z;
    ZOE_TRY(draw_noise(d, latents, &noise));
    ZOE_TRY(begin(d, latents->shape[1], latents->shape[2]));
    ZOE_TRY(ZOE_NEW(be, &z, be->dtype, 1, latents->shape[1], latents->shape[2], latents->shape[3]));
    for (int64_t i = 0; i < latents->shape[0]; i++) {
        zoe_tensor frame = zoe_view_slice(latents, 0, i, 1), part;
        ZOE_TRY(zoe_op_scale_shift(be, &z, &frame, &vae->std, &vae->mean));
        if (noise.rank) {
            part = zoe_view_slice(&noise, 1, i, 1);
            part = zoe_view_permute(&part, (const int[]){1, 2, 3, 0});
            ZOE_TRY(zoe_op_lincomb(be, &z, 2, (const zoe_tensor *[]){&z, &part},
                                   (float[]){(float)(1 - ZOE_LTX_DECODE_NOISE), (float)ZOE_LTX_DECODE_NOISE}));
        }
        ZOE_TRY(feed(d, 0, &z));
    }
    return feed(d, 0, NULL);
}

int zoe_ltx_vae_decode(zoe_ltx_vae *vae, const zoe_tensor *latents, zoe_generator *generator, zoe_ltx_frame_sink sink,
                       void *user) {
    zoe_backend *be = vae->be;
    int64_t factor = zoe_ltx_vae_space_factor(&vae->config);
    size_t mark = zoe_arena_mark(be);
    decoding d = {.vae = vae, .generator = generator, .sink = sink, .user = user};
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, d.frame, latents->shape[1] * factor * latents->shape[2] * factor * 3));
    int status = zoe_ltx_vae_acquire(vae, ZOE_LTX_VAE_DECODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&d, latents);
        zoe_ltx_vae_release(vae, ZOE_LTX_VAE_DECODER_UNIT);
    }
    zoe_arena_release(be, mark);
    zoe_free(be->ctx, d.frame);
    return status;
}
