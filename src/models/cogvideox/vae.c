/* Configuration and set-up of the CogVideoX autoencoder, and its encoder for pictures; the decoder is in vae_decoder.c. */
#include "models/cogvideox/vae.h"

#include <string.h>

#include "models/cogvideox/names.h"
#include "models/cogvideox/vae_blocks.h"

static const int cube[3] = {3, 3, 3}, in_frame[3] = {0, 3, 3};

/* ---- configuration ---- */

static int refuse(const zoe_config *config, const char *what) {
    return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: expected %s", config->path, what);
}

int zoe_cogvideox_vae_config_read(const zoe_config *config, zoe_cogvideox_vae_config *out) {
    const char *activation = "silu";
    int64_t time = ZOE_COGVIDEOX_VAE_TIME, in = 3, made = 3;
    bool quant = false, post_quant = false;
    *out = (zoe_cogvideox_vae_config){.channels = 16,
                                      .widths = {128, 256, 256, 512},
                                      .resnets = 3,
                                      .groups = 32,
                                      .eps = 1e-6,
                                      .scale = 1.15258426,
                                      .sample = {480, 720}};
    ZOE_TRY(zoe_config_int(config, "latent_channels", 1, 4096, &out->channels));
    if (zoe_config_has(config, "block_out_channels"))
        ZOE_TRY(zoe_config_ints(config, "block_out_channels", ZOE_COGVIDEOX_VAE_LEVELS, 1, 1 << 16, out->widths));
    ZOE_TRY(zoe_config_int(config, "layers_per_block", 1, ZOE_COGVIDEOX_VAE_RESNETS - 1, &out->resnets));
    ZOE_TRY(zoe_config_int(config, "norm_num_groups", 1, 1 << 16, &out->groups));
    ZOE_TRY(zoe_config_real(config, "norm_eps", &out->eps));
    ZOE_TRY(zoe_config_real(config, "scaling_factor", &out->scale));
    ZOE_TRY(zoe_config_bool(config, "invert_scale_latents", &out->invert_scale));
    ZOE_TRY(zoe_config_int(config, "temporal_compression_ratio", 1, 64, &time));
    ZOE_TRY(zoe_config_int(config, "in_channels", 1, 64, &in));
    ZOE_TRY(zoe_config_int(config, "out_channels", 1, 64, &made));
    ZOE_TRY(zoe_config_int(config, "sample_height", 1, 1 << 16, &out->sample[0]));
    ZOE_TRY(zoe_config_int(config, "sample_width", 1, 1 << 16, &out->sample[1]));
    ZOE_TRY(zoe_config_bool(config, "use_quant_conv", &quant));
    ZOE_TRY(zoe_config_bool(config, "use_post_quant_conv", &post_quant));
    ZOE_TRY(zoe_config_text(config, "act_fn", &activation));
    if (time != ZOE_COGVIDEOX_VAE_TIME) return refuse(config, "temporal_compression_ratio 4");
    if (in != 3 || made != 3) return refuse(config, "in_channels and out_channels 3");
    if (quant || post_quant) return refuse(config, "use_quant_conv and use_post_quant_conv false");
    if (strcmp(activation, "silu") != 0) return refuse(config, "act_fn \"silu\"");
    if (!(out->scale > 0)) return refuse(config, "a scaling_factor of more than 0");
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++)
        if (out->widths[i] % out->groups) return refuse(config, "block_out_channels that norm_num_groups divides");
    return ZOE_OK;
}

/* ---- binding ---- */

/* `latent`: channels that make the decoder's maps; 0 in the encoder. `side`: "down" or "up". */
static int bind_levels(zoe_weights *weights, cogvideox_coder *coder, int64_t latent, const char *side) {
    const char *coder_name = latent ? "decoder" : "encoder", *resample = latent ? "upsamplers" : "downsamplers";
    char name[256];
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        cogvideox_level *level = &coder->levels[i];
        for (int j = 0; j < level->resnet_count; j++) {
            snprintf(name, sizeof name, "%s.%s_blocks.%d.resnets.%d.", coder_name, side, i, j);
            ZOE_TRY(zoe_cogvideox_bind_resnet(weights, &level->resnets[j], j ? level->out : level->in, level->out, latent,
                                              name));
        }
        if (!level->resample) continue;
        snprintf(name, sizeof name, "%s.%s_blocks.%d.%s.0.conv.", coder_name, side, i, resample);
        ZOE_TRY(zoe_carrier_bind(weights, &level->space, level->out, level->out, in_frame, name));
    }
    return ZOE_OK;
}

