#include "models/ltx/denoiser.h"

#include <math.h>
#include <string.h>

#include "models/ltx/names.h"
#include "nn/block.h"

#define FREQ_DIM 256
#define QK_EPS   1e-5f

typedef struct block {
    zoe_projections self, cross;
    zoe_lin up, down;
    zoe_tensor table; /* [6, width] */
} block;

typedef struct ends {
    zoe_lin in, text_1, text_2, out;
    zoe_time_layers time;
    zoe_tensor table; /* [2, width] */
} ends;

struct zoe_ltx_denoiser {
    zoe_backend *be;
    zoe_ltx_config config;
    int64_t width;
    zoe_weights *weights;
    ends ends;
    block *blocks;
};

/* D width, I/O channels in and out, S sinusoid, T text */
static const zoe_slot end_slots[] = {
    {"scale_shift_table", offsetof(ends, table), ZOE_SLOT_VECTOR, "2 D", 0},
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, in, "proj_in", "D", "I", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, time.first, "time_embed.emb.timestep_embedder.linear_1", "D", "S", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ends, time.second, "time_embed.emb.timestep_embedder.linear_2", "D", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, time.projection, "time_embed.linear", "6D", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, text_1, "caption_projection.linear_1", "D", "T", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, text_2, "caption_projection.linear_2", "D", "D", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_KEPT, ends, out, "proj_out", "O", "D", 0),
    {0},
};

static const zoe_slot block_slots[] = {
    {"scale_shift_table", offsetof(block, table), ZOE_SLOT_VECTOR, "6 D", 0},
    {"attn1.norm_q.weight", offsetof(block, self.norm_q.w), ZOE_SLOT_VECTOR, "D", 0},
    {"attn1.norm_k.weight", offsetof(block, self.norm_k.w), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS(block, self.q, "attn1.to_q", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.k, "attn1.to_k", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.v, "attn1.to_v", "D", "D", 0),
    ZOE_LIN_SLOTS(block, self.o, "attn1.to_out.0", "D", "D", 0),
    {"attn2.norm_q.weight", offsetof(block, cross.norm_q.w), ZOE_SLOT_VECTOR, "D", 0},
    {"attn2.norm_k.weight", offsetof(block, cross.norm_k.w), ZOE_SLOT_VECTOR, "D", 0},
    ZOE_LIN_SLOTS(block, cross.q, "attn2.to_q", "D", "D", 0),
    ZOE_LIN_SLOTS(block, cross.k, "attn2.to_k", "D", "D", 0),
    ZOE_LIN_SLOTS(block, cross.v, "attn2.to_v", "D", "D", 0),
    ZOE_LIN_SLOTS(block, cross.o, "attn2.to_out.0", "D", "D", 0),
    ZOE_LIN_SLOTS(block, up, "ff.net.0.proj", "4D", "D", 0),
    ZOE_LIN_SLOTS(block, down, "ff.net.2", "D", "4D", 0),
    {0},
};

/* ---- set-up ---- */

static int check_config(const zoe_config *config, const zoe_ltx_config *c) {
    const char *activation = "gelu-approximate", *norm = "rms_norm_across_heads";
    int64_t patch = 1, patch_time = 1, width = c->heads * c->head_dim, cross = width;
    bool affine = false, bias = true, out_bias = true;
    ZOE_TRY(zoe_config_text(config, "activation_fn", &activation));
    ZOE_TRY(zoe_config_text(config, "qk_norm", &norm));
    ZOE_TRY(zoe_config_int(config, "patch_size", 1, 64, &patch));
    ZOE_TRY(zoe_config_int(config, "patch_size_t", 1, 64, &patch_time));
    ZOE_TRY(zoe_config_int(config, "cross_attention_dim", 1, 1 << 20, &cross));
    ZOE_TRY(zoe_config_bool(config, "norm_elementwise_affine", &affine));
    ZOE_TRY(zoe_config_bool(config, "attention_bias", &bias));
    ZOE_TRY(zoe_config_bool(config, "attention_out_bias", &out_bias));
    if (strcmp(activation, "gelu-approximate") == 0 && strcmp(norm, "rms_norm_across_heads") == 0 && patch == 1 &&
        patch_time == 1 && cross == width && !affine && bias && out_bias)
        return ZOE_OK;
    return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED,
                    "%s: expected activation_fn \"gelu-approximate\", qk_norm \"rms_norm_across_heads\", patch sizes of 1, "
                    "cross_attention_dim %lld, norms without weights and attention with biases",
                    config->path, (long long)width);
}

