#include "models/wan/denoiser.h"

#include <math.h>

#include "models/wan/names.h"
#include "nn/block.h"

typedef struct block {
    zoe_projections self, cross;
    zoe_lin image_k, image_v, norm_image_k; /* of cross-attention */
    zoe_lin norm;                           /* before cross-attention */
    zoe_lin up, down;
    zoe_tensor table; /* [1, 6, width] */
} block;

typedef struct ends {
    zoe_lin patch, text_1, text_2, out;
    zoe_tensor image_norm_1w, image_norm_1b, image_norm_2w, image_norm_2b, image_positions;
    zoe_lin image_1, image_2;
    zoe_time_layers time;
    zoe_tensor table; /* [1, 2, width] */
} ends;

struct zoe_wan_denoiser {
    zoe_backend *be;
    zoe_wan_config config;
    int64_t width;
    zoe_weights *weights;
    ends ends;
    block *blocks;
};

/*
 * D width, F ffn, I/O in and out channels, H/W patch height and width, S sinusoid, T text, E image features,
 * P positions of image features
 */
static const zoe_slot end_slots[] = {
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, patch, "patch_embedding", "D", "I 1 H W", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, time.first, "condition_embedder.time_embedder.linear_1", "D", "S", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, time.second, "condition_embedder.time_embedder.linear_2", "D", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, time.projection, "condition_embedder.time_proj", "6D", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, text_1, "condition_embedder.text_embedder.linear_1", "D", "T", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, text_2, "condition_embedder.text_embedder.linear_2", "D", "D", 0),
    {"condition_embedder.image_embedder.norm1.weight", offsetof(ends, image_norm_1w), ZOE_SLOT_VECTOR, "E", 'E'},
    {"condition_embedder.image_embedder.norm1.bias", offsetof(ends, image_norm_1b), ZOE_SLOT_VECTOR, "E", 'E'},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, image_1, "condition_embedder.image_embedder.ff.net.0.proj", "E", "E", 'E'),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, image_2, "condition_embedder.image_embedder.ff.net.2", "D", "E", 'E'),
    {"condition_embedder.image_embedder.norm2.weight", offsetof(ends, image_norm_2w), ZOE_SLOT_VECTOR, "D", 'E'},
    {"condition_embedder.image_embedder.norm2.bias", offsetof(ends, image_norm_2b), ZOE_SLOT_VECTOR, "D", 'E'},
    {"condition_embedder.image_embedder.pos_embed", offsetof(ends, image_positions), ZOE_SLOT_VECTOR, "1 P E", 'P'},
    {"scale_shift_table", offsetof(ends, table), ZOE_SLOT_VECTOR, "1 2 D", 0},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, out, "proj_out", "HWO", "D", 0),
    {0},
};

