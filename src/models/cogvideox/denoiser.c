#include "models/cogvideox/denoiser.h"

#include "models/cogvideox/names.h"
#include "nn/block.h"

#define QK_EPS 1e-6f

/* Modulation, norm and weights before attention, and the same before the MLP. */
typedef struct branch {
    zoe_lin modulation; /* [6 width, time_dim] */
    zoe_lin norm;
} branch;

typedef struct block {
    branch attention, mlp;
    zoe_projections self; /* norms [head_dim] */
    zoe_lin up, down;
} block;

typedef struct ends {
    zoe_lin patch, text, time_1, time_2, ofs_1, ofs_2, modulation, out;
    zoe_tensor positions; /* [1, text_rows + sample tokens, width], learned */
    zoe_lin norm_final, norm_out;
} ends;

struct zoe_cogvideox_denoiser {
    zoe_backend *be;
    zoe_cogvideox_config config;
    int64_t width;
    zoe_weights *weights;
    ends ends;
    block *blocks;
};

/*
 * D width, H head, S time sinusoid's MLP, O motion embedding, X text, I/C values in and out of a patch, P patch, N channels
 * in, L learned rows, K version 1.0
 */
static const zoe_slot end_slots[] = {
    {"patch_embed.proj.weight", offsetof(ends, patch.w), ZOE_SLOT_KEPT, "D N P P", 'K'},
    {"patch_embed.proj.weight", offsetof(ends, patch.w), ZOE_SLOT_KEPT, "D I", 'J'},
    {"patch_embed.proj.bias", offsetof(ends, patch.b), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, text, "patch_embed.text_proj", "D", "X", 0),
    {"patch_embed.pos_embedding", offsetof(ends, positions), ZOE_SLOT_VECTOR, "1 L D", 'L'},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, time_1, "time_embedding.linear_1", "S", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, time_2, "time_embedding.linear_2", "S", "S", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, ofs_1, "ofs_embedding.linear_1", "O", "O", 'O'),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, ofs_2, "ofs_embedding.linear_2", "O", "O", 'O'),
    {"norm_final.weight", offsetof(ends, norm_final.w), ZOE_SLOT_VECTOR, "D", 0},
    {"norm_final.bias", offsetof(ends, norm_final.b), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, modulation, "norm_out.linear", "2D", "S", 0),
    {"norm_out.norm.weight", offsetof(ends, norm_out.w), ZOE_SLOT_VECTOR, "D", 0},
    {"norm_out.norm.bias", offsetof(ends, norm_out.b), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, out, "proj_out", "C", "D", 0),
    {0},
};

static const zoe_slot block_slots[] = {
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, block, attention.modulation, "norm1.linear", "6D", "S", 0),
    {"norm1.norm.weight", offsetof(block, attention.norm.w), ZOE_SLOT_VECTOR, "D", 0},
    {"norm1.norm.bias", offsetof(block, attention.norm.b), ZOE_SLOT_VECTOR, "D", 0},
    {"attn1.norm_q.weight", offsetof(block, self.norm_q.w), ZOE_SLOT_VECTOR, "H", 0},
    {"attn1.norm_q.bias", offsetof(block, self.norm_q.b), ZOE_SLOT_VECTOR, "H", 0},
    {"attn1.norm_k.weight", offsetof(block, self.norm_k.w), ZOE_SLOT_VECTOR, "H", 0},
    {"attn1.norm_k.bias", offsetof(block, self.norm_k.b), ZOE_SLOT_VECTOR, "H", 0},
    ZOE_LIN_SLOTS(block, self.q, "attn1.to_q", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.k, "attn1.to_k", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.v, "attn1.to_v", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.o, "attn1.to_out.0", "D", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, block, mlp.modulation, "norm2.linear", "6D", "S", 0),
    {"norm2.norm.weight", offsetof(block, mlp.norm.w), ZOE_SLOT_VECTOR, "D", 0},
    {"norm2.norm.bias", offsetof(block, mlp.norm.b), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS(block, up, "ff.net.0.proj", "4D", "D", 0),
    ZOE_LIN_SLOTS(block, down, "ff.net.2", "D", "4D", 0),
    {0},
};