int zoe_ltx_config_read(const zoe_config *config, zoe_ltx_config *out) {
    *out = (zoe_ltx_config){.layers = 28,
                            .heads = 32,
                            .head_dim = 64,
                            .in_channels = 128,
                            .out_channels = 128,
                            .text_dim = 4096,
                            .eps = 1e-6};
    ZOE_TRY(zoe_config_int(config, "num_layers", 1, 1000, &out->layers));
    ZOE_TRY(zoe_config_int(config, "num_attention_heads", 1, 4096, &out->heads));
    ZOE_TRY(zoe_config_int(config, "attention_head_dim", 2, 4096, &out->head_dim));
    ZOE_TRY(zoe_config_int(config, "in_channels", 1, 4096, &out->in_channels));
    ZOE_TRY(zoe_config_int(config, "out_channels", 1, 4096, &out->out_channels));
    ZOE_TRY(zoe_config_int(config, "caption_channels", 1, 1 << 20, &out->text_dim));
    ZOE_TRY(zoe_config_real(config, "norm_eps", &out->eps));
    if (out->head_dim % 2 || out->heads * out->head_dim < 12)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED,
                        "%s: expected an even attention_head_dim and a width of 12 or more", config->path);
    return check_config(config, out);
}

static int bind(zoe_ltx_denoiser *d) {
    const zoe_ltx_config *c = &d->config;
    const zoe_dims dims = {['D' - 'A'] = d->width,
                           ['I' - 'A'] = c->in_channels,
                           ['O' - 'A'] = c->out_channels,
                           ['S' - 'A'] = FREQ_DIM,
                           ['T' - 'A'] = c->text_dim};
    ZOE_TRY(zoe_weights_unit(d->weights));
    ZOE_TRY(zoe_weights_bind(d->weights, end_slots, dims, &d->ends, "%s", ""));
    ZOE_TRY(zoe_weights_bind_blocks(d->weights, block_slots, dims, d->blocks, sizeof *d->blocks, c->layers,
                                    "transformer_blocks."));
    return zoe_weights_check(d->weights);
}

int zoe_ltx_denoiser_create(zoe_backend *be, const zoe_ltx_config *config, const zoe_checkpoint *ckpt, zoe_weight_form form,
                            zoe_ltx_denoiser **out) {
    int status;
    zoe_ltx_denoiser *d;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, d, 1));
    d->be = be;
    d->config = *config;
    d->width = config->heads * config->head_dim;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, d->blocks, config->layers));
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "denoiser", zoe_ltx_denoiser_aliases, form, &d->weights));
    ZOE_TRY_DONE(bind(d));
    *out = d;
    return ZOE_OK;
done:
    zoe_ltx_denoiser_free(d);
    return status;
}

void zoe_ltx_denoiser_free(zoe_ltx_denoiser *d) {
    if (!d) return;
    zoe_weights_free(d->weights);
    zoe_free(d->be->ctx, d->blocks);
    zoe_free(d->be->ctx, d);
}

zoe_weights *zoe_ltx_denoiser_weights(zoe_ltx_denoiser *d) {
    return d->weights;
}

const zoe_ltx_config *zoe_ltx_denoiser_config(const zoe_ltx_denoiser *d) {
    return &d->config;
}

/* ---- positions ---- */

/*
 * Position of a token on each axis as a fraction of 20 seconds and 2048 pixels. In float32, in the reference's order of
 * operations: the highest frequencies turn the smallest difference into another angle.
 */
static void fractions(const zoe_ltx_place *p, int64_t frame, int64_t y, int64_t x, float out[3]) {
    if (p->causal || frame < p->fronts) {
        int64_t later = frame - p->fronts, pixel = later < 0 ? p->front_pixels[frame] : later > 0 ? 8 * later - 7 : 0;
        out[0] = (float)pixel * (float)(1.0 / p->fps) / 20.0f;
    } else {
        out[0] = (float)(frame - p->fronts) * (float)(8.0 / p->fps) / 20.0f;
    }
    out[1] = (float)(32 * y) / 2048.0f;
    out[2] = (float)(32 * x) / 2048.0f;
}

/* Row of cos and sin [width / 2]: the first pairs stay as they are, then each frequency for time, height and width. */
static void angles(const float fraction[3], const float *frequencies, int64_t width, float *cos_row, float *sin_row) {
    int64_t count = width / 6, at = width % 6 / 2;
    for (int64_t i = 0; i < at; i++) cos_row[i] = 1, sin_row[i] = 0;
    for (int64_t i = 0; i < count; i++)
        for (int axis = 0; axis < 3; axis++, at++) {
            float angle = frequencies[i] * (fraction[axis] * 2.0f - 1.0f);
            cos_row[at] = (float)cos((double)angle);
            sin_row[at] = (float)sin((double)angle);
        }
}