static int bind_mid(zoe_weights *weights, cogvideox_coder *coder, int64_t width, int64_t latent) {
    char name[256];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d.", latent ? "decoder" : "encoder", i);
        ZOE_TRY(zoe_cogvideox_bind_resnet(weights, &coder->mid[i], width, width, latent, name));
    }
    return ZOE_OK;
}

/* Time is resampled in the first two levels from the pixels' side in the encoder, from the latents' in the decoder. */
static void set_levels(zoe_cogvideox_vae *vae) {
    const zoe_cogvideox_vae_config *c = &vae->config;
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        int mirrored = ZOE_COGVIDEOX_VAE_LEVELS - 1 - i;
        bool resample = i < ZOE_COGVIDEOX_VAE_LEVELS - 1;
        vae->encoder.levels[i] = (cogvideox_level){.in = c->widths[i ? i - 1 : 0],
                                                   .out = c->widths[i],
                                                   .resnet_count = (int)c->resnets,
                                                   .resample = resample,
                                                   .temporal = i < 2};
        vae->decoder.levels[i] = (cogvideox_level){.in = c->widths[i ? mirrored + 1 : mirrored],
                                                   .out = c->widths[mirrored],
                                                   .resnet_count = (int)c->resnets + 1,
                                                   .resample = resample,
                                                   .temporal = i < 2};
    }
}

static int bind(zoe_cogvideox_vae *vae) {
    const zoe_cogvideox_vae_config *c = &vae->config;
    zoe_weights *w = vae->weights;
    int64_t first = c->widths[0], widest = c->widths[ZOE_COGVIDEOX_VAE_LEVELS - 1], latent = c->channels;
    set_levels(vae);
    ZOE_TRY(zoe_weights_unit(w));
    ZOE_TRY(zoe_carrier_bind(w, &vae->encoder.conv_in, 3, first, cube, "encoder.conv_in.conv."));
    ZOE_TRY(bind_levels(w, &vae->encoder, 0, "down"));
    ZOE_TRY(bind_mid(w, &vae->encoder, widest, 0));
    ZOE_TRY(zoe_cogvideox_bind_norm(w, &vae->encoder.norm_out, widest, 0, "encoder.norm_out."));
    ZOE_TRY(zoe_carrier_bind(w, &vae->encoder.conv_out, widest, 2 * latent, cube, "encoder.conv_out.conv."));
    ZOE_TRY(zoe_weights_unit(w));
    ZOE_TRY(zoe_carrier_bind(w, &vae->decoder.conv_in, latent, widest, cube, "decoder.conv_in.conv."));
    ZOE_TRY(bind_mid(w, &vae->decoder, widest, latent));
    ZOE_TRY(bind_levels(w, &vae->decoder, latent, "up"));
    ZOE_TRY(zoe_cogvideox_bind_norm(w, &vae->decoder.norm_out, first, latent, "decoder.norm_out."));
    ZOE_TRY(zoe_carrier_bind(w, &vae->decoder.conv_out, first, 3, cube, "decoder.conv_out.conv."));
    return zoe_weights_check(w);
}

int zoe_cogvideox_vae_create(zoe_backend *be, const zoe_cogvideox_vae_config *config, const zoe_checkpoint *ckpt,
                             zoe_cogvideox_vae **out) {
    int status;
    zoe_cogvideox_vae *vae;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, vae, 1));
    vae->be = be;
    vae->config = *config;
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "VAE", zoe_cogvideox_vae_aliases, ZOE_FORM_NATIVE, &vae->weights));
    ZOE_TRY_DONE(bind(vae));
    *out = vae;
    return ZOE_OK;
done:
    zoe_cogvideox_vae_free(vae);
    return status;
}

void zoe_cogvideox_vae_free(zoe_cogvideox_vae *vae) {
    if (!vae) return;
    zoe_weights_free(vae->weights);
    zoe_free(vae->be->ctx, vae);
}

const zoe_cogvideox_vae_config *zoe_cogvideox_vae_configuration(const zoe_cogvideox_vae *vae) {
    return &vae->config;
}