/* ---- set-up ---- */

static int64_t patch_frames(const zoe_cogvideox_config *c) {
    return c->patch_time ? c->patch_time : 1;
}

static int bind(zoe_cogvideox_denoiser *d) {
    const zoe_cogvideox_config *c = &d->config;
    int64_t cells = patch_frames(c) * c->patch * c->patch;
    const zoe_dims dims = {['D' - 'A'] = d->width,
                           ['H' - 'A'] = c->head_dim,
                           ['S' - 'A'] = c->time_dim,
                           ['O' - 'A'] = c->ofs_dim,
                           ['X' - 'A'] = c->text_dim,
                           ['N' - 'A'] = c->in_channels,
                           ['P' - 'A'] = c->patch,
                           ['I' - 'A'] = c->in_channels * cells,
                           ['C' - 'A'] = c->out_channels * cells,
                           ['L' - 'A'] = c->learned ? c->text_rows + zoe_cogvideox_sample_tokens(c) : 0,
                           ['K' - 'A'] = c->patch_time == 0,
                           ['J' - 'A'] = c->patch_time != 0};
    ZOE_TRY(zoe_weights_unit(d->weights));
    ZOE_TRY(zoe_weights_bind(d->weights, end_slots, dims, &d->ends, "%s", ""));
    ZOE_TRY(zoe_weights_bind_blocks(d->weights, block_slots, dims, d->blocks, sizeof *d->blocks, c->layers,
                                    "transformer_blocks."));
    return zoe_weights_check(d->weights);
}

int zoe_cogvideox_denoiser_create(zoe_backend *be, const zoe_cogvideox_config *config, const zoe_checkpoint *ckpt,
                                  zoe_weight_form form, zoe_cogvideox_denoiser **out) {
    int status;
    zoe_cogvideox_denoiser *d;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, d, 1));
    d->be = be;
    d->config = *config;
    d->width = config->heads * config->head_dim;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, d->blocks, config->layers));
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "denoiser", zoe_cogvideox_denoiser_aliases, form, &d->weights));
    ZOE_TRY_DONE(bind(d));
    *out = d;
    return ZOE_OK;
done:
    zoe_cogvideox_denoiser_free(d);
    return status;
}

void zoe_cogvideox_denoiser_free(zoe_cogvideox_denoiser *d) {
    if (!d) return;
    zoe_weights_free(d->weights);
    zoe_free(d->be->ctx, d->blocks);
    zoe_free(d->be->ctx, d);
}

zoe_weights *zoe_cogvideox_denoiser_weights(zoe_cogvideox_denoiser *d) {
    return d->weights;
}

const zoe_cogvideox_config *zoe_cogvideox_denoiser_config(const zoe_cogvideox_denoiser *d) {
    return &d->config;
}

/* ---- positions ---- */

/* The learned table serves one size, version 1.5 a largest one. */
static int check_positions(zoe_cogvideox_denoiser *d, int64_t height, int64_t width) {
    const zoe_cogvideox_config *c = &d->config;
    bool sample = height == c->sample_size[0] && width == c->sample_size[1];
    if (c->learned && !sample)
        return zoe_fail(d->be->ctx, ZOE_ERR_ARGUMENT,
                        "latents of %lldx%lld: this model has learned positions for %lldx%lld alone", (long long)width,
                        (long long)height, (long long)c->sample_size[1], (long long)c->sample_size[0]);
    if (c->patch_time && (height > c->sample_size[0] || width > c->sample_size[1]))
        return zoe_fail(d->be->ctx, ZOE_ERR_ARGUMENT, "latents of %lldx%lld: this model has positions up to %lldx%lld",
                        (long long)width, (long long)height, (long long)c->sample_size[1], (long long)c->sample_size[0]);
    return ZOE_OK;
}

