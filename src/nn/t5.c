#include "nn/t5.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct block {
    zoe_tensor attention_norm, ffn_norm; /* [width] */
    zoe_lin q, k, v, o;                  /* [heads * head_dim, width], o the other way round */
    zoe_tensor position_table;           /* [buckets, heads] */
    zoe_lin gate, up, down;              /* [ffn, width], down [width, ffn] */
} block;

typedef struct ends {
    zoe_tensor embedding;  /* [vocabulary, width] */
    zoe_tensor final_norm; /* [width] */
} ends;

#define KEPT 4

/* A prompt's states, kept for when it comes again. */
typedef struct kept {
    int32_t *ids; /* [count]; NULL: none */
    int64_t count, attended;
    float *states; /* [count, width] */
    int64_t used;  /* when, by the encoder's clock */
} kept;

struct zoe_t5 {
    kept kept[KEPT];
    int64_t clock;
    zoe_backend *be;
    zoe_t5_config config;
    zoe_weights *weights;
    ends ends;
    block *blocks;
};

/* W width, I heads * head_dim, F ffn, V vocabulary, B buckets, H heads, T: the block has a position table */
static const zoe_slot end_slots[] = {
    {"shared.weight", offsetof(ends, embedding), ZOE_SLOT_TABLE, "V W", 0},
    {"encoder.final_layer_norm.weight", offsetof(ends, final_norm), ZOE_SLOT_VECTOR, "W", 0},
    {0},
};

static const zoe_slot block_slots[] = {
    {"layer.0.layer_norm.weight", offsetof(block, attention_norm), ZOE_SLOT_VECTOR, "W", 0},
    {"layer.0.SelfAttention.q.weight", offsetof(block, q.w), ZOE_SLOT_LINEAR, "I W", 0},
    {"layer.0.SelfAttention.k.weight", offsetof(block, k.w), ZOE_SLOT_LINEAR, "I W", 0},
    {"layer.0.SelfAttention.v.weight", offsetof(block, v.w), ZOE_SLOT_LINEAR, "I W", 0},
    {"layer.0.SelfAttention.o.weight", offsetof(block, o.w), ZOE_SLOT_LINEAR, "W I", 0},
    {"layer.0.SelfAttention.relative_attention_bias.weight", offsetof(block, position_table), ZOE_SLOT_VECTOR, "B H", 'T'},
    {"layer.1.layer_norm.weight", offsetof(block, ffn_norm), ZOE_SLOT_VECTOR, "W", 0},
    {"layer.1.DenseReluDense.wi_0.weight", offsetof(block, gate.w), ZOE_SLOT_LINEAR, "F W", 0},
    {"layer.1.DenseReluDense.wi_1.weight", offsetof(block, up.w), ZOE_SLOT_LINEAR, "F W", 0},
    {"layer.1.DenseReluDense.wo.weight", offsetof(block, down.w), ZOE_SLOT_LINEAR, "W F", 0},
    {0},
};

/* transformers writes the shared table under either name. */
static const zoe_alias embedding_alias[] = {{"shared", "encoder.embed_tokens"}, {0}};

