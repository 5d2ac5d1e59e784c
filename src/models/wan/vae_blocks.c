#include "models/wan/vae_blocks.h"

#include <math.h>

static const zoe_slot resnet_slots[] = {
    {"norm1.gamma", offsetof(wan_resnet, norm_1), ZOE_SLOT_VECTOR, "I 1 1 1", 0},
    {"norm2.gamma", offsetof(wan_resnet, norm_2), ZOE_SLOT_VECTOR, "O 1 1 1", 0},
    {0},
};

static const zoe_slot attention_slots[] = {
    {"norm.gamma", offsetof(wan_attention, norm), ZOE_SLOT_VECTOR, "C 1 1", 0},
    {"to_qkv.weight", offsetof(wan_attention, qkv.w), ZOE_SLOT_LINEAR, "3C C 1 1", 0},
    {"to_qkv.bias", offsetof(wan_attention, qkv.b), ZOE_SLOT_VECTOR, "3C", 0},
    {"proj.weight", offsetof(wan_attention, proj.w), ZOE_SLOT_LINEAR, "C C 1 1", 0},
    {"proj.bias", offsetof(wan_attention, proj.b), ZOE_SLOT_VECTOR, "C", 0},
    {0},
};

int zoe_wan_bind_resnet(zoe_weights *weights, wan_resnet *resnet, int64_t in, int64_t out, const char *prefix) {
    static const int cube[3] = {3, 3, 3}, point[3] = {1, 1, 1};
    const zoe_dims dims = {['I' - 'A'] = in, ['O' - 'A'] = out};
    char name[256];
    ZOE_TRY(zoe_weights_bind(weights, resnet_slots, dims, resnet, "%s", prefix));
    snprintf(name, sizeof name, "%sconv1.", prefix);
    ZOE_TRY(zoe_carrier_bind(weights, &resnet->conv_1, in, out, cube, name));
    snprintf(name, sizeof name, "%sconv2.", prefix);
    ZOE_TRY(zoe_carrier_bind(weights, &resnet->conv_2, out, out, cube, name));
    if (in == out) return ZOE_OK;
    snprintf(name, sizeof name, "%sconv_shortcut.", prefix);
    return zoe_carrier_bind(weights, &resnet->shortcut, in, out, point, name);
}

int zoe_wan_bind_mid(zoe_weights *weights, wan_coder *coder, int64_t channels, const char *prefix) {
    const zoe_dims dims = {['C' - 'A'] = channels};
    char name[256];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%smid_block.resnets.%d.", prefix, i);
        ZOE_TRY(zoe_wan_bind_resnet(weights, &coder->mid[i], channels, channels, name));
    }
    return zoe_weights_bind(weights, attention_slots, dims, &coder->attention, "%smid_block.attentions.0.", prefix);
}

/* ---- chains of resnets ---- */

int zoe_wan_begin_resnets(zoe_backend *be, wan_resnet *resnets, int count, wan_rooms *rooms, const zoe_edges *edges,
                          int64_t size[2]) {
    zoe_tensor room;
    rooms->values = size[0] * size[1] * resnets[0].conv_2.w.shape[4];
    for (int i = 0; i < 2; i++) {
        ZOE_TRY(ZOE_NEW(be, &room, be->dtype, rooms->values));
        rooms->data[i] = room.data;
    }
    for (int i = 0; i < count; i++) {
        int64_t values = resnets[i].shortcut.w.rank ? 0 : rooms->values;
        ZOE_TRY(zoe_carrier_begin_zero(be, &resnets[i].conv_1, size[0], size[1], values));
        zoe_edges_shrink(edges, size, 1);
        ZOE_TRY(zoe_carrier_begin_zero(be, &resnets[i].conv_2, size[0], size[1], rooms->values));
        zoe_edges_shrink(edges, size, 1);
    }
    return ZOE_OK;
}

/* y = silu?(x / |x| * sqrt(channels) * gamma) */
static int normalise(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *gamma, zoe_act act) {
    zoe_tensor weight = ZOE_VIEW(gamma, x->shape[x->rank - 1]);
    return zoe_nn_norm(be, y, x, ZOE_NORM_L2, 1e-12f, &weight, NULL, act);
}