static int rotary_tables(zoe_cogvideox_denoiser *d, zoe_cogvideox_grid *grid) {
    zoe_backend *be = d->be;
    int64_t half = d->config.head_dim / 2, text = d->config.text_rows * half, all = grid->tokens * half;
    const int64_t shape[2] = {grid->tokens, half};
    float *tables;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, tables, 2 * all));
    for (int64_t i = 0; i < text; i++) tables[i] = 1;
    if (d->be->ops->computes) zoe_cogvideox_rotary(&d->config, grid->size, tables + text, tables + all + text);
    int status = zoe_nn_from_host(be, &grid->cos, ZOE_F32, 2, shape, tables);
    if (status == ZOE_OK) status = zoe_nn_from_host(be, &grid->sin, ZOE_F32, 2, shape, tables + all);
    zoe_free(be->ctx, tables);
    return status;
}

static int additive_table(zoe_cogvideox_denoiser *d, zoe_cogvideox_grid *grid) {
    zoe_backend *be = d->be;
    float *table;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, table, grid->video * d->width));
    zoe_cogvideox_sincos(table, grid->size, d->width, d->config.time_scale, d->config.space_scale);
    int status = zoe_nn_from_host(be, &grid->positions, ZOE_F32, 2, (const int64_t[]){grid->video, d->width}, table);
    zoe_free(be->ctx, table);
    return status;
}

static int token_kinds(zoe_cogvideox_denoiser *d, zoe_cogvideox_grid *grid) {
    int32_t *kinds;
    ZOE_TRY(ZOE_NEW_ARRAY(d->be->ctx, kinds, grid->tokens));
    for (int64_t i = 0; i < d->config.text_rows; i++) kinds[i] = 1;
    int status = zoe_nn_from_host(d->be, &grid->kind, ZOE_I32, 1, &grid->tokens, kinds);
    zoe_free(d->be->ctx, kinds);
    return status;
}

int zoe_cogvideox_grid_create(zoe_cogvideox_denoiser *d, int64_t frames, int64_t height, int64_t width,
                              zoe_cogvideox_grid *grid) {
    const zoe_cogvideox_config *c = &d->config;
    ZOE_TRY(check_positions(d, height, width));
    *grid = (zoe_cogvideox_grid){.size = {frames / patch_frames(c), height / c->patch, width / c->patch}};
    grid->video = grid->size[0] * grid->size[1] * grid->size[2];
    grid->tokens = c->text_rows + grid->video;
    grid->learned = c->learned && frames == zoe_cogvideox_sample_latents(c);
    ZOE_TRY(token_kinds(d, grid));
    if (c->rotary) ZOE_TRY(rotary_tables(d, grid));
    /* With another number of frames than it was learned for, the reference leaves the learned table, too. */
    return !grid->learned && (c->learned || !c->rotary) ? additive_table(d, grid) : ZOE_OK;
}

int zoe_cogvideox_text_create(zoe_cogvideox_denoiser *d, const float *text, zoe_tensor *tokens) {
    zoe_backend *be = d->be;
    zoe_tensor states, x;
    ZOE_TRY(ZOE_NEW(be, tokens, be->dtype, d->config.text_rows, d->width));
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(zoe_nn_from_host(be, &states, ZOE_F32, 2, (const int64_t[]){d->config.text_rows, d->config.text_dim}, text));
    ZOE_TRY(zoe_new_tensor(be, &x, be->dtype, 2, states.shape));
    ZOE_TRY(zoe_op_copy(be, &x, &states));
    ZOE_TRY(zoe_weights_acquire(d->weights, 0));
    int status = zoe_nn_linear(be, tokens, &x, &d->ends.text, ZOE_ACT_NONE);
    status = zoe_weights_release(d->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}

/* ---- forward ---- */

/* y [1, width_out] = second(silu(first(sinusoid of `value`))) */
static int embed_number(zoe_cogvideox_denoiser *d, double value, int64_t width, const zoe_lin *first, const zoe_lin *second,
                        zoe_tensor *y) {
    zoe_backend *be = d->be;
    zoe_tensor sinusoid, hidden;
    float *row;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, row, width));
    zoe_timestep_embedding(row, &value, 1, width);
    int status = zoe_nn_from_host(be, &sinusoid, ZOE_F32, 2, (const int64_t[]){1, width}, row);
    zoe_free(be->ctx, row);
    ZOE_TRY(status);
    ZOE_TRY(ZOE_NEW(be, &hidden, ZOE_F32, 1, d->config.time_dim));
    ZOE_TRY(ZOE_NEW(be, y, ZOE_F32, 1, d->config.time_dim));
    ZOE_TRY(zoe_nn_linear(be, &hidden, &sinusoid, first, ZOE_ACT_SILU));
    return zoe_nn_linear(be, y, &hidden, second, ZOE_ACT_NONE);
}