int zoe_t5_config_read(const zoe_config *config, zoe_t5_config *out) {
    const char *type = "t5", *activation = "";
    static const char *const keys[] = {"d_model", "d_kv", "num_heads", "d_ff", "num_layers", "vocab_size", NULL};
    *out = (zoe_t5_config){.buckets = 32, .max_distance = 128, .eps = 1e-6};
    ZOE_TRY(zoe_config_text(config, "model_type", &type));
    ZOE_TRY(zoe_config_text(config, "feed_forward_proj", &activation));
    ZOE_TRY(zoe_config_int(config, "d_model", 1, 1 << 20, &out->width));
    ZOE_TRY(zoe_config_int(config, "d_kv", 1, 1 << 16, &out->head_dim));
    ZOE_TRY(zoe_config_int(config, "num_heads", 1, 1 << 16, &out->heads));
    ZOE_TRY(zoe_config_int(config, "d_ff", 1, 1 << 24, &out->ffn));
    ZOE_TRY(zoe_config_int(config, "num_layers", 1, 1000, &out->layers));
    ZOE_TRY(zoe_config_int(config, "vocab_size", 1, 1 << 28, &out->vocabulary));
    ZOE_TRY(zoe_config_int(config, "relative_attention_num_buckets", 4, 1 << 16, &out->buckets));
    ZOE_TRY(zoe_config_int(config, "relative_attention_max_distance", 1, 1 << 24, &out->max_distance));
    ZOE_TRY(zoe_config_real_in(config, "layer_norm_epsilon", 0, 1, &out->eps));
    out->table_in_every_block = strcmp(type, "umt5") == 0;
    if (!out->table_in_every_block && strcmp(type, "t5") != 0)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: model_type is \"%s\", expected \"t5\" or \"umt5\"",
                        config->path, type);
    if (strcmp(activation, "gated-gelu") != 0)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: feed_forward_proj is \"%s\", expected \"gated-gelu\"",
                        config->path, activation);
    if (out->max_distance <= out->buckets / 4)
        return zoe_fail(config->ctx, ZOE_ERR_FORMAT,
                        "%s: relative_attention_max_distance %lld is too small for %lld relative_attention_num_buckets",
                        config->path, (long long)out->max_distance, (long long)out->buckets);
    return zoe_config_require(config, keys);
}

/* Entry of a tensor of block `layer` (or of none, if the format has no number), a matrix; NULL if absent. */
static const zoe_entry *find_matrix(const zoe_checkpoint *ckpt, const zoe_alias *aliases, const char *format, int layer) {
    char name[128];
    snprintf(name, sizeof name, format, layer);
    const zoe_entry *entry = zoe_weights_find(ckpt, aliases, name);
    return entry && entry->rank == 2 ? entry : NULL;
}

int zoe_t5_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                                  zoe_t5_config *out) {
    enum { max_distance = 128 };
    static const char query[] = "encoder.block.%d.layer.0.SelfAttention.q.weight";
    static const char table[] = "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight";
    const zoe_entry *embedding = find_matrix(ckpt, aliases, "shared.weight", 0), *q = find_matrix(ckpt, aliases, query, 0);
    const zoe_entry *up = find_matrix(ckpt, aliases, "encoder.block.%d.layer.1.DenseReluDense.wi_1.weight", 0);
    const zoe_entry *positions = find_matrix(ckpt, aliases, table, 0);
    bool sizes = positions && positions->shape[0] >= 4 && positions->shape[0] / 4 < max_distance && positions->shape[1] > 0;
    if (!embedding || !q || !up || !sizes)
        return zoe_fail(ctx, ZOE_ERR_FORMAT,
                        "%s is no T5 encoder: embedding, attention, feed-forward or position table is missing",
                        zoe_checkpoint_path(ckpt, 0));
    *out = (zoe_t5_config){.width = embedding->shape[1],
                           .vocabulary = embedding->shape[0],
                           .ffn = up->shape[0],
                           .buckets = positions->shape[0],
                           .heads = positions->shape[1],
                           .max_distance = max_distance,
                           .eps = 1e-6};
    out->head_dim = q->shape[0] / out->heads;
    out->table_in_every_block = find_matrix(ckpt, aliases, table, 1) != NULL;
    while (find_matrix(ckpt, aliases, query, (int)out->layers)) out->layers++;
    return ZOE_OK;
}

static int bind(zoe_t5 *t5) {
    const zoe_t5_config *c = &t5->config;
    zoe_dims dims = {['W' - 'A'] = c->width,   ['I' - 'A'] = c->heads * c->head_dim,
                     ['F' - 'A'] = c->ffn,     ['V' - 'A'] = c->vocabulary,
                     ['B' - 'A'] = c->buckets, ['H' - 'A'] = c->heads};
    ZOE_TRY(zoe_weights_unit(t5->weights));
    ZOE_TRY(zoe_weights_bind(t5->weights, end_slots, dims, &t5->ends, "%s", ""));
    for (int i = 0; i < (int)c->layers; i++) {
        dims['T' - 'A'] = i == 0 || c->table_in_every_block;
        ZOE_TRY(zoe_weights_block(t5->weights));
        ZOE_TRY(zoe_weights_bind(t5->weights, block_slots, dims, &t5->blocks[i], "encoder.block.%d.", i));
    }
    return zoe_weights_check(t5->weights);
}