static void fill_tables(const zoe_ltx_place *p, const zoe_ltx_grid *grid, const float *frequencies, int64_t width,
                        float *cos_table, float *sin_table) {
    int64_t plane = p->size[1] * p->size[2];
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < grid->tokens; token++) {
        int64_t pixel = token % plane;
        float fraction[3];
        fractions(p, token / plane, pixel / p->size[2], pixel % p->size[2], fraction);
        angles(fraction, frequencies, width, cos_table + token * (width / 2), sin_table + token * (width / 2));
    }
}

int zoe_ltx_grid_create(zoe_ltx_denoiser *d, const zoe_ltx_place *place, zoe_ltx_grid *grid) {
    zoe_backend *be = d->be;
    int64_t plane = place->size[1] * place->size[2], count = d->width / 6, half = d->width / 2;
    *grid = (zoe_ltx_grid){.front = place->fronts * plane,
                           .video = place->size[0] * plane,
                           .levels = place->levels > 1 ? place->levels : 1};
    grid->tokens = grid->front + grid->video;
    if (grid->levels > ZOE_LTX_LEVELS) return zoe_fail(be->ctx, ZOE_ERR_INTERNAL, "%d groups of tokens", grid->levels);
    if (grid->levels > 1) ZOE_TRY(zoe_nn_from_host(be, &grid->groups, ZOE_I32, 1, &grid->tokens, place->groups));
    const int64_t shape[2] = {grid->tokens, half};
    float *tables = NULL, *frequencies = NULL;
    int status;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, frequencies, count));
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, tables, 2 * grid->tokens * half));
    float step = 1.0f / (float)(count - 1);
    for (int64_t i = 0; i < count; i++) {
        float exponent = i < count / 2 ? step * (float)i : 1.0f - step * (float)(count - 1 - i);
        frequencies[i] = powf(10000.0f, exponent) * 3.14159265358979323846f / 2.0f;
    }
    if (be->ops->computes) fill_tables(place, grid, frequencies, d->width, tables, tables + grid->tokens * half);
    ZOE_TRY_DONE(zoe_nn_from_host(be, &grid->cos, ZOE_F32, 2, shape, tables));
    ZOE_TRY_DONE(zoe_nn_from_host(be, &grid->sin, ZOE_F32, 2, shape, tables + grid->tokens * half));
done:
    zoe_free(be->ctx, tables);
    zoe_free(be->ctx, frequencies);
    return status;
}

/* ---- text ---- */

/* With the block's weights there. */
static int block_context(zoe_ltx_denoiser *d, int layer, zoe_ltx_context *c) {
    const zoe_projections *p = &d->blocks[layer].cross;
    if (layer < c->done) return ZOE_OK;
    c->done = layer + 1;
    return zoe_nn_keys_values(d->be, &c->text, &p->k, &p->v, &p->norm_k.w, QK_EPS, layer, &c->keys, &c->values);
}