zoe_weights *zoe_cogvideox_vae_weights(zoe_cogvideox_vae *vae) {
    return vae->weights;
}

/* ---- encoding a picture: a clip of one frame, which is never averaged over time ---- */

static int begin(zoe_cogvideox_vae *vae, int64_t height, int64_t width) {
    zoe_backend *be = vae->be;
    cogvideox_coder *coder = &vae->encoder;
    ZOE_TRY(zoe_carrier_begin(be, &coder->conv_in, height, width, 0));
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        cogvideox_level *level = &coder->levels[i];
        ZOE_TRY(zoe_cogvideox_begin_resnets(be, level->resnets, level->resnet_count, height, width));
        if (level->resample) height /= 2, width /= 2;
    }
    ZOE_TRY(zoe_cogvideox_begin_resnets(be, coder->mid, 2, height, width));
    return zoe_carrier_begin(be, &coder->conv_out, height, width, 0);
}

static int shrink(zoe_backend *be, const zoe_carrier *conv, const zoe_tensor *x, zoe_tensor *y) {
    zoe_conv p = {.kernel = {1, 3, 3},
                  .stride = {1, 2, 2},
                  .pad = {{0, 0}, {0, 1}, {0, 1}},
                  .upsample = 1,
                  .bias = &conv->b};
    ZOE_TRY(ZOE_NEW(be, y, be->dtype, 1, x->shape[1] / 2, x->shape[2] / 2, conv->w.shape[0]));
    return zoe_op_conv(be, y, x, &conv->w, &p);
}

static int encode(zoe_cogvideox_vae *vae, const float *picture, int64_t height, int64_t width, float *moments) {
    zoe_backend *be = vae->be;
    cogvideox_coder *coder = &vae->encoder;
    int64_t channels = 2 * vae->config.channels;
    zoe_tensor pixels, frame, x, y, out, planes;
    ZOE_TRY(begin(vae, height, width));
    ZOE_TRY(zoe_nn_from_host(be, &pixels, ZOE_F32, 4, (const int64_t[]){1, height, width, 3}, picture));
    ZOE_TRY(ZOE_NEW(be, &frame, be->dtype, 1, height, width, 3));
    ZOE_TRY(ZOE_NEW(be, &x, be->dtype, 1, height, width, vae->config.widths[0]));
    ZOE_TRY(zoe_op_copy(be, &frame, &pixels));
    ZOE_TRY(zoe_cogvideox_conv(be, &coder->conv_in, &x, &frame, NULL));
    for (int i = 0; i < ZOE_COGVIDEOX_VAE_LEVELS; i++) {
        cogvideox_level *level = &coder->levels[i];
        ZOE_TRY(zoe_check_cancelled(be->ctx));
        ZOE_TRY(zoe_cogvideox_resnets(vae, level->resnets, level->resnet_count, NULL, &x, &y));
        x = y;
        if (level->resample) ZOE_TRY(shrink(be, &level->space, &y, &x));
    }
    ZOE_TRY(zoe_cogvideox_resnets(vae, coder->mid, 2, NULL, &x, &y));
    ZOE_TRY(zoe_cogvideox_norm_silu(vae, &coder->norm_out, &y, &y, NULL));
    ZOE_TRY(ZOE_NEW(be, &out, be->dtype, 1, y.shape[1], y.shape[2], channels));
    ZOE_TRY(zoe_cogvideox_conv(be, &coder->conv_out, &out, &y, NULL));
    ZOE_TRY(ZOE_NEW(be, &planes, ZOE_F32, 1, channels, y.shape[1], y.shape[2]));
    zoe_tensor by_channel = zoe_view_permute(&out, (const int[]){0, 3, 1, 2});
    ZOE_TRY(zoe_op_copy(be, &planes, &by_channel));
    return zoe_download(be, moments, &planes);
}

int zoe_cogvideox_vae_encode(zoe_cogvideox_vae *vae, const float *picture, int64_t height, int64_t width, float *moments) {
    size_t mark = zoe_arena_mark(vae->be);
    ZOE_TRY(zoe_weights_acquire(vae->weights, ZOE_COGVIDEOX_VAE_ENCODER_UNIT));
    int status = encode(vae, picture, height, width, moments);
    status = zoe_weights_release(vae->weights, ZOE_COGVIDEOX_VAE_ENCODER_UNIT, status);
    zoe_arena_release(vae->be, mark);
    return status;
}