int zoe_t5_create(zoe_backend *be, const zoe_t5_config *config, const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                  zoe_weight_form form, zoe_t5 **out) {
    int status;
    zoe_t5 *t5;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, t5, 1));
    t5->be = be;
    t5->config = *config;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, t5->blocks, config->layers));
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "text encoder", aliases ? aliases : embedding_alias, form, &t5->weights));
    ZOE_TRY_DONE(bind(t5));
    *out = t5;
    return ZOE_OK;
done:
    zoe_t5_free(t5);
    return status;
}

static void forget(zoe_t5 *t5, kept *k) {
    zoe_free(t5->be->ctx, k->ids);
    zoe_free(t5->be->ctx, k->states);
    *k = (kept){0};
}

void zoe_t5_free(zoe_t5 *t5) {
    if (!t5) return;
    for (int i = 0; i < KEPT; i++) forget(t5, &t5->kept[i]);
    zoe_weights_free(t5->weights);
    zoe_free(t5->be->ctx, t5->blocks);
    zoe_free(t5->be->ctx, t5);
}

zoe_weights *zoe_t5_weights(zoe_t5 *t5) {
    return t5->weights;
}

const zoe_t5_config *zoe_t5_configuration(const zoe_t5 *t5) {
    return &t5->config;
}

int zoe_t5_bucket(int64_t relative, int64_t buckets, int64_t max_distance) {
    int64_t half = buckets / 2, exact = half / 2;
    int64_t base = relative > 0 ? half : 0, distance = relative < 0 ? -relative : relative;
    if (distance < exact) return (int)(base + distance);
    double position =
        log((double)distance / (double)exact) / log((double)max_distance / (double)exact) * (double)(half - exact);
    int64_t bucket = exact + (int64_t)position;
    return (int)(base + (bucket < half - 1 ? bucket : half - 1));
}

/* bias [heads, count + attended - 1] by relative position, gathered from a block's table. */
static int relative_bias(zoe_t5 *t5, const zoe_tensor *table, int64_t count, zoe_tensor *bias) {
    zoe_backend *be = t5->be;
    int64_t span = bias->shape[1], heads = t5->config.heads;
    zoe_tensor ids, rows;
    int32_t *host;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, host, span));
    for (int64_t i = 0; i < span; i++)
        host[i] = zoe_t5_bucket(i - (count - 1), t5->config.buckets, t5->config.max_distance);
    int status = zoe_nn_from_host(be, &ids, ZOE_I32, 1, &span, host);
    zoe_free(be->ctx, host);
    ZOE_TRY(status);
    ZOE_TRY(ZOE_NEW(be, &rows, ZOE_F32, span, heads));
    ZOE_TRY(zoe_op_embedding(be, &rows, table, &ids));
    zoe_tensor by_head = zoe_view_permute(&rows, (const int[]){1, 0});
    return zoe_op_copy(be, bias, &by_head);
}