/* silu of the time embedding [1, time_dim], what every modulation is a projection of */
static int embed_time(zoe_cogvideox_denoiser *d, double timestep, zoe_tensor *time) {
    /* The motion embedding of 1.5 I2V always gets this number. */
    static const double ofs = 2;
    zoe_tensor motion;
    ZOE_TRY(embed_number(d, timestep, d->width, &d->ends.time_1, &d->ends.time_2, time));
    if (d->config.ofs_dim) {
        ZOE_TRY(embed_number(d, ofs, d->config.ofs_dim, &d->ends.ofs_1, &d->ends.ofs_2, &motion));
        ZOE_TRY(zoe_op_lincomb(d->be, time, 2, (const zoe_tensor *[]){time, &motion}, (float[]){1, 1}));
    }
    return zoe_op_activate(d->be, time, time, NULL, ZOE_ACT_SILU);
}

/* rows [2, 3, width]: shift, scale and gate of video tokens, then of text tokens */
static int modulate(zoe_cogvideox_denoiser *d, const branch *b, const zoe_tensor *time, zoe_tensor *rows) {
    ZOE_TRY(ZOE_NEW(d->be, rows, ZOE_F32, 2, 3, d->width));
    zoe_tensor flat = ZOE_VIEW(rows, 1, 6 * d->width);
    return zoe_nn_linear(d->be, &flat, time, &b->modulation, ZOE_ACT_NONE);
}

/* Norm with weight and bias `affine`, then modulation by the kind of each token. */
static zoe_norm layer_norm(const zoe_cogvideox_denoiser *d, const zoe_lin *affine, const zoe_tensor *shift,
                           const zoe_tensor *scale, const zoe_tensor *kind) {
    return (zoe_norm){.kind = ZOE_NORM_LAYER,
                      .eps = (float)d->config.eps,
                      .weight = &affine->w,
                      .bias = &affine->b,
                      .scale = scale,
                      .shift = shift,
                      .row_group = kind};
}

/* x [tokens, width] += gate * out(attention over all tokens) */
static int attention(zoe_cogvideox_denoiser *d, const block *b, const zoe_cogvideox_grid *grid, const zoe_tensor *time,
                     zoe_tensor *x) {
    const zoe_cogvideox_config *c = &d->config;
    zoe_tensor rows;
    ZOE_TRY(modulate(d, &b->attention, time, &rows));
    zoe_tensor shift = zoe_nn_chunk(&rows, 0), scale = zoe_nn_chunk(&rows, 1), gate = zoe_nn_chunk(&rows, 2);
    zoe_norm norm = layer_norm(d, &b->attention.norm, &shift, &scale, &grid->kind);
    zoe_qk qk = {.heads = c->heads,
                 .normalise = true,
                 .per_head = true,
                 .kind = ZOE_NORM_LAYER,
                 .eps = QK_EPS,
                 .cos = c->rotary ? &grid->cos : NULL,
                 .sin = c->rotary ? &grid->sin : NULL};
    return zoe_nn_self_attention(d->be, x, &norm, &b->self, &qk, &gate);
}

/* x [tokens, width] += gate * down(gelu(up(norm(x)))) */
static int feed_forward(zoe_cogvideox_denoiser *d, const block *b, const zoe_cogvideox_grid *grid, const zoe_tensor *time,
                        zoe_tensor *x) {
    zoe_tensor rows;
    ZOE_TRY(modulate(d, &b->mlp, time, &rows));
    zoe_tensor shift = zoe_nn_chunk(&rows, 0), scale = zoe_nn_chunk(&rows, 1), gate = zoe_nn_chunk(&rows, 2);
    zoe_norm norm = layer_norm(d, &b->mlp.norm, &shift, &scale, &grid->kind);
    return zoe_nn_mlp(d->be, x, &norm, &b->up, &b->down, &gate);
}