static const zoe_slot block_slots[] = {
    {"scale_shift_table", offsetof(block, table), ZOE_SLOT_VECTOR, "1 6 D", 0},
    ZOE_LIN_SLOTS(block, self.q, "attn1.to_q", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.k, "attn1.to_k", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.v, "attn1.to_v", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.o, "attn1.to_out.0", "D", "D", 0),
    {"attn1.norm_q.weight", offsetof(block, self.norm_q.w), ZOE_SLOT_VECTOR, "D", 0},
    {"attn1.norm_k.weight", offsetof(block, self.norm_k.w), ZOE_SLOT_VECTOR, "D", 0},
    {"norm2.weight", offsetof(block, norm.w), ZOE_SLOT_VECTOR, "D", 0},
    {"norm2.bias", offsetof(block, norm.b), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS(block, cross.q, "attn2.to_q", "D", "D", 0),
    ZOE_LIN_SLOTS(block, cross.k, "attn2.to_k", "D", "D", 0),
    ZOE_LIN_SLOTS(block, cross.v, "attn2.to_v", "D", "D", 0),
    ZOE_LIN_SLOTS(block, cross.o, "attn2.to_out.0", "D", "D", 0),
    {"attn2.norm_q.weight", offsetof(block, cross.norm_q.w), ZOE_SLOT_VECTOR, "D", 0},
    {"attn2.norm_k.weight", offsetof(block, cross.norm_k.w), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS(block, image_k, "attn2.add_k_proj", "D", "D", 'E'),
    ZOE_LIN_SLOTS(block, image_v, "attn2.add_v_proj", "D", "D", 'E'),
    {"attn2.norm_added_k.weight", offsetof(block, norm_image_k.w), ZOE_SLOT_VECTOR, "D", 'E'},
    ZOE_LIN_SLOTS(block, up, "ffn.net.0.proj", "F", "D", 0),
    ZOE_LIN_SLOTS(block, down, "ffn.net.2", "D", "F", 0),
    {0},
};

/* ---- set-up ---- */

static int bind(zoe_wan_denoiser *d) {
    const zoe_wan_config *c = &d->config;
    const zoe_dims dims = {['D' - 'A'] = d->width,          ['F' - 'A'] = c->ffn,      ['I' - 'A'] = c->in_channels,
                           ['O' - 'A'] = c->out_channels,   ['H' - 'A'] = c->patch[1], ['W' - 'A'] = c->patch[2],
                           ['S' - 'A'] = c->freq_dim,       ['T' - 'A'] = c->text_dim, ['E' - 'A'] = c->image_dim,
                           ['P' - 'A'] = c->image_positions};
    ZOE_TRY(zoe_weights_unit(d->weights));
    ZOE_TRY(zoe_weights_bind(d->weights, end_slots, dims, &d->ends, "%s", ""));
    ZOE_TRY(zoe_weights_bind_blocks(d->weights, block_slots, dims, d->blocks, sizeof *d->blocks, c->layers, "blocks."));
    return zoe_weights_check(d->weights);
}

int zoe_wan_denoiser_create(zoe_backend *be, const zoe_wan_config *config, const zoe_checkpoint *ckpt, zoe_weight_form form,
                            zoe_wan_denoiser **out) {
    int status;
    zoe_wan_denoiser *d;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, d, 1));
    d->be = be;
    d->config = *config;
    d->width = config->heads * config->head_dim;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, d->blocks, config->layers));
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "denoiser", zoe_wan_denoiser_aliases, form, &d->weights));
    ZOE_TRY_DONE(bind(d));
    *out = d;
    return ZOE_OK;
done:
    zoe_wan_denoiser_free(d);
    return status;
}

void zoe_wan_denoiser_free(zoe_wan_denoiser *d) {
    if (!d) return;
    zoe_weights_free(d->weights);
    zoe_free(d->be->ctx, d->blocks);
    zoe_free(d->be->ctx, d);
}

zoe_weights *zoe_wan_denoiser_weights(zoe_wan_denoiser *d) {
    return d->weights;
}

const zoe_wan_config *zoe_wan_denoiser_config(const zoe_wan_denoiser *d) {
    return &d->config;
}

int zoe_wan_grid_create(zoe_wan_denoiser *d, int64_t frames, int64_t height, int64_t width, zoe_wan_grid *grid) {
    zoe_context *ctx = d->be->ctx;
    const zoe_wan_config *c = &d->config;
    int64_t space = 2 * (c->head_dim / 6), half = c->head_dim / 2;
    int64_t dim[3] = {c->head_dim - 2 * space, space, space};
    *grid = (zoe_wan_grid){.size = {frames, height / c->patch[1], width / c->patch[2]}};
    grid->tokens = grid->size[0] * grid->size[1] * grid->size[2];
    int64_t shape[2] = {grid->tokens, half};
    float *host;
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, host, 2 * grid->tokens * half));
    if (d->be->ops->computes) zoe_rotary_grid(host, host + grid->tokens * half, grid->size, dim, 10000);
    int status = zoe_nn_from_host(d->be, &grid->cos, ZOE_F32, 2, shape, host);
    if (status == ZOE_OK) status = zoe_nn_from_host(d->be, &grid->sin, ZOE_F32, 2, shape, host + grid->tokens * half);
    zoe_free(ctx, host);
    return status;
}

/* ---- text and image ---- */