/* x [count, width] += attention(norm(x)) to the first rows, as many as the bias is made for */
static int attention(zoe_t5 *t5, const block *b, zoe_tensor *x, const zoe_tensor *bias) {
    zoe_backend *be = t5->be;
    const zoe_t5_config *c = &t5->config;
    int64_t count = x->shape[0], attended = bias->shape[1] - count + 1, inner = c->heads * c->head_dim;
    zoe_tensor n, q, k, v, keys;
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, count, c->width));
    ZOE_TRY(ZOE_NEW(be, &q, be->dtype, count, inner));
    ZOE_TRY(ZOE_NEW(be, &k, be->dtype, attended, inner));
    ZOE_TRY(ZOE_NEW(be, &v, be->dtype, attended, inner));
    ZOE_TRY(zoe_nn_norm(be, &n, x, ZOE_NORM_RMS, (float)c->eps, &b->attention_norm, NULL, ZOE_ACT_NONE));
    keys = zoe_view_slice(&n, 0, 0, attended);
    ZOE_TRY(zoe_nn_linear(be, &q, &n, &b->q, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &k, &keys, &b->k, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &v, &keys, &b->v, ZOE_ACT_NONE));
    zoe_tensor qh = zoe_view_heads(&q, c->heads), kh = zoe_view_heads(&k, c->heads), vh = zoe_view_heads(&v, c->heads), y;
    ZOE_TRY(ZOE_NEW(be, &y, be->dtype, count, inner));
    zoe_tensor yh = zoe_view_heads(&y, c->heads);
    ZOE_TRY(zoe_op_attention(be, &yh, &qh, &kh, &vh, &(zoe_attention){.scale = 1, .relative_bias = bias}));
    return zoe_nn_linear_add(be, x, &y, &b->o, x, NULL, NULL);
}

/* x += down(gelu(gate(norm(x))) * up(norm(x))) */
static int feed_forward(zoe_t5 *t5, const block *b, zoe_tensor *x) {
    zoe_backend *be = t5->be;
    const zoe_t5_config *c = &t5->config;
    zoe_tensor n, gate, up;
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, x->shape[0], c->width));
    ZOE_TRY(ZOE_NEW(be, &gate, be->dtype, x->shape[0], c->ffn));
    ZOE_TRY(ZOE_NEW(be, &up, be->dtype, x->shape[0], c->ffn));
    ZOE_TRY(zoe_nn_norm(be, &n, x, ZOE_NORM_RMS, (float)c->eps, &b->ffn_norm, NULL, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &gate, &n, &b->gate, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &up, &n, &b->up, ZOE_ACT_NONE));
    ZOE_TRY(zoe_op_activate(be, &gate, &gate, &up, ZOE_ACT_GELU_TANH));
    return zoe_nn_linear_add(be, x, &gate, &b->down, x, NULL, NULL);
}

/* x [count, width]: embeddings of the ids */
static int embed(zoe_t5 *t5, const int32_t *ids, int64_t count, zoe_tensor *x) {
    zoe_backend *be = t5->be;
    int64_t width = t5->config.width;
    zoe_tensor rows;
    float *host;
    ZOE_TRY(zoe_host_alloc(be, (size_t)(count * width) * sizeof *host, (void **)&host));
    int status = zoe_weights_acquire(t5->weights, 0);
    if (status == ZOE_OK) {
        for (int64_t i = 0; i < count && be->ops->computes; i++)
            zoe_weights_table_row(&t5->ends.embedding, ids[i], host + i * width);
        status = zoe_weights_release(t5->weights, 0, status);
    }
    if (status == ZOE_OK) status = zoe_nn_from_host(be, &rows, ZOE_F32, 2, (const int64_t[]){count, width}, host);
    zoe_host_free(be, host);
    ZOE_TRY(status);
    return zoe_op_copy(be, x, &rows);
}

static int run_block(zoe_t5 *t5, int i, zoe_tensor *x, zoe_tensor *bias) {
    size_t mark = zoe_arena_mark(t5->be);
    int status;
    ZOE_TRY(zoe_weights_acquire(t5->weights, i + 1));
    const block *b = &t5->blocks[i];
    if (i == 0 || t5->config.table_in_every_block) ZOE_TRY_DONE(relative_bias(t5, &b->position_table, x->shape[0], bias));
    ZOE_TRY_DONE(attention(t5, b, x, bias));
    zoe_arena_release(t5->be, mark);
    ZOE_TRY_DONE(feed_forward(t5, b, x));
done:
    zoe_arena_release(t5->be, mark);
    status = zoe_weights_release(t5->weights, i + 1, status);
    return status;
}

