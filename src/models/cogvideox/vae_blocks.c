#include "models/cogvideox/vae_blocks.h"

static const zoe_slot norm_slots[] = {
    {"weight", offsetof(cogvideox_norm, w), ZOE_SLOT_VECTOR, "O", 0},
    {"bias", offsetof(cogvideox_norm, b), ZOE_SLOT_VECTOR, "O", 0},
    {0},
};

static const int cube[3] = {3, 3, 3}, point[3] = {1, 1, 1};

int zoe_cogvideox_bind_norm(zoe_weights *weights, cogvideox_norm *norm, int64_t channels, int64_t latent,
                            const char *prefix) {
    const zoe_dims dims = {['O' - 'A'] = channels};
    char name[256];
    ZOE_TRY(zoe_weights_bind(weights, norm_slots, dims, norm, latent ? "%snorm_layer." : "%s", prefix));
    if (!latent) return ZOE_OK;
    snprintf(name, sizeof name, "%sconv_y.conv.", prefix);
    ZOE_TRY(zoe_carrier_bind(weights, &norm->scale, latent, channels, point, name));
    snprintf(name, sizeof name, "%sconv_b.conv.", prefix);
    return zoe_carrier_bind(weights, &norm->shift, latent, channels, point, name);
}

int zoe_cogvideox_bind_resnet(zoe_weights *weights, cogvideox_resnet *resnet, int64_t in, int64_t out, int64_t latent,
                              const char *prefix) {
    char name[256];
    snprintf(name, sizeof name, "%snorm1.", prefix);
    ZOE_TRY(zoe_cogvideox_bind_norm(weights, &resnet->norm_1, in, latent, name));
    snprintf(name, sizeof name, "%snorm2.", prefix);
    ZOE_TRY(zoe_cogvideox_bind_norm(weights, &resnet->norm_2, out, latent, name));
    snprintf(name, sizeof name, "%sconv1.conv.", prefix);
    ZOE_TRY(zoe_carrier_bind(weights, &resnet->conv_1, in, out, cube, name));
    snprintf(name, sizeof name, "%sconv2.conv.", prefix);
    ZOE_TRY(zoe_carrier_bind(weights, &resnet->conv_2, out, out, cube, name));
    if (in == out) return ZOE_OK;
    snprintf(name, sizeof name, "%sconv_shortcut.", prefix);
    return zoe_carrier_bind(weights, &resnet->shortcut, in, out, point, name);
}

int zoe_cogvideox_vae_tiles(const zoe_cogvideox_vae *vae, zoe_tiles *out) {
    static const double overlap[2] = {1.0 / 6, 1.0 / 5};
    *out = (zoe_tiles){.step = 1};
    for (int i = 0; i < 2; i++) {
        int64_t half = vae->config.sample[i] / 2, cells = half / ZOE_COGVIDEOX_VAE_SPACE;
        out->size[i] = cells * ZOE_COGVIDEOX_VAE_SPACE;
        out->stride[i] = (int64_t)((double)cells * (1 - overlap[i])) * ZOE_COGVIDEOX_VAE_SPACE;
        out->blend[i] = (int64_t)((double)half * overlap[i]);
        if (half - out->blend[i] != out->stride[i] || out->size[i] != half || out->stride[i] == 0)
            return zoe_fail(vae->be->ctx, ZOE_ERR_UNSUPPORTED,
                            "reference tiling: tiles of %lldx%lld do not fit together for this VAE; another --vae-tiling "
                            "would do",
                            (long long)(vae->config.sample[1] / 2), (long long)(vae->config.sample[0] / 2));
    }
    return ZOE_OK;
}

int zoe_cogvideox_begin_resnets(zoe_backend *be, cogvideox_resnet *resnets, int count, int64_t height, int64_t width) {
    for (int i = 0; i < count; i++) {
        ZOE_TRY(zoe_carrier_begin(be, &resnets[i].conv_1, height, width, 0));
        ZOE_TRY(zoe_carrier_begin(be, &resnets[i].conv_2, height, width, 0));
    }
    return ZOE_OK;
}

int zoe_cogvideox_conv(zoe_backend *be, zoe_carrier *conv, zoe_tensor *y, const zoe_tensor *x, const zoe_tensor *residual) {
    ZOE_TRY(zoe_carrier_run(be, conv, NULL, y, x, residual));
    return conv->w.shape[1] > 1 ? zoe_carrier_copy(be, conv, x) : ZOE_OK;
}