/* rows [n, width] of the embedded text */
static int embed_text(zoe_wan_denoiser *d, const float *text, int64_t count, int64_t rows, zoe_tensor *y) {
    zoe_backend *be = d->be;
    zoe_tensor in, x, hidden;
    ZOE_TRY(ZOE_NEW(be, &in, ZOE_F32, rows, d->config.text_dim));
    ZOE_TRY(zoe_op_zero(be, &in));
    zoe_tensor valid = zoe_view_slice(&in, 0, 0, count);
    ZOE_TRY(zoe_upload(be, &valid, text));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, rows, d->config.text_dim));
    ZOE_TRY(zoe_op_copy(be, &x, &in));
    ZOE_TRY(ZOE_NEW(be, &hidden, be->dtype, rows, d->width));
    ZOE_TRY(zoe_nn_linear(be, &hidden, &x, &d->ends.text_1, ZOE_ACT_GELU_TANH));
    return zoe_nn_linear(be, y, &hidden, &d->ends.text_2, ZOE_ACT_NONE);
}

/* rows [n, width] of the embedded image features */
static int embed_image(zoe_wan_denoiser *d, const float *image, int64_t rows, zoe_tensor *y) {
    zoe_backend *be = d->be;
    const ends *e = &d->ends;
    int64_t dim = d->config.image_dim;
    zoe_tensor in, x, hidden, wide;
    ZOE_TRY(zoe_nn_from_host(be, &in, ZOE_F32, 2, (const int64_t[]){rows, dim}, image));
    if (d->config.image_positions) {
        zoe_tensor positions = ZOE_VIEW(&e->image_positions, d->config.image_positions, dim);
        if (rows != d->config.image_positions)
            return zoe_fail(be->ctx, ZOE_ERR_ARGUMENT,
                            "this model wants %lld rows of image features (first and last frame), got %lld",
                            (long long)d->config.image_positions, (long long)rows);
        ZOE_TRY(zoe_op_lincomb(be, &in, 2, (const zoe_tensor *[]){&in, &positions}, (float[]){1, 1}));
    }
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, rows, dim));
    ZOE_TRY(ZOE_NEW(be, &hidden, be->dtype, rows, dim));
    ZOE_TRY(ZOE_NEW(be, &wide, be->dtype, rows, d->width));
    ZOE_TRY(zoe_nn_norm(be, &x, &in, ZOE_NORM_LAYER, 1e-5f, &e->image_norm_1w, &e->image_norm_1b, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &hidden, &x, &e->image_1, ZOE_ACT_GELU_ERF));
    ZOE_TRY(zoe_nn_linear(be, &wide, &hidden, &e->image_2, ZOE_ACT_NONE));
    return zoe_nn_norm(be, y, &wide, ZOE_NORM_LAYER, 1e-5f, &e->image_norm_2w, &e->image_norm_2b, ZOE_ACT_NONE);
}

/* With the block's weights there. */
static int block_context(zoe_wan_denoiser *d, int layer, zoe_wan_context *c) {
    const block *b = &d->blocks[layer];
    const zoe_projections *p = &b->cross;
    float eps = (float)d->config.eps;
    if (layer < c->done) return ZOE_OK;
    ZOE_TRY(zoe_nn_keys_values(d->be, &c->text, &p->k, &p->v, &p->norm_k.w, eps, layer, &c->keys, &c->values));
    if (c->image.rank)
        ZOE_TRY(zoe_nn_keys_values(d->be, &c->image, &b->image_k, &b->image_v, &b->norm_image_k.w, eps, layer,
                                   &c->image_keys, &c->image_values));
    c->done = layer + 1;
    return ZOE_OK;
}