int zoe_ltx_context_create(zoe_ltx_denoiser *d, const float *text, int64_t count, zoe_ltx_context *context) {
    zoe_backend *be = d->be;
    zoe_tensor states, x, hidden;
    int status;
    *context = (zoe_ltx_context){0};
    ZOE_TRY(ZOE_NEW(be, &context->keys, be->dtype, d->config.layers, count, d->width));
    ZOE_TRY(ZOE_NEW(be, &context->values, be->dtype, d->config.layers, count, d->width));
    ZOE_TRY(ZOE_NEW(be, &context->text, be->dtype, count, d->width));
    size_t mark = zoe_arena_mark(be);
    ZOE_TRY(zoe_weights_acquire(d->weights, 0));
    ZOE_TRY_DONE(zoe_nn_from_host(be, &states, ZOE_F32, 2, (const int64_t[]){count, d->config.text_dim}, text));
    ZOE_TRY_DONE(ZOE_NEW(be, &x, be->dtype, count, d->config.text_dim));
    ZOE_TRY_DONE(zoe_op_copy(be, &x, &states));
    ZOE_TRY_DONE(ZOE_NEW(be, &hidden, be->dtype, count, d->width));
    ZOE_TRY_DONE(zoe_nn_linear(be, &hidden, &x, &d->ends.text_1, ZOE_ACT_GELU_TANH));
    ZOE_TRY_DONE(zoe_nn_linear(be, &context->text, &hidden, &d->ends.text_2, ZOE_ACT_NONE));
done:
    status = zoe_weights_release(d->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}

/* ---- forward ---- */

static const zoe_tensor *row_group(const zoe_ltx_grid *grid) {
    return grid->groups.rank ? &grid->groups : NULL;
}

/* norm(x) * (1 + scale) + shift */
static zoe_norm modulated(const zoe_ltx_denoiser *d, zoe_norm_kind kind, const zoe_tensor *shift, const zoe_tensor *scale,
                          const zoe_tensor *groups) {
    return (zoe_norm){.kind = kind, .eps = (float)d->config.eps, .scale = scale, .shift = shift, .row_group = groups};
}

/* x [tokens, width] += gate * out(attention over all tokens) */
static int self_attention(zoe_ltx_denoiser *d, const zoe_projections *p, const zoe_ltx_grid *grid, const zoe_tensor *rows,
                          zoe_tensor *x) {
    zoe_tensor shift = zoe_nn_chunk(rows, 0), scale = zoe_nn_chunk(rows, 1), gate = zoe_nn_chunk(rows, 2);
    zoe_norm norm = modulated(d, ZOE_NORM_RMS, &shift, &scale, row_group(grid));
    zoe_qk qk = {.heads = d->config.heads,
                 .normalise = true,
                 .kind = ZOE_NORM_RMS,
                 .eps = QK_EPS,
                 .cos = &grid->cos,
                 .sin = &grid->sin};
    return zoe_nn_self_attention(d->be, x, &norm, p, &qk, &gate);
}

/* x [tokens, width] += out(attention(norm(x q), text)); x itself is not normalised */
static int cross_attention(zoe_ltx_denoiser *d, int layer, const zoe_ltx_context *context, zoe_tensor *x) {
    zoe_backend *be = d->be;
    const zoe_ltx_config *c = &d->config;
    const zoe_projections *p = &d->blocks[layer].cross;
    zoe_tensor q, y, key = zoe_view_slice(&context->keys, 0, layer, 1);
    zoe_tensor value = zoe_view_slice(&context->values, 0, layer, 1);
    key = ZOE_VIEW(&key, context->keys.shape[1], d->width);
    value = ZOE_VIEW(&value, context->keys.shape[1], d->width);
    ZOE_TRY(ZOE_NEW(be, &q, be->dtype, x->shape[0], d->width));
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, x->shape[0], d->width));
    ZOE_TRY(zoe_nn_linear(be, &q, x, &p->q, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_norm(be, &q, &q, ZOE_NORM_RMS, QK_EPS, &p->norm_q.w, NULL, ZOE_ACT_NONE));
    zoe_tensor yh = zoe_view_heads(&y, c->heads), qh = zoe_view_heads(&q, c->heads);
    zoe_tensor kh = zoe_view_heads(&key, c->heads), vh = zoe_view_heads(&value, c->heads);
    ZOE_TRY(zoe_op_attention(be, &yh, &qh, &kh, &vh, &(zoe_attention){.scale = 1 / sqrtf((float)c->head_dim)}));
    return zoe_nn_linear_add(be, x, &y, &p->o, x, NULL, NULL);
}

/* x [tokens, width] += gate * down(gelu(up(norm(x)))) */
static int feed_forward(zoe_ltx_denoiser *d, const block *b, const zoe_ltx_grid *grid, const zoe_tensor *rows,
                        zoe_tensor *x) {
    zoe_tensor shift = zoe_nn_chunk(rows, 3), scale = zoe_nn_chunk(rows, 4), gate = zoe_nn_chunk(rows, 5);
    zoe_norm norm = modulated(d, ZOE_NORM_RMS, &shift, &scale, row_group(grid));
    return zoe_nn_mlp(d->be, x, &norm, &b->up, &b->down, &gate);
}

/* x: one for each branch */
static int run_block(zoe_ltx_denoiser *d, int layer, const zoe_ltx_grid *grid, const zoe_modulation *m, int count,
                     const zoe_ltx_branch *branches, zoe_tensor *x) {
    zoe_backend *be = d->be;
    const block *b = &d->blocks[layer];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor rows;
    int status;
    ZOE_TRY(zoe_weights_acquire(d->weights, layer + 1));
    ZOE_TRY_DONE(ZOE_NEW(be, &rows, ZOE_F32, grid->levels, 6, d->width));
    ZOE_TRY_DONE(zoe_nn_add_table(be, &b->table, &m->six, &rows));
    size_t inner = zoe_arena_mark(be);
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(block_context(d, layer, branches[i].context));
        ZOE_TRY_DONE(self_attention(d, &b->self, grid, &rows, &x[i]));
        zoe_arena_release(be, inner);
        ZOE_TRY_DONE(cross_attention(d, layer, branches[i].context, &x[i]));
        zoe_arena_release(be, inner);
        ZOE_TRY_DONE(feed_forward(d, b, grid, &rows, &x[i]));
        zoe_arena_release(be, inner);
    }
