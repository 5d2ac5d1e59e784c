#include "models/wan/vae_blocks.h"

#include <math.h>

/* I, O: channels in and out; T, H, W: kernel */
static const zoe_slot conv_slots[] = {
    {"weight", offsetof(wan_conv, w), ZOE_SLOT_CONV, "O I T H W", 0},
    {"bias", offsetof(wan_conv, b), ZOE_SLOT_VECTOR, "O", 0},
    {0},
};

/* Per-frame convolutions are stored without the time axis. */
static const zoe_slot frame_conv_slots[] = {
    {"weight", offsetof(wan_conv, w), ZOE_SLOT_CONV, "O I H W", 0},
    {"bias", offsetof(wan_conv, b), ZOE_SLOT_VECTOR, "O", 0},
    {0},
};

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

int zoe_wan_bind_conv(zoe_weights *weights, wan_conv *conv, int64_t in, int64_t out, const int kernel[3],
                      const char *prefix) {
    const zoe_dims dims = {['I' - 'A'] = in,
                           ['O' - 'A'] = out,
                           ['T' - 'A'] = kernel[0],
                           ['H' - 'A'] = kernel[1],
                           ['W' - 'A'] = kernel[2]};
    return zoe_weights_bind(weights, kernel[0] ? conv_slots : frame_conv_slots, dims, conv, "%s", prefix);
}

