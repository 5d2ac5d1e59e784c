/* Configuration and set-up of the Wan autoencoders; the two directions are in vae_decoder.c and vae_encoder.c. */
#include "models/wan/vae.h"

#include <string.h>

#include "models/wan/names.h"
#include "models/wan/vae_blocks.h"

/* ---- configuration ---- */

static const double mean_21[16] = {-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                                   0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
static const double std_21[16] = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                  3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};
static const double mean_22[48] = {-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174,  0.1838,  0.1557,  -0.1382, 0.0542,
                                   0.2813,  0.0891,  0.1570,  -0.0098, 0.0375,  -0.1825, -0.2246, -0.1207, -0.0698, 0.5109,
                                   0.2665,  -0.2108, -0.2158, 0.2502,  -0.2055, -0.0322, 0.1109,  0.1567,  -0.0729, 0.0899,
                                   -0.2799, -0.1230, -0.0313, -0.1649, 0.0117,  0.0723,  -0.2839, -0.2083, -0.0520, 0.3748,
                                   0.0152,  0.1957,  0.1433,  -0.2944, 0.3573,  -0.0548, -0.1681, -0.0667};
static const double std_22[48] = {0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344,
                                  0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804,
                                  0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999,
                                  0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
                                  0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744};

void zoe_wan_vae_config_free(zoe_context *ctx, zoe_wan_vae_config *config) {
    zoe_free(ctx, config->mean);
    zoe_free(ctx, config->std);
    config->mean = config->std = NULL;
}

static int set_statistics(zoe_context *ctx, zoe_wan_vae_config *c, const double *mean, const double *std) {
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, c->mean, c->channels));
    ZOE_TRY(ZOE_NEW_ARRAY(ctx, c->std, c->channels));
    if (mean) memcpy(c->mean, mean, (size_t)c->channels * sizeof *mean);
    if (std) memcpy(c->std, std, (size_t)c->channels * sizeof *std);
    return ZOE_OK;
}

int zoe_wan_vae_config_from_checkpoint(zoe_context *ctx, const zoe_checkpoint *ckpt, zoe_wan_vae_config *out) {
    const zoe_entry *first = zoe_checkpoint_find(ckpt, "encoder.conv1.weight");
    const zoe_entry *last = zoe_checkpoint_find(ckpt, "decoder.head.0.gamma"),
                    *latent = zoe_checkpoint_find(ckpt, "conv2.weight");
    bool second = latent && latent->rank == 5 && latent->shape[0] == 48;
    if (!first || first->rank != 5 || !first->shape[0] || !last || last->rank < 1 || !last->shape[0] || !latent ||
        (!second && latent->shape[0] != 16))
        return zoe_fail(ctx, ZOE_ERR_FORMAT,
                        "%s is no Wan VAE: expected encoder.conv1.weight, decoder.head.0.gamma, and conv2.weight "
                        "of 16 or 48 channels",
                        zoe_checkpoint_path(ckpt, 0));
    *out = (zoe_wan_vae_config){.base = first->shape[0],
                                .decoder_base = last->shape[0],
                                .channels = latent->shape[0],
                                .multiples = {1, 2, 4, 4},
                                .resnets = 2,
                                .temporal = {0, 1, 1},
                                .residual = second,
                                .patch = second ? 2 : 1};
    int status = set_statistics(ctx, out, second ? mean_22 : mean_21, second ? std_22 : std_21);
    if (status < 0) zoe_wan_vae_config_free(ctx, out);
    return status;
}

