#include "nn/clip.h"

#include <math.h>
#include <string.h>

typedef struct block {
    zoe_tensor norm_1w, norm_1b, norm_2w, norm_2b;
    zoe_lin q, k, v, o, up, down;
} block;

typedef struct start {
    zoe_tensor class_embedding; /* [width] */
    zoe_tensor patch;           /* [width, 3 * patch * patch] */
    zoe_tensor positions;       /* [rows, width] */
    zoe_tensor norm_w, norm_b;
} start;

struct zoe_clip {
    zoe_backend *be;
    zoe_clip_config config;
    zoe_weights *weights;
    start start;
    block *blocks;
    int used; /* blocks that are run: all but the last */
};

/* W width, F ffn, P patch side, R rows */
static const zoe_slot start_slots[] = {
    {"vision_model.embeddings.class_embedding", offsetof(start, class_embedding), ZOE_SLOT_VECTOR, "W", 0},
    {"vision_model.embeddings.patch_embedding.weight", offsetof(start, patch), ZOE_SLOT_KEPT, "W 3 P P", 0},
    {"vision_model.embeddings.position_embedding.weight", offsetof(start, positions), ZOE_SLOT_VECTOR, "R W", 0},
    {"vision_model.pre_layrnorm.weight", offsetof(start, norm_w), ZOE_SLOT_VECTOR, "W", 0},
    {"vision_model.pre_layrnorm.bias", offsetof(start, norm_b), ZOE_SLOT_VECTOR, "W", 0},
    {0},
};

static const zoe_slot block_slots[] = {
    {"layer_norm1.weight", offsetof(block, norm_1w), ZOE_SLOT_VECTOR, "W", 0},
    {"layer_norm1.bias", offsetof(block, norm_1b), ZOE_SLOT_VECTOR, "W", 0},
    ZOE_LIN_SLOTS(block, q, "self_attn.q_proj", "W", "W", 0),
    ZOE_LIN_SLOTS(block, k, "self_attn.k_proj", "W", "W", 0),
    ZOE_LIN_SLOTS(block, v, "self_attn.v_proj", "W", "W", 0),
    ZOE_LIN_SLOTS(block, o, "self_attn.out_proj", "W", "W", 0),
    {"layer_norm2.weight", offsetof(block, norm_2w), ZOE_SLOT_VECTOR, "W", 0},
    {"layer_norm2.bias", offsetof(block, norm_2b), ZOE_SLOT_VECTOR, "W", 0},
    ZOE_LIN_SLOTS(block, up, "mlp.fc1", "F", "W", 0),
    ZOE_LIN_SLOTS(block, down, "mlp.fc2", "W", "F", 0),
    {0},
};

int zoe_clip_config_read(const zoe_config *config, zoe_clip_config *out) {
    const char *activation = "quick_gelu";
    zoe_config vision = *config;
    json_t *inner = json_object_get(config->root, "vision_config");
    if (json_is_object(inner)) vision.root = inner;
    *out = (zoe_clip_config){.eps = 1e-5};
    ZOE_TRY(zoe_config_text(&vision, "hidden_act", &activation));
    ZOE_TRY(zoe_config_int(&vision, "hidden_size", 1, 1 << 20, &out->width));
    ZOE_TRY(zoe_config_int(&vision, "intermediate_size", 1, 1 << 24, &out->ffn));
    ZOE_TRY(zoe_config_int(&vision, "num_hidden_layers", 1, 1000, &out->layers));
    ZOE_TRY(zoe_config_int(&vision, "num_attention_heads", 1, 4096, &out->heads));
    ZOE_TRY(zoe_config_int(&vision, "image_size", 1, 16384, &out->image));
    ZOE_TRY(zoe_config_int(&vision, "patch_size", 1, 16384, &out->patch));
    ZOE_TRY(zoe_config_real_in(&vision, "layer_norm_eps", 0, 1, &out->eps));
    if (strcmp(activation, "gelu") != 0)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: hidden_act is \"%s\", expected \"gelu\"", config->path,
                        activation);
    if (!out->width || !out->ffn || !out->layers || !out->heads || !out->image || !out->patch || out->width % out->heads ||
        out->image % out->patch)
        return zoe_fail(
            config->ctx, ZOE_ERR_FORMAT,
            "%s: sizes are missing or do not divide: hidden_size %lld, num_attention_heads %lld, image_size %lld, "
            "patch_size %lld",
            config->path, (long long)out->width, (long long)out->heads, (long long)out->image, (long long)out->patch);
    return ZOE_OK;
}