/* The map that a norm's convolution makes of the latents, fresh on the arena. */
static int make_map(zoe_backend *be, const zoe_carrier *conv, const zoe_tensor *latents, zoe_tensor *map) {
    zoe_conv p = {.kernel = {1, 1, 1}, .stride = {1, 1, 1}, .upsample = 1, .bias = &conv->b};
    ZOE_TRY(ZOE_NEW(be, map, be->dtype, latents->shape[0], latents->shape[1], latents->shape[2], conv->w.shape[0]));
    return zoe_op_conv(be, map, latents, &conv->w, &p);
}

int zoe_cogvideox_norm_silu(const zoe_cogvideox_vae *vae, const cogvideox_norm *norm, zoe_tensor *y, const zoe_tensor *x,
                            const zoe_tensor *latents) {
    zoe_backend *be = vae->be;
    size_t mark = zoe_arena_mark(be);
    zoe_tensor scale, shift;
    zoe_group_norm p = {.groups = vae->config.groups,
                        .eps = (float)vae->config.eps,
                        .weight = &norm->w,
                        .bias = &norm->b,
                        .first_apart = x->shape[0] > 1 && x->shape[0] % 2 == 1,
                        .act = ZOE_ACT_SILU};
    if (latents) {
        ZOE_TRY(make_map(be, &norm->scale, latents, &scale));
        ZOE_TRY(make_map(be, &norm->shift, latents, &shift));
        p.scale = &scale, p.shift = &shift;
    }
    ZOE_TRY(zoe_op_group_norm(be, y, x, &p));
    zoe_arena_release(be, mark);
    return ZOE_OK;
}

/* A chain of resnets works in three buffers: `a` holds what goes in and comes out, `b` and `c` what is on the way. */
typedef struct buffers {
    zoe_tensor a, b, c;
} buffers;

/* Where the channels change: a = shortcut(a) + conv(silu(norm(conv(silu(norm(a)))))), in the same memory if that is enough.
 */
static int run_changing(const zoe_cogvideox_vae *vae, cogvideox_resnet *resnet, const zoe_tensor *latents, buffers *t) {
    zoe_backend *be = vae->be;
    zoe_tensor out = zoe_tensor_of(t->a.data, be->dtype, 4, t->c.shape);
    if (zoe_tensor_bytes(&out) > zoe_tensor_bytes(&t->a)) ZOE_TRY(zoe_new_tensor(be, &out, be->dtype, 4, t->c.shape));
    ZOE_TRY(zoe_cogvideox_conv(be, &resnet->shortcut, &t->b, &t->a, NULL));
    ZOE_TRY(zoe_cogvideox_norm_silu(vae, &resnet->norm_1, &t->a, &t->a, latents));
    ZOE_TRY(zoe_cogvideox_conv(be, &resnet->conv_1, &t->c, &t->a, NULL));
    ZOE_TRY(zoe_cogvideox_norm_silu(vae, &resnet->norm_2, &t->c, &t->c, latents));
    ZOE_TRY(zoe_cogvideox_conv(be, &resnet->conv_2, &out, &t->c, &t->b));
    t->a = out;
    return ZOE_OK;
}

/* a += conv(silu(norm(conv(silu(norm(a)))))); a and b change places */
static int run_resnet(const zoe_cogvideox_vae *vae, cogvideox_resnet *resnet, const zoe_tensor *latents, buffers *t) {
    zoe_backend *be = vae->be;
    zoe_tensor in = t->a;
    ZOE_TRY(zoe_cogvideox_norm_silu(vae, &resnet->norm_1, &t->b, &t->a, latents));
    ZOE_TRY(zoe_cogvideox_conv(be, &resnet->conv_1, &t->c, &t->b, NULL));
    ZOE_TRY(zoe_cogvideox_norm_silu(vae, &resnet->norm_2, &t->c, &t->c, latents));
    ZOE_TRY(zoe_cogvideox_conv(be, &resnet->conv_2, &t->b, &t->c, &t->a));
    t->a = t->b;
    t->b = in;
    return ZOE_OK;
}

int zoe_cogvideox_resnets(const zoe_cogvideox_vae *vae, cogvideox_resnet *resnets, int count, const zoe_tensor *latents,
                          const zoe_tensor *x, zoe_tensor *y) {
    int64_t out = resnets[0].conv_1.w.shape[0];
    buffers t = {.a = *x};
    ZOE_TRY(ZOE_NEW(vae->be, &t.b, vae->be->dtype, x->shape[0], x->shape[1], x->shape[2], out));
    ZOE_TRY(zoe_new_tensor(vae->be, &t.c, vae->be->dtype, 4, t.b.shape));
    for (int i = 0; i < count; i++)
        ZOE_TRY((resnets[i].shortcut.w.rank ? run_changing : run_resnet)(vae, &resnets[i], latents, &t));
    *y = t.a;
    return ZOE_OK;
}