/* x: one for each branch */
static int run_block(zoe_cogvideox_denoiser *d, int layer, const zoe_cogvideox_grid *grid, const zoe_tensor *time,
                     int count, zoe_tensor *x) {
    zoe_backend *be = d->be;
    size_t mark = zoe_arena_mark(be);
    int status = ZOE_OK;
    ZOE_TRY(zoe_weights_acquire(d->weights, layer + 1));
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(attention(d, &d->blocks[layer], grid, time, &x[i]));
        zoe_arena_release(be, mark);
        ZOE_TRY_DONE(feed_forward(d, &d->blocks[layer], grid, time, &x[i]));
        zoe_arena_release(be, mark);
    }
done:
    zoe_arena_release(be, mark);
    status = zoe_weights_release(d->weights, layer + 1, status);
    return status;
}

/* Latents [frames, channels, height, width] as [grid.., channels, patch frames, patch, patch]; in a token the channel runs
 * slowest. */
static zoe_tensor as_patches(const zoe_cogvideox_config *c, const zoe_tensor *latents, int64_t frame) {
    zoe_tensor t = zoe_view_slice(latents, 0, frame, latents->shape[0] / patch_frames(c));
    t.stride[0] *= patch_frames(c);
    t = zoe_view_split(&t, 2, c->patch);
    t = zoe_view_split(&t, 4, c->patch); /* [T, C, h, ph, w, pw] */
    return zoe_view_permute(&t, (const int[]){0, 2, 4, 1, 3, 5});
}

/* Patches [video, channels * cells] as [grid.., channels, patch, patch] of one of the patch's frames. */
static zoe_tensor patch_frame(const zoe_cogvideox_config *c, const zoe_tensor *patches, const zoe_cogvideox_grid *grid,
                              int64_t channels, int64_t frame) {
    int64_t frames = patch_frames(c), cells = frames * c->patch * c->patch;
    zoe_tensor view = ZOE_VIEW(patches, grid->size[0], grid->size[1], grid->size[2], channels, frames, c->patch * c->patch);
    view = zoe_view_slice(&view, 4, frame, 1);
    return (zoe_tensor){.dtype = view.dtype,
                        .rank = 6,
                        .data = view.data,
                        .shape = {grid->size[0], grid->size[1], grid->size[2], channels, c->patch, c->patch},
                        .stride = {view.stride[0], view.stride[1], view.stride[2], cells, c->patch, 1}};
}

/* x [video, width] from latents joined over channels */
static int patchify(zoe_cogvideox_denoiser *d, const zoe_cogvideox_grid *grid, int parts, const zoe_tensor *const *latents,
                    zoe_tensor *x) {
    zoe_backend *be = d->be;
    const zoe_cogvideox_config *c = &d->config;
    int64_t frames = patch_frames(c), channel = 0;
    zoe_tensor patches;
    ZOE_TRY(ZOE_NEW(be, &patches, be->dtype, grid->video, c->in_channels * frames * c->patch * c->patch));
    for (int i = 0; i < parts; i++) {
        for (int64_t frame = 0; frame < frames; frame++) {
            zoe_tensor all = patch_frame(c, &patches, grid, c->in_channels, frame);
            zoe_tensor to = zoe_view_slice(&all, 3, channel, latents[i]->shape[1]);
            zoe_tensor from = as_patches(c, latents[i], frame);
            ZOE_TRY(zoe_op_copy(be, &to, &from));
        }
        channel += latents[i]->shape[1];
    }
    if (channel != c->in_channels)
        return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "denoiser: %lld channels given, %lld wanted", (long long)channel,
                        (long long)c->in_channels);
    return zoe_nn_linear(be, x, &patches, &d->ends.patch, ZOE_ACT_NONE);
}