int zoe_wan_context_create(zoe_wan_denoiser *d, const float *text, int64_t count, const float *image, int64_t image_rows,
                           zoe_wan_context *context) {
    zoe_backend *be = d->be;
    int64_t layers = d->config.layers, padding = ZOE_WAN_TEXT_ROWS - count;
    /* All padding rows are equal: one of them, counted often, where attention can do that. */
    int64_t rows = be->ops->key_repeats && padding > 0 ? count + 1 : ZOE_WAN_TEXT_ROWS;
    *context = (zoe_wan_context){.last_repeats = be->ops->key_repeats ? padding : 0};
    ZOE_TRY(ZOE_NEW(be, &context->keys, be->dtype, layers, rows, d->width));
    ZOE_TRY(ZOE_NEW(be, &context->values, be->dtype, layers, rows, d->width));
    ZOE_TRY(ZOE_NEW(be, &context->text, be->dtype, rows, d->width));
    if (image) {
        ZOE_TRY(ZOE_NEW(be, &context->image_keys, be->dtype, layers, image_rows, d->width));
        ZOE_TRY(ZOE_NEW(be, &context->image_values, be->dtype, layers, image_rows, d->width));
        ZOE_TRY(ZOE_NEW(be, &context->image, be->dtype, image_rows, d->width));
    }
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(zoe_weights_acquire(d->weights, 0));
    int status = embed_text(d, text, count, rows, &context->text);
    if (status == ZOE_OK && image) status = embed_image(d, image, image_rows, &context->image);
    status = zoe_weights_release(d->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}

/* ---- forward ---- */

/* The timestep's part of a forward. */
typedef struct modulation {
    zoe_modulation rows; /* one a group of tokens */
    int groups;
    zoe_tensor row_group; /* [tokens] i32, or rank 0 with one group */
} modulation;

static const zoe_tensor *row_group(const modulation *m) {
    return m->row_group.rank ? &m->row_group : NULL;
}

static int time_modulation(zoe_wan_denoiser *d, const zoe_wan_grid *grid, const zoe_wan_step *step, modulation *m) {
    zoe_backend *be = d->be;
    int32_t *group;
    *m = (modulation){.groups = step->groups};
    ZOE_TRY(zoe_nn_modulation(be, &d->ends.time, d->config.freq_dim, step->groups, step->timesteps, &m->rows));
    if (step->groups < 2) return ZOE_OK;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, group, grid->tokens));
    for (int64_t i = step->start; i < grid->tokens; i++) group[i] = 1;
    int status = zoe_nn_from_host(be, &m->row_group, ZOE_I32, 1, &grid->tokens, group);
    zoe_free(be->ctx, group);
    return status;
}

/* norm(x) * (1 + scale) + shift */
static zoe_norm modulated(const zoe_wan_denoiser *d, const zoe_tensor *shift, const zoe_tensor *scale,
                          const zoe_tensor *groups) {
    return (
        zoe_norm){.kind = ZOE_NORM_LAYER, .eps = (float)d->config.eps, .scale = scale, .shift = shift, .row_group = groups};
}

/* x [tokens, width] += gate * out(attention over all tokens) */
static int self_attention(zoe_wan_denoiser *d, const zoe_projections *p, const zoe_wan_grid *grid, const zoe_tensor *rows,
                          const modulation *m, zoe_tensor *x) {
    zoe_tensor shift = zoe_nn_chunk(rows, 0), scale = zoe_nn_chunk(rows, 1), gate = zoe_nn_chunk(rows, 2);
    zoe_norm norm = modulated(d, &shift, &scale, row_group(m));
    zoe_qk qk = {.heads = d->config.heads,
                 .normalise = true,
                 .kind = ZOE_NORM_RMS,
                 .eps = (float)d->config.eps,
                 .cos = &grid->cos,
                 .sin = &grid->sin};
    return zoe_nn_self_attention(d->be, x, &norm, p, &qk, &gate);
}

/* Row `layer` of keys or values [layers, rows, width], as [heads, rows, head_dim]. */
static zoe_tensor layer_heads(const zoe_wan_denoiser *d, const zoe_tensor *all, int layer) {
    zoe_tensor one = zoe_view_slice(all, 0, layer, 1);
    one = ZOE_VIEW(&one, all->shape[1], d->width);
    return zoe_view_heads(&one, d->config.heads);
}

/* y [tokens, width] = attention of q to the text, and to the image if there is one */
static int attend_context(zoe_wan_denoiser *d, int layer, const zoe_wan_context *context, const zoe_tensor *q,
                          zoe_tensor *y) {
    const zoe_wan_config *c = &d->config;
    zoe_attention p = {.scale = 1 / sqrtf((float)c->head_dim), .last_key_repeats = context->last_repeats};
    zoe_tensor yh = zoe_view_heads(y, c->heads), qh = zoe_view_heads(q, c->heads), image_k, image_v;
    zoe_tensor k = layer_heads(d, &context->keys, layer), v = layer_heads(d, &context->values, layer);
    if (context->image_keys.rank) {
        image_k = layer_heads(d, &context->image_keys, layer), image_v = layer_heads(d, &context->image_values, layer);
        p.more_k = &image_k, p.more_v = &image_v;
    }
    return zoe_op_attention(d->be, &yh, &qh, &k, &v, &p);
}