done:
    zoe_arena_release(be, mark);
    status = zoe_weights_release(d->weights, layer + 1, status);
    return status;
}

/* x [tokens, width] from the latents in front and those of the video */
static int project_in(zoe_ltx_denoiser *d, const zoe_ltx_grid *grid, const zoe_tensor *front, const zoe_tensor *latents,
                      zoe_tensor *x) {
    zoe_backend *be = d->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor all;
    ZOE_TRY(ZOE_NEW(be, &all, be->dtype, grid->tokens, d->config.in_channels));
    zoe_tensor to = zoe_view_slice(&all, 0, grid->front, grid->video);
    ZOE_TRY(zoe_op_copy(be, &to, latents));
    if (front) {
        to = zoe_view_slice(&all, 0, 0, grid->front);
        ZOE_TRY(zoe_op_copy(be, &to, front));
    }
    ZOE_TRY(zoe_nn_linear(be, x, &all, &d->ends.in, ZOE_ACT_NONE));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* v [video or tokens, channels] from x [tokens, width] */
static int project_out(zoe_ltx_denoiser *d, const zoe_ltx_grid *grid, const zoe_modulation *m, const zoe_tensor *x,
                       zoe_tensor *v) {
    zoe_backend *be = d->be;
    zoe_tensor rows, n, out, groups, base = ZOE_VIEW(&m->embedding, grid->levels, 1, d->width);
    int64_t count = v->shape[0], first = grid->tokens - count;
    zoe_tensor last = zoe_view_slice(x, 0, first, count);
    ZOE_TRY(ZOE_NEW(be, &rows, ZOE_F32, grid->levels, 2, d->width));
    ZOE_TRY(zoe_nn_add_table(be, &d->ends.table, &base, &rows));
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, count, d->width));
    if (row_group(grid)) groups = zoe_view_slice(&grid->groups, 0, first, count);
    zoe_tensor shift = zoe_nn_chunk(&rows, 0), scale = zoe_nn_chunk(&rows, 1);
    zoe_norm norm = modulated(d, ZOE_NORM_LAYER, &shift, &scale, row_group(grid) ? &groups : NULL);
    ZOE_TRY(zoe_op_norm(be, &n, &last, &norm));
    ZOE_TRY(ZOE_NEW(be, &out, be->dtype, count, d->config.out_channels));
    ZOE_TRY(zoe_nn_linear(be, &out, &n, &d->ends.out, ZOE_ACT_NONE));
    return zoe_op_copy(be, v, &out);
}

/* The branches together. */
static int forward(zoe_ltx_denoiser *d, const zoe_ltx_grid *grid, const zoe_tensor *front, const zoe_tensor *latents,
                   const double *timesteps, int count, const zoe_ltx_branch *branches) {
    zoe_backend *be = d->be;
    size_t mark = zoe_arena_mark(be);
    zoe_modulation m;
    zoe_tensor x[ZOE_BRANCHES];
    int status;
    ZOE_TRY(zoe_weights_acquire(d->weights, 0));
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(ZOE_NEW(be, &x[i], be->dtype, grid->tokens, d->width));
        ZOE_TRY_DONE(project_in(d, grid, front, latents, &x[i]));
    }
    ZOE_TRY_DONE(zoe_nn_modulation(be, &d->ends.time, FREQ_DIM, grid->levels, timesteps, &m));
    for (int layer = 0; layer < (int)d->config.layers; layer++) {
        ZOE_TRY_DONE(zoe_check_cancelled(be->ctx));
        ZOE_TRY_DONE(run_block(d, layer, grid, &m, count, branches, x));
    }
    size_t inner = zoe_arena_mark(be);
    for (int i = 0; i < count; i++) {
        ZOE_TRY_DONE(project_out(d, grid, &m, &x[i], branches[i].v));
        zoe_arena_release(be, inner);
    }
done:
    status = zoe_weights_release(d->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}

int zoe_ltx_denoiser_forward(zoe_ltx_denoiser *d, const zoe_ltx_grid *grid, const zoe_tensor *front,
                             const zoe_tensor *latents, const double *timesteps, int count,
                             const zoe_ltx_branch *branches) {
    int at_once = d->be->together ? count : 1;
    for (int i = 0; i < count; i += at_once) ZOE_TRY(forward(d, grid, front, latents, timesteps, at_once, branches + i));
    return ZOE_OK;
}