static int read_config(const zoe_config *config, zoe_wan_vae_config *c) {
    ZOE_TRY(zoe_config_int(config, "base_dim", 1, 1 << 16, &c->base));
    c->decoder_base = c->base;
    ZOE_TRY(zoe_config_int(config, "decoder_base_dim", 1, 1 << 16, &c->decoder_base));
    ZOE_TRY(zoe_config_int(config, "z_dim", 1, 4096, &c->channels));
    ZOE_TRY(zoe_config_ints(config, "dim_mult", ZOE_WAN_VAE_LEVELS, 1, 64, c->multiples));
    ZOE_TRY(zoe_config_int(config, "num_res_blocks", 1, ZOE_WAN_VAE_RESNETS - 1, &c->resnets));
    ZOE_TRY(zoe_config_ints(config, "temperal_downsample", ZOE_WAN_VAE_LEVELS - 1, 0, 1, c->temporal));
    ZOE_TRY(zoe_config_bool(config, "is_residual", &c->residual));
    ZOE_TRY(zoe_config_int(config, "patch_size", 1, 2, &c->patch));
    if (zoe_config_length(config, "attn_scales") > 0)
        return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: attn_scales must be empty", config->path);
    bool known = c->channels == 16 || c->channels == 48;
    if (!known && !zoe_config_has(config, "latents_mean"))
        return zoe_fail(config->ctx, ZOE_ERR_FORMAT, "%s: latents_mean and latents_std are missing", config->path);
    ZOE_TRY(set_statistics(config->ctx, c,
                           !known              ? NULL
                           : c->channels == 16 ? mean_21
                                               : mean_22,
                           !known              ? NULL
                           : c->channels == 16 ? std_21
                                               : std_22));
    if (zoe_config_has(config, "latents_mean"))
        ZOE_TRY(zoe_config_reals(config, "latents_mean", (size_t)c->channels, c->mean));
    if (zoe_config_has(config, "latents_std"))
        ZOE_TRY(zoe_config_reals(config, "latents_std", (size_t)c->channels, c->std));
    for (int64_t i = 0; i < c->channels; i++)
        if (!(c->std[i] > 0))
            return zoe_fail(config->ctx, ZOE_ERR_FORMAT, "%s: latents_std must be positive", config->path);
    return ZOE_OK;
}

int zoe_wan_vae_config_read(const zoe_config *config, zoe_wan_vae_config *out) {
    *out = (zoe_wan_vae_config){.base = 96,
                                .channels = 16,
                                .multiples = {1, 2, 4, 4},
                                .resnets = 2,
                                .temporal = {0, 1, 1},
                                .patch = 1};
    int status = read_config(config, out);
    if (status < 0) zoe_wan_vae_config_free(config->ctx, out);
    return status;
}

int64_t zoe_wan_vae_time_factor(const zoe_wan_vae_config *config) {
    int64_t factor = 1;
    for (int i = 0; i < ZOE_WAN_VAE_LEVELS - 1; i++) factor *= config->temporal[i] ? 2 : 1;
    return factor;
}

int64_t zoe_wan_vae_space_factor(const zoe_wan_vae_config *config) {
    return (1 << (ZOE_WAN_VAE_LEVELS - 1)) * config->patch;
}

/* ---- binding ---- */

static const int cube[3] = {3, 3, 3}, point[3] = {1, 1, 1}, in_time[3] = {3, 1, 1}, in_frame[3] = {0, 3, 3};

static int bind_resample(zoe_weights *weights, wan_level *level, int64_t time_out, const char *prefix) {
    char name[256];
    if (!level->resample) return ZOE_OK;
    snprintf(name, sizeof name, "%sresample.1.", prefix);
    ZOE_TRY(zoe_carrier_bind(weights, &level->space, level->out, level->resampled, in_frame, name));
    snprintf(name, sizeof name, "%stime_conv.", prefix);
    return level->temporal ? zoe_carrier_bind(weights, &level->time, level->out, time_out, in_time, name) : ZOE_OK;
}

static int bind_decoder(zoe_wan_vae *vae) {
    const zoe_wan_vae_config *c = &vae->config;
    wan_coder *coder = &vae->decoder;
    char name[256];
    int64_t channels = c->decoder_base * c->multiples[ZOE_WAN_VAE_LEVELS - 1];
    ZOE_TRY(zoe_carrier_bind(vae->weights, &vae->post_quant, c->channels, c->channels, point, "post_quant_conv."));
    ZOE_TRY(zoe_carrier_bind(vae->weights, &coder->conv_in, c->channels, channels, cube, "decoder.conv_in."));
    ZOE_TRY(zoe_wan_bind_mid(vae->weights, coder, channels, "decoder."));
    for (int i = 0; i < ZOE_WAN_VAE_LEVELS; i++) {
        int from_top = ZOE_WAN_VAE_LEVELS - 1 - i;
        wan_level *level = &coder->levels[i];
        *level = (wan_level){.in = channels,
                             .out = c->decoder_base * c->multiples[from_top],
                             .resnet_count = (int)c->resnets + 1};
        level->resample = from_top > 0;
        level->temporal = level->resample && c->temporal[from_top - 1];
        level->resampled = c->residual ? level->out : level->out / 2;
        for (int j = 0; j < level->resnet_count; j++) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d.", i, j);
            ZOE_TRY(zoe_wan_bind_resnet(vae->weights, &level->resnets[j], j ? level->out : level->in, level->out, name));
        }
        snprintf(name, sizeof name, c->residual ? "decoder.up_blocks.%d.upsampler." : "decoder.up_blocks.%d.upsamplers.0.",
                 i);
        ZOE_TRY(bind_resample(vae->weights, level, 2 * level->out, name));
        channels = level->resample ? level->resampled : level->out;
    }
    const zoe_slot norm[] = {{"norm_out.gamma", offsetof(wan_coder, norm_out), ZOE_SLOT_VECTOR, "C 1 1 1", 0}, {0}};
    ZOE_TRY(zoe_weights_bind(vae->weights, norm, (zoe_dims){['C' - 'A'] = channels}, coder, "decoder."));
    return zoe_carrier_bind(vae->weights, &coder->conv_out, channels, 3 * c->patch * c->patch, cube, "decoder.conv_out.");
}

