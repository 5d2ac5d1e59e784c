/*
 * Latents to frames. The decoder is a chain of stages. Some frames are handed to the first; each stage hands on those that
 * it can finish, at the end of the clip also those that it still owes. A resnet works in place: the frames that it owes
 * are put back in front of those that come, so a chain's buffer has as many free frames in front as its stages will need.
 */
#include <string.h>

#include "models/ltx/vae_blocks.h"

#define FREQ_DIM         256
#define MOST_STAGES      ((ZOE_LTX_VAE_LEVELS + 1) * (ZOE_LTX_VAE_RESNETS + 2) + 2)
#define REFERENCE_SIZE   512 /* pixels of a tile */
#define REFERENCE_STRIDE 448
#define DEVICE_PIXELS    (5 << 16) /* of frames that are worked on together on a device, */
#define LATENT_PIXELS    (1 << 13) /* and of latents */

typedef enum stage_kind { STAGE_RESNET, STAGE_ENLARGE, STAGE_OUT } stage_kind;

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
    bool last;    /* no frames come after those in work */
    int64_t most; /* pixels of frames that are worked on together */
    zoe_film film;
} decoding;

/* Hands x [frames, height, width, channels], maybe no frames, to a stage; x is used up. */
static int feed(decoding *d, int at, zoe_tensor *x);

/* ---- convolutions over a stream ---- */

/*
 * y = conv around the frame before each of x + residual, at the end of the clip also around the last one: *made frames.
 * The first frame of a clip makes none, as the one after it is not known yet.
 */
static int push(decoding *d, zoe_carrier *conv, const zoe_tensor *x, const zoe_tensor *residual, zoe_tensor *y,
                int64_t *made) {
    zoe_backend *be = d->vae->be;
    zoe_tensor rest = *x, to, beside;
    *made = 0;
    if (!conv->carried && rest.shape[0] > 0) {
        zoe_tensor first = zoe_view_slice(x, 0, 0, 1);
        ZOE_TRY(zoe_carrier_copy(be, conv, &first));
        rest = zoe_view_slice(x, 0, 1, x->shape[0] - 1);
    }
    for (int pass = 0; pass < 2; pass++) {
        if (pass) rest = zoe_carrier_last(conv);
        if ((pass && !d->last) || rest.shape[0] == 0) continue;
        to = zoe_view_slice(y, 0, *made, rest.shape[0]);
        if (residual) beside = zoe_view_slice(residual, 0, *made, rest.shape[0]);
        ZOE_TRY(zoe_carrier_run(be, conv, NULL, &to, &rest, residual ? &beside : NULL));
        if (!d->last || !pass) ZOE_TRY(zoe_carrier_copy(be, conv, &rest));
        *made += rest.shape[0];
    }
    return ZOE_OK;
}

/* y = silu(norm(x) * (1 + scale) + shift); rows [.., channels] with the shift at row `at` and the scale behind it, or none
 */
static int norm_silu(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *rows, int64_t at) {
    zoe_norm p = {.kind = ZOE_NORM_RMS, .eps = ZOE_LTX_VAE_EPS, .act = ZOE_ACT_SILU};
    zoe_tensor shift, scale;
    if (x->shape[0] == 0) return ZOE_OK;
    if (rows->rank) {
        shift = zoe_view_slice(rows, 0, at, 1), scale = zoe_view_slice(rows, 0, at + 1, 1);
        p.shift = &shift, p.scale = &scale;
    }
    return zoe_op_norm(be, y, x, &p);
}

/* ---- resnets ---- */

/* Frames of a stage's input that are free in front of it, for what the stages from `at` on put back there. */
static int64_t free_frames(const decoding *d, int at) {
    int64_t frames = 0;
    for (; d->stages[at].kind == STAGE_RESNET; at++) {
        frames += 2;
        if (d->stages[at].resnet->shortcut.w.rank) return frames; /* makes a buffer of its own */
    }
    return frames + 1;
}

/* Room on the arena for `frames` frames that stage `at` takes. */
static int new_frames(decoding *d, int at, int64_t frames, const int64_t shape[3], zoe_tensor *x) {
    int64_t before = free_frames(d, at);
    zoe_tensor all;
    ZOE_TRY(ZOE_NEW(d->vae->be, &all, d->vae->be->dtype, before + frames, shape[0], shape[1], shape[2]));
    *x = zoe_view_slice(&all, 0, before, frames);
    return ZOE_OK;
}