int zoe_wan_bind_resnet(zoe_weights *weights, wan_resnet *resnet, int64_t in, int64_t out, const char *prefix) {
    static const int cube[3] = {3, 3, 3}, point[3] = {1, 1, 1};
    const zoe_dims dims = {['I' - 'A'] = in, ['O' - 'A'] = out};
    char name[256];
    ZOE_TRY(zoe_weights_bind(weights, resnet_slots, dims, resnet, "%s", prefix));
    snprintf(name, sizeof name, "%sconv1.", prefix);
    ZOE_TRY(zoe_wan_bind_conv(weights, &resnet->conv_1, in, out, cube, name));
    snprintf(name, sizeof name, "%sconv2.", prefix);
    ZOE_TRY(zoe_wan_bind_conv(weights, &resnet->conv_2, out, out, cube, name));
    if (in == out) return ZOE_OK;
    snprintf(name, sizeof name, "%sconv_shortcut.", prefix);
    return zoe_wan_bind_conv(weights, &resnet->shortcut, in, out, point, name);
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

int zoe_wan_begin_conv(zoe_backend *be, wan_conv *conv, int64_t height, int64_t width) {
    if (conv->w.shape[1] == 1) return ZOE_OK;
    ZOE_TRY(ZOE_NEW(be, &conv->history, be->dtype, conv->w.shape[1] - 1, height, width, conv->w.shape[4]));
    return zoe_op_zero(be, &conv->history);
}

int zoe_wan_begin_resnets(zoe_backend *be, wan_resnet *resnets, int count, int64_t height, int64_t width) {
    for (int i = 0; i < count; i++) {
        ZOE_TRY(zoe_wan_begin_conv(be, &resnets[i].conv_1, height, width));
        ZOE_TRY(zoe_wan_begin_conv(be, &resnets[i].conv_2, height, width));
    }
    return ZOE_OK;
}

/* The last two frames of history and x. */
static int carry(zoe_backend *be, wan_conv *conv, const zoe_tensor *x) {
    zoe_tensor older = zoe_view_slice(&conv->history, 0, 0, 1), newer = zoe_view_slice(&conv->history, 0, 1, 1);
    ZOE_TRY(zoe_op_copy(be, &older, &newer));
    return zoe_op_copy(be, &newer, x);
}

int zoe_wan_conv(zoe_backend *be, wan_conv *conv, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *residual) {
    bool carried = conv->w.shape[1] > 1;
    int kernel[3] = {(int)conv->w.shape[1], (int)conv->w.shape[2], (int)conv->w.shape[3]};
    zoe_conv p = {.kernel = {kernel[0], kernel[1], kernel[2]},
                  .stride = {1, 1, 1},
                  .pad = {{0, 0}, {kernel[1] / 2, kernel[1] / 2}, {kernel[2] / 2, kernel[2] / 2}},
                  .upsample = 1,
                  .history = carried ? &conv->history : NULL,
                  .bias = &conv->b,
                  .residual = residual};
    ZOE_TRY(zoe_op_conv(be, y, x, &conv->w, &p));
    return carried ? carry(be, conv, x) : ZOE_OK;
}

int zoe_wan_vae_norm(zoe_backend *be, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *gamma, zoe_act act) {
    zoe_tensor weight = ZOE_VIEW(gamma, x->shape[x->rank - 1]);
    return zoe_nn_norm(be, y, x, ZOE_NORM_L2, 1e-12f, &weight, NULL, act);
}

int zoe_wan_resnet(zoe_backend *be, wan_resnet *resnet, zoe_tensor *y, const zoe_tensor *x) {
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n, hidden, shortcut;
    ZOE_TRY(zoe_new_tensor(be, &hidden, be->dtype, 4, y->shape));
    size_t inner = zoe_arena_mark(be);
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
    ZOE_TRY(zoe_wan_vae_norm(be, &n, x, &resnet->norm_1, ZOE_ACT_SILU));
    ZOE_TRY(zoe_wan_conv(be, &resnet->conv_1, &hidden, &n, NULL));
    zoe_arena_release(be, inner);
    ZOE_TRY(zoe_wan_vae_norm(be, &hidden, &hidden, &resnet->norm_2, ZOE_ACT_SILU));
    if (resnet->shortcut.w.rank) {
        ZOE_TRY(zoe_new_tensor(be, &shortcut, be->dtype, 4, y->shape));
        ZOE_TRY(zoe_wan_conv(be, &resnet->shortcut, &shortcut, x, NULL));
        x = &shortcut;
    }
    ZOE_TRY(zoe_wan_conv(be, &resnet->conv_2, y, &hidden, x));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

int zoe_wan_resnets(zoe_backend *be, wan_resnet *resnets, int count, const zoe_tensor *x, zoe_tensor *y) {
    zoe_tensor pair[2];
    for (int i = 0; i < count; i++) {
        int64_t out = resnets[i].conv_1.w.shape[0];
        if (i < 2) ZOE_TRY(ZOE_NEW(be, &pair[i], be->dtype, 1, x->shape[1], x->shape[2], out));
        ZOE_TRY(zoe_wan_resnet(be, &resnets[i], &pair[i % 2], x));
        x = &pair[i % 2];
    }
    *y = *x;
    return ZOE_OK;
}

/* y [1, height, width, channels] = x + attention over the frame's pixels, one head */
static int attend(zoe_backend *be, const wan_attention *a, const zoe_tensor *x, zoe_tensor *y) {
    int64_t pixels = x->shape[1] * x->shape[2], channels = x->shape[3];
    size_t mark = zoe_arena_mark(be);
    zoe_tensor n, qkv, rows = ZOE_VIEW(x, pixels, channels), out = ZOE_VIEW(y, pixels, channels);
    ZOE_TRY(ZOE_NEW(be, &n, be->dtype, pixels, channels));
    ZOE_TRY(ZOE_NEW(be, &qkv, be->dtype, pixels, 3 * channels));
    ZOE_TRY(zoe_wan_vae_norm(be, &n, &rows, &a->norm, ZOE_ACT_NONE));
    ZOE_TRY(zoe_nn_linear(be, &qkv, &n, &a->qkv, ZOE_ACT_NONE));
    zoe_tensor part[3], nh = zoe_view_heads(&n, 1);
    for (int i = 0; i < 3; i++) {
        part[i] = zoe_view_slice(&qkv, 1, i * channels, channels);
        part[i] = zoe_view_heads(&part[i], 1);
    }
    ZOE_TRY(zoe_op_attention(be, &nh, &part[0], &part[1], &part[2], &(zoe_attention){.scale = 1 / sqrtf((float)channels)}));
    ZOE_TRY(zoe_nn_linear_add(be, &out, &n, &a->proj, &rows, NULL, NULL));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

int zoe_wan_mid(zoe_backend *be, wan_coder *coder, const zoe_tensor *x, zoe_tensor *y) {
    zoe_tensor a;
    ZOE_TRY(zoe_new_tensor(be, &a, be->dtype, 4, x->shape));
    ZOE_TRY(zoe_new_tensor(be, y, be->dtype, 4, x->shape));
    ZOE_TRY(zoe_wan_resnet(be, &coder->mid[0], y, x));
    ZOE_TRY(attend(be, &coder->attention, y, &a));
    return zoe_wan_resnet(be, &coder->mid[1], y, &a);
}

int zoe_wan_head(zoe_backend *be, wan_coder *coder, const zoe_tensor *x, zoe_tensor *y) {
    zoe_tensor n;
    ZOE_TRY(zoe_new_tensor(be, &n, be->dtype, 4, x->shape));
    ZOE_TRY(zoe_wan_vae_norm(be, &n, x, &coder->norm_out, ZOE_ACT_SILU));
    return zoe_wan_conv(be, &coder->conv_out, y, &n, NULL);
}