/* 2.1 numbers the encoder's resnets and resamplers through all levels, 2.2 within each. */
static int bind_encoder(zoe_wan_vae *vae) {
    const zoe_wan_vae_config *c = &vae->config;
    wan_coder *coder = &vae->encoder;
    char name[256];
    int64_t channels = c->base;
    int flat = 0;
    ZOE_TRY(zoe_carrier_bind(vae->weights, &coder->conv_in, 3 * c->patch * c->patch, channels, cube, "encoder.conv_in."));
    for (int i = 0; i < ZOE_WAN_VAE_LEVELS; i++) {
        wan_level *level = &coder->levels[i];
        *level = (wan_level){.in = channels, .out = c->base * c->multiples[i], .resnet_count = (int)c->resnets};
        level->resample = i < ZOE_WAN_VAE_LEVELS - 1;
        level->temporal = level->resample && c->temporal[i];
        level->resampled = level->out;
        for (int j = 0; j < level->resnet_count; j++) {
            if (c->residual)
                snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.%d.", i, j);
            else
                snprintf(name, sizeof name, "encoder.down_blocks.%d.", flat++);
            ZOE_TRY(zoe_wan_bind_resnet(vae->weights, &level->resnets[j], j ? level->out : level->in, level->out, name));
        }
        if (c->residual)
            snprintf(name, sizeof name, "encoder.down_blocks.%d.downsampler.", i);
        else if (level->resample)
            snprintf(name, sizeof name, "encoder.down_blocks.%d.", flat++);
        ZOE_TRY(bind_resample(vae->weights, level, level->out, name));
        channels = level->out;
    }
    ZOE_TRY(zoe_wan_bind_mid(vae->weights, coder, channels, "encoder."));
    const zoe_slot norm[] = {{"norm_out.gamma", offsetof(wan_coder, norm_out), ZOE_SLOT_VECTOR, "C 1 1 1", 0}, {0}};
    ZOE_TRY(zoe_weights_bind(vae->weights, norm, (zoe_dims){['C' - 'A'] = channels}, coder, "encoder."));
    ZOE_TRY(zoe_carrier_bind(vae->weights, &coder->conv_out, channels, 2 * c->channels, cube, "encoder.conv_out."));
    return zoe_carrier_bind(vae->weights, &vae->quant, 2 * c->channels, 2 * c->channels, point, "quant_conv.");
}

int zoe_wan_vae_create(zoe_backend *be, zoe_wan_vae_config *config, const zoe_checkpoint *ckpt, zoe_wan_vae **out) {
    zoe_wan_vae *vae;
    *out = NULL;
    int status = ZOE_NEW_ARRAY(be->ctx, vae, 1);
    if (status < 0) {
        zoe_wan_vae_config_free(be->ctx, config);
        return status;
    }
    vae->be = be;
    vae->config = *config;
    config->mean = config->std = NULL;
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "VAE", vae->config.residual ? zoe_wan_vae_22_aliases : zoe_wan_vae_21_aliases,
                                    ZOE_FORM_NATIVE, &vae->weights));
    ZOE_TRY_DONE(zoe_weights_unit(vae->weights));
    ZOE_TRY_DONE(bind_encoder(vae));
    ZOE_TRY_DONE(zoe_weights_unit(vae->weights));
    ZOE_TRY_DONE(bind_decoder(vae));
    ZOE_TRY_DONE(zoe_weights_check(vae->weights));
    *out = vae;
    return ZOE_OK;
done:
    zoe_wan_vae_free(vae);
    return status;
}

void zoe_wan_vae_free(zoe_wan_vae *vae) {
    if (!vae) return;
    zoe_weights_free(vae->weights);
    zoe_wan_vae_config_free(vae->be->ctx, &vae->config);
    zoe_free(vae->be->ctx, vae);
}

const zoe_wan_vae_config *zoe_wan_vae_configuration(const zoe_wan_vae *vae) {
    return &vae->config;
}

zoe_weights *zoe_wan_vae_weights(zoe_wan_vae *vae) {
    return vae->weights;
}