int64_t zoe_clip_rows(const zoe_clip_config *config) {
    int64_t side = config->image / config->patch;
    return side * side + 1;
}

static int bind(zoe_clip *clip) {
    const zoe_clip_config *c = &clip->config;
    const zoe_dims dims = {['W' - 'A'] = c->width,
                           ['F' - 'A'] = c->ffn,
                           ['P' - 'A'] = c->patch,
                           ['R' - 'A'] = zoe_clip_rows(c)};
    ZOE_TRY(zoe_weights_unit(clip->weights));
    ZOE_TRY(zoe_weights_bind(clip->weights, start_slots, dims, &clip->start, "%s", ""));
    ZOE_TRY(zoe_weights_bind_blocks(clip->weights, block_slots, dims, clip->blocks, sizeof *clip->blocks, clip->used,
                                    "vision_model.encoder.layers."));
    return zoe_weights_check(clip->weights);
}

int zoe_clip_create(zoe_backend *be, const zoe_clip_config *config, const zoe_checkpoint *ckpt, const zoe_alias *aliases,
                    zoe_weight_form form, zoe_clip **out) {
    int status;
    zoe_clip *clip;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, clip, 1));
    clip->be = be;
    clip->config = *config;
    clip->used = (int)config->layers - 1;
    ZOE_TRY_DONE(ZOE_NEW_ARRAY(be->ctx, clip->blocks, config->layers));
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "image encoder", aliases, form, &clip->weights));
    ZOE_TRY_DONE(bind(clip));
    *out = clip;
    return ZOE_OK;
done:
    zoe_clip_free(clip);
    return status;
}

void zoe_clip_free(zoe_clip *clip) {
    if (!clip) return;
    zoe_weights_free(clip->weights);
    zoe_free(clip->be->ctx, clip->blocks);
    zoe_free(clip->be->ctx, clip);
}

zoe_weights *zoe_clip_weights(zoe_clip *clip) {
    return clip->weights;
}

const zoe_clip_config *zoe_clip_configuration(const zoe_clip *clip) {
    return &clip->config;
}

/* x [rows, width] = norm([class, patches] + positions) */
static int embed(zoe_clip *clip, const float *pixels, zoe_tensor *x) {
    zoe_backend *be = clip->be;
    const zoe_clip_config *c = &clip->config;
    const start *s = &clip->start;
    int64_t side = c->image / c->patch;
    zoe_tensor in, patches, first = zoe_view_slice(x, 0, 0, 1), rest = zoe_view_slice(x, 0, 1, side * side);
    zoe_tensor class_row = ZOE_VIEW(&s->class_embedding, 1, c->width);
    ZOE_TRY(zoe_nn_from_host(be, &in, ZOE_F32, 5, (const int64_t[]){side, c->patch, side, c->patch, 3}, pixels));
    ZOE_TRY(ZOE_NEW(be, &patches, be->dtype, side * side, 3 * c->patch * c->patch));
    zoe_tensor to = ZOE_VIEW(&patches, side, side, 3, c->patch, c->patch);
    zoe_tensor from = zoe_view_permute(&in, (const int[]){0, 2, 4, 1, 3});
    ZOE_TRY(zoe_op_copy(be, &to, &from));
    ZOE_TRY(zoe_op_linear(be, &rest, &patches, &s->patch, NULL));
    ZOE_TRY(zoe_op_copy(be, &first, &class_row));
    ZOE_TRY(zoe_op_lincomb(be, x, 2, (const zoe_tensor *[]){x, &s->positions}, (float[]){1, 1}));
    return zoe_nn_norm(be, x, x, ZOE_NORM_LAYER, (float)c->eps, &s->norm_w, &s->norm_b, ZOE_ACT_NONE);
}