/* x [tokens, width] += out(attention(norm(norm(x) q), text) + attention(.., image)) */
static int cross_attention(zoe_wan_denoiser *d, int layer, const zoe_wan_context *context, zoe_tensor *x) {
    zoe_backend *be = d->be;
    const block *b = &d->blocks[layer];
    int64_t tokens = x->shape[0];
    zoe_tensor n, q, y;
    ZOE_TRY(ZOE_NEW(be, &q, be->dtype, tokens, d->width));
    size_t inner = zoe_arena_mark(be);
    ZOE_TRY(zoe_new_rows(be, &n, zoe_nn_rows_for(be, &b->cross.q), tokens, d->width));
    ZOE_TRY(zoe_nn_norm(be, &n, x, ZOE_NORM_LAYER, (float)d->config.eps, &b->norm.w, &b->norm.b, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &q, &n, &b->cross.q, ZOE_ACT_NONE));
    zoe_arena_release(be, inner);
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, tokens, d->width));
    ZOE_TRY(zoe_nn_norm(be, &q, &q, ZOE_NORM_RMS, (float)d->config.eps, &b->cross.norm_q.w, NULL, ZOE_ACT_NONE));
    ZOE_TRY(attend_context(d, layer, context, &q, &y));
    return zoe_nn_linear_add(be, x, &y, &b->cross.o, x, NULL, NULL);
}

/* x [tokens, width] += gate * down(gelu(up(norm(x)))) */
static int feed_forward(zoe_wan_denoiser *d, const block *b, const zoe_tensor *rows, const modulation *m, zoe_tensor *x) {
    zoe_tensor shift = zoe_nn_chunk(rows, 3), scale = zoe_nn_chunk(rows, 4), gate = zoe_nn_chunk(rows, 5);
    zoe_norm norm = modulated(d, &shift, &scale, row_group(m));
    return zoe_nn_mlp(d->be, x, &norm, &b->up, &b->down, &gate);
}

/* x: one for each branch */
static int run_block(zoe_wan_denoiser *d, int layer, const zoe_wan_grid *grid, const modulation *m, int count,
                     const zoe_wan_branch *branches, zoe_tensor *x) {
    zoe_backend *be = d->be;
    const block *b = &d->blocks[layer];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor rows;
    int status;
    ZOE_TRY(zoe_weights_acquire(d->weights, layer + 1));
    ZOE_TRY_DONE(ZOE_NEW(be, &rows, ZOE_F32, m->groups, 6, d->width));
    ZOE_TRY_DONE(zoe_nn_add_table(be, &b->table, &m->rows.six, &rows));
    size_t inner = zoe_arena_mark(be);
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(block_context(d, layer, branches[i].context));
        ZOE_TRY_DONE(self_attention(d, &b->self, grid, &rows, m, &x[i]));
        zoe_arena_release(be, inner);
        ZOE_TRY_DONE(cross_attention(d, layer, branches[i].context, &x[i]));
        zoe_arena_release(be, inner);
        ZOE_TRY_DONE(feed_forward(d, b, &rows, m, &x[i]));
        zoe_arena_release(be, inner);
    }
done:
    zoe_arena_release(be, mark);
    status = zoe_weights_release(d->weights, layer + 1, status);
    return status;
}

/* x [tokens, width] from latents [channels, frames, height, width] joined over channels */
static int patchify(zoe_wan_denoiser *d, const zoe_wan_grid *grid, const zoe_wan_step *step, zoe_tensor *x) {
    zoe_backend *be = d->be;
    const zoe_wan_config *c = &d->config;
    zoe_tensor patches;
    ZOE_TRY(ZOE_NEW(be, &patches, be->dtype, grid->tokens, c->in_channels * c->patch[1] * c->patch[2]));
    zoe_tensor all =
        ZOE_VIEW(&patches, grid->size[0], grid->size[1], grid->size[2], c->in_channels, c->patch[1], c->patch[2]);
    int64_t channel = 0;
    for (int i = 0; i < step->parts; i++) {
        zoe_tensor to = zoe_view_slice(&all, 3, channel, step->latents[i]->shape[0]);
        zoe_tensor rows = zoe_view_split(step->latents[i], 2, c->patch[1]); /* [C, T, h, ph, W] */
        zoe_tensor cells = zoe_view_split(&rows, 4, c->patch[2]);           /* [C, T, h, ph, w, pw] */
        zoe_tensor from = zoe_view_permute(&cells, (const int[]){1, 2, 4, 0, 3, 5});
        ZOE_TRY(zoe_op_copy(be, &to, &from));
        channel += step->latents[i]->shape[0];
    }
    if (channel != c->in_channels)
        return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "denoiser: %lld channels given, %lld wanted", (long long)channel,
                        (long long)c->in_channels);
    return zoe_nn_linear(be, x, &patches, &d->ends.patch, ZOE_ACT_NONE);
}