/* x [tokens, width]: text and patches with their positions */
static int embed(zoe_cogvideox_denoiser *d, const zoe_cogvideox_grid *grid, const zoe_tensor *text, int parts,
                 const zoe_tensor *const *latents, zoe_tensor *x) {
    zoe_backend *be = d->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor words = zoe_view_slice(x, 0, 0, d->config.text_rows);
    zoe_tensor video = zoe_view_slice(x, 0, d->config.text_rows, grid->video);
    ZOE_TRY(zoe_op_copy(be, &words, text));
    ZOE_TRY(patchify(d, grid, parts, latents, &video));
    zoe_arena_release(be, mark);
    if (grid->learned) {
        zoe_tensor table = ZOE_VIEW(&d->ends.positions, grid->tokens, d->width);
        return zoe_op_lincomb(be, x, 2, (const zoe_tensor *[]){x, &table}, (float[]){1, 1});
    }
    if (!grid->positions.rank) return ZOE_OK;
    return zoe_op_lincomb(be, &video, 2, (const zoe_tensor *[]){&video, &grid->positions}, (float[]){1, 1});
}

/* v from the video's tokens of x */
static int project_out(zoe_cogvideox_denoiser *d, const zoe_cogvideox_grid *grid, const zoe_tensor *time,
                       const zoe_tensor *x, zoe_tensor *v) {
    zoe_backend *be = d->be;
    const zoe_cogvideox_config *c = &d->config;
    int64_t frames = patch_frames(c);
    zoe_tensor rows, n, out, video = zoe_view_slice(x, 0, c->text_rows, grid->video);
    ZOE_TRY(ZOE_NEW(be, &rows, ZOE_F32, 1, 2, d->width));
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, grid->video, d->width));
    ZOE_TRY(ZOE_NEW(be, &out, be->dtype, grid->video, c->out_channels * frames * c->patch * c->patch));
    zoe_tensor flat = ZOE_VIEW(&rows, 1, 2 * d->width);
    ZOE_TRY(zoe_nn_linear(be, &flat, time, &d->ends.modulation, ZOE_ACT_NONE));
    zoe_tensor shift = zoe_nn_chunk(&rows, 0), scale = zoe_nn_chunk(&rows, 1);
    zoe_norm final = layer_norm(d, &d->ends.norm_final, NULL, NULL, NULL);
    zoe_norm last = layer_norm(d, &d->ends.norm_out, &shift, &scale, NULL);
    ZOE_TRY(zoe_op_norm(be, &n, &video, &final));
    ZOE_TRY(zoe_op_norm(be, &n, &n, &last));
    ZOE_TRY(zoe_nn_linear(be, &out, &n, &d->ends.out, ZOE_ACT_NONE));
    for (int64_t frame = 0; frame < frames; frame++) {
        zoe_tensor from = patch_frame(c, &out, grid, c->out_channels, frame), to = as_patches(c, v, frame);
        ZOE_TRY(zoe_op_copy(be, &to, &from));
    }
    return ZOE_OK;
}

/* The branches together. */
static int forward(zoe_cogvideox_denoiser *d, const zoe_cogvideox_grid *grid, int parts, const zoe_tensor *const *latents,
                   double timestep, int count, const zoe_cogvideox_branch *branches) {
    zoe_backend *be = d->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor x[ZOE_BRANCHES], time;
    int status;
    ZOE_TRY(zoe_weights_acquire(d->weights, 0));
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(ZOE_NEW(be, &x[i], be->dtype, grid->tokens, d->width));
        ZOE_TRY_DONE(embed(d, grid, branches[i].text, parts, latents, &x[i]));
    }
    ZOE_TRY_DONE(embed_time(d, timestep, &time));
    for (int layer = 0; layer < (int)d->config.layers; layer++) {
        ZOE_TRY_DONE(zoe_check_cancelled(be->ctx));
        ZOE_TRY_DONE(run_block(d, layer, grid, &time, count, x));
    }
    size_t inner = zoe_arena_mark(be);
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(project_out(d, grid, &time, &x[i], branches[i].v));
        zoe_arena_release(be, inner);
    }
done:
    status = zoe_weights_release(d->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}

int zoe_cogvideox_denoiser_forward(zoe_cogvideox_denoiser *d, const zoe_cogvideox_grid *grid, int parts,
                                   const zoe_tensor *const *latents, double timestep, int count,
                                   const zoe_cogvideox_branch *branches) {
    int at_once = d->be->together ? count : 1;
    for (int i = 0; i < count; i += at_once) ZOE_TRY(forward(d, grid, parts, latents, timestep, at_once, branches + i));
    return ZOE_OK;
}