/* x [rows, width] += attention(norm(x)), then += mlp(norm(x)) */
static int apply(zoe_clip *clip, const block *b, zoe_tensor *x) {
    zoe_backend *be = clip->be;
    const zoe_clip_config *c = &clip->config;
    int64_t rows = x->shape[0];
    zoe_tensor n, q, k, v, hidden;
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, rows, c->width));
    ZOE_TRY(ZOE_NEW(be, &q, be->dtype, rows, c->width));
    ZOE_TRY(ZOE_NEW(be, &k, be->dtype, rows, c->width));
    ZOE_TRY(ZOE_NEW(be, &v, be->dtype, rows, c->width));
    ZOE_TRY(ZOE_NEW(be, &hidden, be->dtype, rows, c->ffn));
    ZOE_TRY(zoe_nn_norm(be, &n, x, ZOE_NORM_LAYER, (float)c->eps, &b->norm_1w, &b->norm_1b, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &q, &n, &b->q, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &k, &n, &b->k, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &v, &n, &b->v, ZOE_ACT_NONE));
    zoe_tensor yh = zoe_view_heads(&n, c->heads), qh = zoe_view_heads(&q, c->heads);
    zoe_tensor kh = zoe_view_heads(&k, c->heads), vh = zoe_view_heads(&v, c->heads);
    zoe_attention p = {.scale = 1 / sqrtf((float)(c->width / c->heads))};
    ZOE_TRY(zoe_op_attention(be, &yh, &qh, &kh, &vh, &p));
    ZOE_TRY(zoe_nn_linear_add(be, x, &n, &b->o, x, NULL, NULL));
    ZOE_TRY(zoe_nn_norm(be, &n, x, ZOE_NORM_LAYER, (float)c->eps, &b->norm_2w, &b->norm_2b, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &hidden, &n, &b->up, ZOE_ACT_GELU_ERF));
    return zoe_nn_linear_add(be, x, &hidden, &b->down, x, NULL, NULL);
}

static int run_block(zoe_clip *clip, int i, zoe_tensor *x) {
    size_t mark = zoe_arena_mark(clip->be);
    ZOE_TRY(zoe_weights_acquire(clip->weights, i + 1));
    int status = apply(clip, &clip->blocks[i], x);
    status = zoe_weights_release(clip->weights, i + 1, status);
    zoe_arena_release(clip->be, mark);
    return status;
}

int zoe_clip_encode(zoe_clip *clip, const float *pixels, float *states) {
    zoe_backend *be = clip->be;
    size_t mark = zoe_arena_mark(be);
    int64_t rows = zoe_clip_rows(&clip->config);
    zoe_tensor x, out;
    int status;
    ZOE_TRY(zoe_weights_acquire(clip->weights, 0));
    ZOE_TRY_DONE(ZOE_NEW(be, &x, be->dtype, rows, clip->config.width));
    ZOE_TRY_DONE(ZOE_NEW(be, &out, ZOE_F32, rows, clip->config.width));
    ZOE_TRY_DONE(embed(clip, pixels, &x));
    for (int i = 0; i < clip->used; i++) ZOE_TRY_DONE(run_block(clip, i, &x));
    ZOE_TRY_DONE(zoe_op_copy(be, &out, &x));
    ZOE_TRY_DONE(zoe_download(be, states, &out));
done:
    status = zoe_weights_release(clip->weights, 0, status);
    zoe_arena_release(be, mark);
    return status;
}