/* Where the channels change, frames of the first convolution's input are of another size than rooms. */
static int first_changing(zoe_backend *be, wan_resnet *resnet, const zoe_edges *edges, const zoe_tensor *x,
                          zoe_tensor *hidden) {
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n;
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
    ZOE_TRY(normalise(be, &n, x, &resnet->norm_1, ZOE_ACT_SILU));
    ZOE_TRY(zoe_carrier_run(be, &resnet->conv_1, edges, hidden, &n, NULL));
    ZOE_TRY(zoe_carrier_copy(be, &resnet->conv_1, &n));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

static int first(zoe_backend *be, wan_resnet *resnet, wan_rooms *rooms, const zoe_edges *edges, const zoe_tensor *x,
                 zoe_tensor *hidden) {
    zoe_tensor n = zoe_tensor_of(rooms->data[0], be->dtype, 4, x->shape);
    ZOE_TRY(normalise(be, &n, x, &resnet->norm_1, ZOE_ACT_SILU));
    ZOE_TRY(zoe_carrier_run(be, &resnet->conv_1, edges, hidden, &n, NULL));
    zoe_carrier_swap(&resnet->conv_1, &n);
    rooms->data[0] = n.data;
    return ZOE_OK;
}

/* y = shortcut(x), which may be a part of a frame */
static int run_shortcut(zoe_backend *be, const zoe_carrier *shortcut, zoe_tensor *y, const zoe_tensor *x) {
    size_t mark = zoe_arena_mark(be);
    zoe_tensor dense = *x;
    if (!zoe_tensor_dense(x)) {
        ZOE_TRY(zoe_new_tensor(be, &dense, be->dtype, 4, x->shape));
        ZOE_TRY(zoe_op_copy(be, &dense, x));
    }
    ZOE_TRY(zoe_carrier_run(be, shortcut, NULL, y, &dense, NULL));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* y: what the convolutions leave of x, in its place, or other memory */
static int run_resnet(zoe_backend *be, wan_resnet *resnet, wan_rooms *rooms, const zoe_edges *edges, const zoe_tensor *x,
                      zoe_tensor *y) {
    bool changes = resnet->shortcut.w.rank;
    int64_t size[2] = {x->shape[1], x->shape[2]};
    zoe_edges_shrink(edges, size, 1);
    zoe_tensor hidden = ZOE_TENSOR(rooms->data[1], be->dtype, 1, size[0], size[1], y->shape[3]);
    zoe_tensor beside = zoe_edges_cut(edges, x, 2);
    if (changes) {
        ZOE_TRY(first_changing(be, resnet, edges, x, &hidden));
        ZOE_TRY(run_shortcut(be, &resnet->shortcut, y, &beside));
        beside = *y;
    } else {
        ZOE_TRY(first(be, resnet, rooms, edges, x, &hidden));
    }
    ZOE_TRY(normalise(be, &hidden, &hidden, &resnet->norm_2, ZOE_ACT_SILU));
    ZOE_TRY(zoe_carrier_run(be, &resnet->conv_2, edges, y, &hidden, &beside));
    zoe_carrier_swap(&resnet->conv_2, &hidden);
    rooms->data[1] = hidden.data;
    return ZOE_OK;
}

int zoe_wan_resnets(zoe_backend *be, wan_resnet *resnets, int count, wan_rooms *rooms, const zoe_edges *edges, bool keep,
                    const zoe_tensor *x, zoe_tensor *y) {
    zoe_tensor in = *x, fresh[2] = {0};
    if (!keep && !resnets[0].shortcut.w.rank) fresh[1] = *x; /* free once the first one has read it */
    for (int i = 0; i < count; i++) {
        *y = zoe_edges_cut(edges, &in, 2);
        if ((keep && i == 0) || resnets[i].shortcut.w.rank || !zoe_tensor_dense(y)) {
            zoe_tensor *to = &fresh[i % 2]; /* of the two, the one that `in` is not in; frames only become smaller */
            y->shape[3] = resnets[i].conv_2.w.shape[0];
            if (!to->data) ZOE_TRY(zoe_new_tensor(be, to, be->dtype, 4, y->shape));
            *y = zoe_tensor_of(to->data, be->dtype, 4, y->shape);
        }
        ZOE_TRY(run_resnet(be, &resnets[i], rooms, edges, &in, y));
        in = *y;
    }
    return ZOE_OK;
}

/* ---- the middle and the end ---- */

int zoe_wan_begin_mid(zoe_backend *be, wan_coder *coder, int64_t height, int64_t width) {
    return zoe_wan_begin_resnets(be, coder->mid, 2, &coder->mid_rooms, NULL, (int64_t[]){height, width});
}

/* x [1, height, width, channels] += attention over the frame's pixels, one head */
static int attend(zoe_backend *be, const wan_attention *a, zoe_tensor *x) {
    int64_t pixels = x->shape[1] * x->shape[2], channels = x->shape[3];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n, qkv, rows = ZOE_VIEW(x, pixels, channels);
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, pixels, channels));
    ZOE_TRY(ZOE_NEW(be, &qkv, be->dtype, pixels, 3 * channels));
    ZOE_TRY(normalise(be, &n, &rows, &a->norm, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &qkv, &n, &a->qkv, ZOE_ACT_NONE));
    zoe_tensor part[3], nh = zoe_view_heads(&n, 1);
    for (int i = 0; i < 3; i++) {
        part[i] = zoe_view_slice(&qkv, 1, i * channels, channels);
        part[i] = zoe_view_heads(&part[i], 1);
    }
    ZOE_TRY(zoe_op_attention(be, &nh, &part[0], &part[1], &part[2], &(zoe_attention){.scale = 1 / sqrtf((float)channels)}));
    ZOE_TRY(zoe_nn_linear_add(be, &rows, &n, &a->proj, &rows, NULL, NULL));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

int zoe_wan_mid(zoe_backend *be, wan_coder *coder, zoe_tensor *x) {
    ZOE_TRY(run_resnet(be, &coder->mid[0], &coder->mid_rooms, NULL, x, x));
    ZOE_TRY(attend(be, &coder->attention, x));
    return run_resnet(be, &coder->mid[1], &coder->mid_rooms, NULL, x, x);
}

int zoe_wan_head(zoe_backend *be, wan_coder *coder, wan_rooms *rooms, const zoe_edges *edges, const zoe_tensor *x,
                 zoe_tensor *y) {
    zoe_tensor n = zoe_tensor_of(rooms->data[0], be->dtype, 4, x->shape);
    ZOE_TRY(normalise(be, &n, x, &coder->norm_out, ZOE_ACT_SILU));
    ZOE_TRY(zoe_carrier_run(be, &coder->conv_out, edges, y, &n, NULL));
    zoe_carrier_swap(&coder->conv_out, &n);
    rooms->data[0] = n.data;
    return ZOE_OK;
}