/* v [channels, frames, height, width] from x [tokens, width]; in a token the channel runs fastest */
static int project_out(zoe_wan_denoiser *d, const zoe_wan_grid *grid, const modulation *m, const zoe_tensor *x,
                       zoe_tensor *v) {
    zoe_backend *be = d->be;
    const zoe_wan_config *c = &d->config;
    zoe_tensor rows, n, out, temb = ZOE_VIEW(&m->rows.embedding, m->groups, 1, d->width);
    ZOE_TRY(ZOE_NEW(be, &rows, ZOE_F32, m->groups, 2, d->width));
    ZOE_TRY(zoe_nn_add_table(be, &d->ends.table, &temb, &rows));
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, grid->tokens, d->width));
    zoe_tensor shift = zoe_nn_chunk(&rows, 0), scale = zoe_nn_chunk(&rows, 1);
    zoe_norm norm = modulated(d, &shift, &scale, row_group(m));
    ZOE_TRY(zoe_op_norm(be, &n, x, &norm));
    ZOE_TRY(ZOE_NEW(be, &out, be->dtype, grid->tokens, c->out_channels * c->patch[1] * c->patch[2]));
    ZOE_TRY(zoe_nn_linear(be, &out, &n, &d->ends.out, ZOE_ACT_NONE));
    zoe_tensor from =
        ZOE_VIEW(&out, grid->size[0], grid->size[1], grid->size[2], c->patch[1], c->patch[2], c->out_channels);
    zoe_tensor split = zoe_view_split(v, 2, c->patch[1]);
    split = zoe_view_split(&split, 4, c->patch[2]); /* [C, T, h, ph, w, pw] */
    zoe_tensor to = zoe_view_permute(&split, (const int[]){1, 2, 4, 3, 5, 0});
    return zoe_op_copy(be, &to, &from);
}

/* The branches together. */
static int forward(zoe_wan_denoiser *d, const zoe_wan_grid *grid, const zoe_wan_step *step, int count,
                   const zoe_wan_branch *branches) {
    zoe_backend *be = d->be;
    size_t mark = zoe_arena_mark(be);
    modulation m;
    zoe_tensor x[ZOE_BRANCHES];
    int status;
    ZOE_TRY(zoe_weights_acquire(d->weights, 0));
    for (int i = 0; i < count; i++) ZOE_TRY_DONE(ZOE_NEW(be, &x[i], be->dtype, grid->tokens, d->width));
    ZOE_TRY_DONE(time_modulation(d, grid, step, &m));
    size_t inner = zoe_arena_mark(be);
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(patchify(d, grid, step, &x[i]));
        zoe_arena_release(be, inner);
    }
    for (int layer = 0; layer < (int)d->config.layers; layer++) {
        ZOE_TRY_DONE(zoe_check_cancelled(be->ctx));
        ZOE_TRY_DONE(run_block(d, layer, grid, &m, count, branches, x));
    }
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(project_out(d, grid, &m, &x[i], branches[i].v));
        zoe_arena_release(be, inner);
    }
done:
    status = zoe_weights_release(d->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}

int zoe_wan_denoiser_forward(zoe_wan_denoiser *d, const zoe_wan_grid *grid, const zoe_wan_step *step, int count,
                             const zoe_wan_branch *branches) {
    int at_once = d->be->together ? count : 1;
    for (int i = 0; i < count; i += at_once) ZOE_TRY(forward(d, grid, step, at_once, branches + i));
    return ZOE_OK;
}