/* The final norm, in float32, brought to the host. */
static int finish(zoe_t5 *t5, const zoe_tensor *x, float *states) {
    zoe_tensor y;
    ZOE_TRY(ZOE_NEW(t5->be, &y, ZOE_F32, x->shape[0], x->shape[1]));
    ZOE_TRY(zoe_weights_acquire(t5->weights, 0));
    int status = zoe_nn_norm(t5->be, &y, x, ZOE_NORM_RMS, (float)t5->config.eps, &t5->ends.final_norm, NULL, ZOE_ACT_NONE);
    status = zoe_weights_release(t5->weights, 0, status);
    ZOE_TRY(status);
    return zoe_download(t5->be, states, &y);
}

int zoe_t5_encode(zoe_t5 *t5, const int32_t *ids, int64_t count, float *states) {
    return zoe_t5_encode_masked(t5, ids, count, count, states);
}

int zoe_t5_encode_masked(zoe_t5 *t5, const int32_t *ids, int64_t count, int64_t attended, float *states) {
    zoe_backend *be = t5->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor x, bias;
    int status;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= t5->config.vocabulary)
            return zoe_fail(be->ctx, ZOE_ERR_FORMAT,
                            "token id %d is outside the text encoder's vocabulary of %lld: tokenizer and "
                            "text encoder do not belong together",
                            ids[i], (long long)t5->config.vocabulary);
    ZOE_TRY_DONE(ZOE_NEW(be, &x, be->dtype, count, t5->config.width));
    ZOE_TRY_DONE(ZOE_NEW(be, &bias, ZOE_F32, t5->config.heads, count + attended - 1));
    ZOE_TRY_DONE(embed(t5, ids, count, &x));
    for (int i = 0; i < (int)t5->config.layers; i++) {
        ZOE_TRY_DONE(zoe_check_cancelled(be->ctx));
        ZOE_TRY_DONE(run_block(t5, i, &x, &bias));
    }
    ZOE_TRY_DONE(finish(t5, &x, states));
done:
    zoe_arena_release(be, mark);
    return status;
}

/* ---- prompts that come again ---- */

static size_t states_bytes(const zoe_t5 *t5, int64_t count) {
    return (size_t)(count * t5->config.width) * sizeof(float);
}

static kept *recall(zoe_t5 *t5, const int32_t *ids, int64_t count, int64_t attended) {
    for (int i = 0; i < KEPT; i++) {
        kept *k = &t5->kept[i];
        if (k->ids && k->count == count && k->attended == attended && memcmp(k->ids, ids, (size_t)count * sizeof *ids) == 0)
            return k;
    }
    return NULL;
}

/* In the place of what was not asked for longest. */
static int keep(zoe_t5 *t5, const int32_t *ids, int64_t count, int64_t attended, const float *states) {
    zoe_context *ctx = t5->be->ctx;
    kept *oldest = &t5->kept[0], fresh = {.count = count, .attended = attended, .used = ++t5->clock};
    size_t bytes = (size_t)count * sizeof *ids;
    for (int i = 1; i < KEPT; i++)
        if (t5->kept[i].used < oldest->used) oldest = &t5->kept[i];
    fresh.ids = zoe_alloc(ctx, bytes);
    fresh.states = fresh.ids ? zoe_alloc(ctx, states_bytes(t5, count)) : NULL;
    if (!fresh.states) {
        zoe_free(ctx, fresh.ids);
        return zoe_out_of_memory(ctx, states_bytes(t5, count), "states of the prompt");
    }
    memcpy(fresh.ids, ids, bytes);
    memcpy(fresh.states, states, states_bytes(t5, count));
    forget(t5, oldest);
    *oldest = fresh;
    return ZOE_OK;
}

int zoe_t5_states(zoe_t5 *t5, const int32_t *ids, int64_t count, int64_t attended, float *states) {
    kept *known = recall(t5, ids, count, attended);
    if (known) {
        known->used = ++t5->clock;
        memcpy(states, known->states, states_bytes(t5, count));
        return ZOE_OK;
    }
    ZOE_TRY(zoe_t5_encode_masked(t5, ids, count, attended, states));
    return t5->be->ops->computes && count > 0 ? keep(t5, ids, count, attended, states) : ZOE_OK;
}