/* Puts the frames of `kept` in front of x; of all, those from frame `made` on are kept then. */
static int keep(zoe_backend *be, zoe_tensor *kept, int64_t count, int64_t made, zoe_tensor *x) {
    zoe_tensor back = zoe_view_slice(kept, 0, 0, count);
    x->data = (char *)x->data - (size_t)(count * x->stride[0]) * zoe_dtype_size(x->dtype);
    x->shape[0] += count;
    zoe_tensor front = zoe_view_slice(x, 0, 0, count), owed = zoe_view_slice(x, 0, made, x->shape[0] - made);
    if (count) ZOE_TRY(zoe_op_copy(be, &front, &back));
    back = zoe_view_slice(kept, 0, 0, owed.shape[0]);
    return owed.shape[0] ? zoe_op_copy(be, &back, &owed) : ZOE_OK;
}

/* x += drawn * how much each channel takes, in every frame */
static int add_noise(zoe_backend *be, zoe_tensor *x, const zoe_tensor *drawn, const zoe_tensor *amount) {
    int64_t pixels = x->shape[1] * x->shape[2], channels = x->shape[3];
    size_t mark = zoe_arena_mark(be);
    if (!drawn->rank) return ZOE_OK;
    zoe_tensor noise, spread = *drawn, each = ZOE_VIEW(amount, channels);
    spread.shape[1] = channels, spread.stride[1] = 0;
    ZOE_TRY(ZOE_NEW(be, &noise, be->dtype, pixels, channels));
    ZOE_TRY(zoe_op_scale_shift(be, &noise, &spread, &each, NULL));
    for (int64_t i = 0; i < x->shape[0]; i++) {
        zoe_tensor frame = zoe_view_slice(x, 0, i, 1), rows = ZOE_VIEW(&frame, pixels, channels);
        ZOE_TRY(zoe_op_lincomb(be, &rows, 2, (const zoe_tensor *[]){&rows, &noise}, (float[]){1, 1}));
    }
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* *y: what stands beside the frames x that a resnet makes where the channels change */
static int take_shortcut(decoding *d, const ltx_resnet *r, const zoe_tensor *x, zoe_tensor *y) {
    zoe_backend *be = d->vae->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n;
    if (x->shape[0] == 0) return ZOE_OK;
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
    ZOE_TRY(zoe_nn_norm(be, &n, x, ZOE_NORM_LAYER, (float)d->vae->config.eps, &r->norm_w, &r->norm_b, ZOE_ACT_NONE));
    ZOE_TRY(zoe_carrier_run(be, &r->shortcut, NULL, y, &n, NULL));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* *hidden, fresh on the arena: what goes into the second convolution. */
static int first_half(decoding *d, ltx_resnet *r, const zoe_tensor *x, zoe_tensor *hidden) {
    zoe_backend *be = d->vae->be;
    zoe_tensor n;
    int64_t made;
    ZOE_TRY(ZOE_NEW(be, hidden, be->dtype, x->shape[0] + 1, x->shape[1], x->shape[2], r->conv_1.w.shape[0]));
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
    ZOE_TRY(norm_silu(be, &n, x, &r->rows, 0));
    ZOE_TRY(push(d, &r->conv_1, &n, NULL, hidden, &made));
    zoe_arena_release(be, mark);
    *hidden = zoe_view_slice(hidden, 0, 0, made);
    ZOE_TRY(add_noise(be, hidden, &r->drawn_1, &r->noise_1));
    return norm_silu(be, hidden, hidden, &r->rows, 2);
}

static int feed_resnet(decoding *d, int at, zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_resnet *r = d->stages[at].resnet;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor hidden, y;
    int64_t waiting = r->taken - r->made, made;
    r->taken += x->shape[0];
    int64_t ready = d->last ? r->taken - r->made : r->taken > r->made + 2 ? r->taken - r->made - 2 : 0;
    r->made += ready;
    if (r->shortcut.w.rank)
        ZOE_TRY(new_frames(d, at + 1, ready, (int64_t[]){x->shape[1], x->shape[2], r->conv_2.w.shape[0]}, &y));
    size_t inner = zoe_arena_mark(be);
    ZOE_TRY(first_half(d, r, x, &hidden));
    ZOE_TRY(keep(be, &r->kept, waiting, ready, x));
    zoe_tensor beside = zoe_view_slice(x, 0, 0, ready);
    if (!r->shortcut.w.rank) y = beside;
    if (r->shortcut.w.rank) {
        ZOE_TRY(take_shortcut(d, r, &beside, &y));
        beside = y;
    }
    ZOE_TRY(push(d, &r->conv_2, &hidden, &beside, &y, &made));
    ZOE_TRY(add_noise(be, &y, &r->drawn_2, &r->noise_2));
    zoe_arena_release(be, inner);
    if (ready > 0 || d->last) ZOE_TRY(feed(d, at + 1, &y));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* ---- enlarging ---- */

/*
 * Frames `half` of the pairs that x [frames, height, width, 8 channels] holds, as a view [frames, height, 2, width, 2,
 * channels]; a channel's eight cells lie together, time first.
 */
static zoe_tensor unpack(const zoe_tensor *x, int64_t half) {
    zoe_tensor view = *x;
    int64_t pixel = x->stride[2];
    view.rank = 6;
    view.data = (char *)x->data + (size_t)(4 * half) * zoe_dtype_size(x->dtype);
    memcpy(view.shape, (int64_t[]){x->shape[0], x->shape[1], 2, x->shape[2], 2, x->shape[3] / 8}, 6 * sizeof(int64_t));
    memcpy(view.stride, (int64_t[]){x->stride[0], x->stride[1], 2, pixel, 1, 8}, 6 * sizeof(int64_t));
    return view;
}

/* Every second of the frames, from frame `first` on, as unpack() shapes them. */
static zoe_tensor every_second(const zoe_tensor *frames, int64_t first, int64_t count) {
    zoe_tensor view = zoe_view_slice(frames, 0, first, count);
    view.stride[0] *= 2;
    view = zoe_view_split(&view, 1, 2);
    return zoe_view_split(&view, 3, 2);
}

/* frames: the pairs in y, beside them those in x where the level has a shortcut; of the clip's first pair, the second. */
static int spread(decoding *d, int at, const zoe_tensor *y, const zoe_tensor *x, int64_t dropped, zoe_tensor *frames) {
    zoe_backend *be = d->vae->be;
    for (int64_t half = 0; half < 2; half++) {
        int64_t skip = half == 0 ? dropped : 0, count = y->shape[0] - skip;
        if (count == 0) continue;
        zoe_tensor pairs = zoe_view_slice(y, 0, skip, count), from = unpack(&pairs, half);
        zoe_tensor to = every_second(frames, 2 * skip + half - dropped, count);
        ZOE_TRY(zoe_op_copy(be, &to, &from));
        if (!d->vae->config.up_residual[d->stages[at].index]) continue;
        pairs = zoe_view_slice(x, 0, skip, count), from = unpack(&pairs, half);
        for (int64_t i = 0; i < to.shape[5]; i += from.shape[5]) {
            zoe_tensor part = zoe_view_slice(&to, 5, i, from.shape[5]);
            ZOE_TRY(zoe_op_lincomb(be, &part, 2, (const zoe_tensor *[]){&part, &from}, (float[]){1, 1}));
        }
    }
    return ZOE_OK;
}

static int feed_enlarge(decoding *d, int at, zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_level *level = d->stages[at].level;
    size_t mark = zoe_arena_mark(be);
    int64_t waiting = level->taken - level->made, dropped = level->made == 0, made, height = x->shape[1],
            width = x->shape[2];
    level->taken += x->shape[0];
    int64_t ready = d->last ? level->taken - level->made : level->taken - level->made - 1;
    zoe_tensor y, frames;
    if (ready == 0) dropped = 0;
    level->made += ready;
    int64_t channels = level->resample.w.shape[0];
    ZOE_TRY(new_frames(d, at + 1, 2 * ready - dropped, (int64_t[]){2 * height, 2 * width, channels / 8}, &frames));
    size_t inner = zoe_arena_mark(be);
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, ready, height, width, channels));
    ZOE_TRY(push(d, &level->resample, x, NULL, &y, &made));
    ZOE_TRY(keep(be, &level->kept, waiting, ready, x));
    ZOE_TRY(spread(d, at, &y, x, dropped, &frames));
    zoe_arena_release(be, inner);
    if (ready > 0) ZOE_TRY(feed(d, at + 1, &frames));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* So many frames at a time as suit the backend once they are enlarged; each lot may use the room of those before. */
static int feed_lots(decoding *d, int at, const zoe_tensor *x) {
    bool last = d->last;
    int64_t count = x->shape[0], most = d->most / (8 * x->shape[1] * x->shape[2]), taken;
    for (int64_t i = 0; i < count; i += taken) {
        taken = most < 1 ? 1 : count - i < most ? count - i : most;
        zoe_tensor lot = zoe_view_slice(x, 0, i, taken);
        d->last = last && i + taken == count;
        ZOE_TRY(feed_enlarge(d, at, &lot));
    }
    d->last = last;
    return ZOE_OK;
}

/* ---- ends ---- */

/* Latents z [frames, height, width, channels] into the chain. */
static int feed_in(decoding *d, const zoe_tensor *z) {
    zoe_carrier *conv = &d->vae->decoder.conv_in;
    zoe_tensor x;
    int64_t made;
    ZOE_TRY(zoe_check_cancelled(d->vae->be->ctx));
    ZOE_TRY(new_frames(d, 0, z->shape[0] + 1, (int64_t[]){z->shape[1], z->shape[2], conv->w.shape[0]}, &x));
    ZOE_TRY(push(d, conv, z, NULL, &x, &made));
    x = zoe_view_slice(&x, 0, 0, made);
    return made > 0 ? feed(d, 0, &x) : ZOE_OK;
}

static int feed_out(decoding *d, zoe_tensor *x) {
    zoe_backend *be = d->vae->be;
    ltx_coder *coder = &d->vae->decoder;
    int64_t p = d->vae->config.patch, height = x->shape[1], width = x->shape[2], made;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor y;
    ZOE_TRY(norm_silu(be, x, x, &coder->rows, 0));
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, x->shape[0] + 1, height, width, coder->conv_out.w.shape[0]));
    ZOE_TRY(push(d, &coder->conv_out, x, NULL, &y, &made));
    /* A packed channel counts colour, then column, then row. */
    zoe_tensor pixels = ZOE_VIEW(&y, y.shape[0] * height, width, 3, p, p);
    pixels = zoe_view_permute(&pixels, (const int[]){0, 4, 1, 3, 2});
    pixels = zoe_view_split(&pixels, 0, height);
    pixels = zoe_view_slice(&pixels, 0, 0, made);
    if (made) ZOE_TRY(zoe_film_add(&d->film, &pixels));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int feed(decoding *d, int at, zoe_tensor *x) {
    switch (d->stages[at].kind) {
    case STAGE_RESNET:
        return feed_resnet(d, at, x);
    case STAGE_ENLARGE:
        return feed_lots(d, at, x);
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
    ZOE_TRY(zoe_carrier_begin(be, &r->conv_1, height, width, 0));
    ZOE_TRY(zoe_carrier_begin(be, &r->conv_2, height, width, 0));
    d->stages[d->count++] = (stage){.kind = STAGE_RESNET, .resnet = r};
    return ZOE_OK;
}

static int begin_level(decoding *d, ltx_level *level, int index, double timestep, int64_t *height, int64_t *width) {
    zoe_backend *be = d->vae->be;
    if (level->change.conv_1.w.rank) ZOE_TRY(begin_resnet(d, &level->change, &level->time, timestep, *height, *width));
    if (level->resample.w.rank) {
        level->taken = level->made = 0;
        ZOE_TRY(ZOE_NEW(be, &level->kept, be->dtype, 1, *height, *width, level->resample.w.shape[4]));
        ZOE_TRY(zoe_carrier_begin(be, &level->resample, *height, *width, 0));
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
    d->count = 0;
    ZOE_TRY(zoe_carrier_begin(vae->be, &coder->conv_in, height, width, 0));
    ZOE_TRY(begin_level(d, &coder->mid, 0, timestep, &height, &width));
    for (int i = 0; i < vae->config.up_levels; i++)
        ZOE_TRY(begin_level(d, &coder->levels[i], i, timestep, &height, &width));
    coder->rows = (zoe_tensor){0};
    if (vae->config.timestep) ZOE_TRY(embed_time(vae, &coder->time, &coder->table, timestep, &coder->rows));
    d->stages[d->count++] = (stage){.kind = STAGE_OUT};
    return zoe_carrier_begin(vae->be, &coder->conv_out, height, width, 0);
}

/* ---- clips ---- */

/* noise, drawn as [channels, frames, height, width] and seen as the latents; rank 0 where the decoder takes none */
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
    *noise = zoe_view_permute(noise, (const int[]){1, 2, 3, 0});
    return status;
}

/* Latent frames that go through the chain together. */
static int64_t frames_together(const decoding *d, const zoe_tensor *latents, const zoe_tiling *tiling) {
    int64_t frames = latents->shape[0], most = d->vae->be->ops->host_memory ? 1 : LATENT_PIXELS;
    most /= latents->shape[1] * latents->shape[2];
    if (tiling->frames) most = tiling->frames;
    if (most < 1) most = 1;
    int64_t parts = (frames + most - 1) / most;
    return (frames + parts - 1) / parts;
}

/* Whole frames, or those of a tile. noise: as latents, or rank 0. */
static int run_whole(decoding *d, const zoe_tensor *latents, const zoe_tensor *noise, const zoe_tiling *tiling) {
    zoe_backend *be = d->vae->be;
    const zoe_ltx_vae *vae = d->vae;
    d->most = be->ops->host_memory || tiling->frames == 1 ? 1 : DEVICE_PIXELS;
    int64_t frames = latents->shape[0], together = frames_together(d, latents, tiling);
    size_t mark = zoe_arena_mark(be);
    zoe_tensor z;
    ZOE_TRY(begin(d, latents->shape[1], latents->shape[2]));
    for (int64_t i = 0; i < frames; i += together) {
        int64_t count = frames - i < together ? frames - i : together;
        size_t inner = zoe_arena_mark(be);
        zoe_tensor part = zoe_view_slice(latents, 0, i, count);
        d->last = i + count == frames;
        ZOE_TRY(zoe_new_tensor(be, &z, be->dtype, 4, part.shape));
        ZOE_TRY(zoe_op_scale_shift(be, &z, &part, &vae->std, &vae->mean));
        if (noise->rank) {
            part = zoe_view_slice(noise, 0, i, count);
            ZOE_TRY(zoe_op_lincomb(be, &z, 2, (const zoe_tensor *[]){&z, &part},
                                   (float[]){(float)(1 - ZOE_LTX_DECODE_NOISE), (float)ZOE_LTX_DECODE_NOISE}));
        }
        ZOE_TRY(feed_in(d, &z));
        zoe_arena_release(be, inner);
    }
    zoe_arena_release(be, mark);
    return zoe_film_flush(&d->film);
}

static int run_tiles(decoding *d, const zoe_tensor *latents, const zoe_tensor *noise, const zoe_tiling *tiling) {
    const int64_t factor = zoe_ltx_vae_space_factor(&d->vae->config), stride = REFERENCE_STRIDE / factor;
    const int64_t *shape = latents->shape;
    int64_t start[2], tile[2];
    for (start[0] = 0; start[0] < shape[1]; start[0] += stride)
        for (start[1] = 0; start[1] < shape[2]; start[1] += stride) {
            zoe_tensor part = *latents, drawn = *noise;
            for (int i = 0; i < 2; i++) {
                int64_t rest = shape[1 + i] - start[i], size = REFERENCE_SIZE / factor;
                part = zoe_view_slice(&part, 1 + i, start[i], rest < size ? rest : size);
                if (noise->rank) drawn = zoe_view_slice(&drawn, 1 + i, start[i], rest < size ? rest : size);
                tile[i] = start[i] / stride;
            }
            ZOE_TRY(zoe_film_next_part(&d->film, tile, start[0] + stride >= shape[1] && start[1] + stride >= shape[2]));
            ZOE_TRY(run_whole(d, &part, &drawn, tiling));
        }
    return ZOE_OK;
}

static int run_clip(decoding *d, const zoe_tensor *latents, const zoe_tiling *tiling) {
    int64_t blend = REFERENCE_SIZE - REFERENCE_STRIDE, size = REFERENCE_SIZE / zoe_ltx_vae_space_factor(&d->vae->config);
    const zoe_tiles tiles = {.size = {REFERENCE_SIZE, REFERENCE_SIZE},
                             .stride = {REFERENCE_STRIDE, REFERENCE_STRIDE},
                             .blend = {blend, blend},
                             .step = 1};
    zoe_tensor noise;
    ZOE_TRY(draw_noise(d, latents, &noise));
    if (tiling->kind != ZOE_TILING_REFERENCE || (latents->shape[1] <= size && latents->shape[2] <= size))
        return run_whole(d, latents, &noise, tiling);
    int64_t frames = (latents->shape[0] - 1) * zoe_ltx_vae_time_factor(&d->vae->config) + 1;
    ZOE_TRY(zoe_film_divide(&d->film, frames, &tiles));
    return run_tiles(d, latents, &noise, tiling);
}

int zoe_ltx_vae_decode(zoe_ltx_vae *vae, const zoe_tensor *latents, zoe_generator *generator, const zoe_tiling *tiling,
                       zoe_frame_sink sink, void *user) {
    zoe_backend *be = vae->be;
    int64_t factor = zoe_ltx_vae_space_factor(&vae->config);
    size_t mark = zoe_arena_mark(be);
    decoding d = {.vae = vae, .generator = generator};
    zoe_film_open(be, latents->shape[1] * factor, latents->shape[2] * factor, false, sink, user, &d.film);
    int status = zoe_ltx_vae_acquire(vae, ZOE_LTX_VAE_DECODER_UNIT);
    if (status == ZOE_OK) {
        status = run_clip(&d, latents, tiling);
        status = zoe_ltx_vae_release(vae, ZOE_LTX_VAE_DECODER_UNIT, status);
    }
    zoe_arena_release(be, mark);
    zoe_film_close(&d.film);
    return status;
}
