/* Configuration and set-up of the LTX-Video autoencoder; the two directions are in vae_encoder.c and vae_decoder.c. */
#include "models/ltx/vae.h"

#include <string.h>

#include "models/ltx/names.h"
#include "models/ltx/vae_blocks.h"

#define FREQ_DIM 256

/* ---- configuration: the first published ones leave out what did not vary then; it is as in 0.9.0 ---- */

static int refuse(const zoe_config *config, const char *what) {
    return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: expected %s", config->path, what);
}

/* An array of at most `most` numbers and its length; absent, both stay as they are. */
static int read_list(const zoe_config *config, const char *key, size_t most, int64_t min, int64_t max, int64_t *out,
                     int *count) {
    size_t length = zoe_config_length(config, key);
    if (!zoe_config_has(config, key)) return ZOE_OK;
    if (length == 0 || length > most)
        return zoe_fail(config->ctx, ZOE_ERR_FORMAT, "%s: %s must have 1 to %zu entries, found %zu", config->path, key,
                        most, length);
    *count = (int)length;
    return zoe_config_ints(config, key, length, min, max, out);
}

static int read_array(const zoe_config *config, const char *key, int count, int64_t min, int64_t max, int64_t *out) {
    return zoe_config_ints(config, key, (size_t)count, min, max, out);
}

/* What a level's end does, by its name in diffusers. */
static int read_stride(const zoe_config *config, int level, int64_t stride[2]) {
    const char *name = json_string_value(json_array_get(json_object_get(config->root, "downsample_type"), (size_t)level));
    if (!name) return refuse(config, "a downsample_type for every level");
    bool both = strcmp(name, "spatiotemporal") == 0 || strcmp(name, "conv") == 0;
    if (!both && strcmp(name, "spatial") != 0 && strcmp(name, "temporal") != 0)
        return refuse(config, "downsample_type conv, spatial, temporal or spatiotemporal");
    stride[0] = both || strcmp(name, "temporal") == 0 ? 2 : 1;
    stride[1] = both || strcmp(name, "spatial") == 0 ? 2 : 1;
    return ZOE_OK;
}

static int read_encoder(const zoe_config *config, zoe_ltx_vae_config *c) {
    int64_t widths[ZOE_LTX_VAE_LEVELS] = {128, 256, 512, 512}, scales[ZOE_LTX_VAE_LEVELS] = {1, 1, 1};
    int count = 4;
    memcpy(c->layers, (int64_t[]){4, 3, 3, 3, 4}, 5 * sizeof c->layers[0]);
    ZOE_TRY(read_list(config, "block_out_channels", ZOE_LTX_VAE_LEVELS, 1, 1 << 16, widths, &count));
    const char *type = json_string_value(json_array_get(json_object_get(config->root, "down_block_types"), 0));
    c->shuffles = type && strcmp(type, "LTXVideo095DownBlock3D") == 0;
    if (type && !c->shuffles && strcmp(type, "LTXVideoDownBlock3D") != 0)
        return refuse(config, "down_block_types LTXVideoDownBlock3D or LTXVideo095DownBlock3D");
    c->levels = c->shuffles ? count - 1 : count;
    if (c->levels < 1) return refuse(config, "block_out_channels with a width for each level");
    ZOE_TRY(read_array(config, "layers_per_block", c->levels + 1, 1, ZOE_LTX_VAE_RESNETS, c->layers));
    ZOE_TRY(read_array(config, "spatio_temporal_scaling", c->levels, 0, 1, scales));
    for (int i = 0; i < c->levels; i++) {
        c->widths[i] = widths[i];
        c->out_widths[i] = widths[i + 1 < count ? i + 1 : i];
        c->stride[i][0] = c->stride[i][1] = scales[i] ? 2 : 1;
        if (scales[i] && c->shuffles) ZOE_TRY(read_stride(config, i, c->stride[i]));
    }
    return ZOE_OK;
}

/* All lists run from the pixels to the latents; the decoder goes the other way. */
static int read_decoder(const zoe_config *config, zoe_ltx_vae_config *c) {
    int64_t widths[ZOE_LTX_VAE_LEVELS] = {128, 256, 512, 512}, scales[ZOE_LTX_VAE_LEVELS] = {1, 1, 1};
    int64_t layers[ZOE_LTX_VAE_LEVELS + 1] = {4, 3, 3, 3, 4};
    int64_t noise[ZOE_LTX_VAE_LEVELS + 1] = {0}, residual[ZOE_LTX_VAE_LEVELS] = {0}, factor[ZOE_LTX_VAE_LEVELS];
    int n = 4;
    ZOE_TRY(read_list(config, "decoder_block_out_channels", ZOE_LTX_VAE_LEVELS, 1, 1 << 16, widths, &n));
    for (int i = 0; i < n; i++) factor[i] = 1;
    ZOE_TRY(read_array(config, "decoder_layers_per_block", n + 1, 1, ZOE_LTX_VAE_RESNETS, layers));
    ZOE_TRY(read_array(config, "decoder_spatio_temporal_scaling", n, 0, 1, scales));
    if (zoe_config_has(config, "decoder_inject_noise"))
        ZOE_TRY(read_array(config, "decoder_inject_noise", n + 1, 0, 1, noise));
    if (zoe_config_has(config, "upsample_residual")) ZOE_TRY(read_array(config, "upsample_residual", n, 0, 1, residual));
    if (zoe_config_has(config, "upsample_factor")) ZOE_TRY(read_array(config, "upsample_factor", n, 1, 8, factor));
    c->up_levels = n;
    c->up_widths[0] = widths[n - 1];
    c->up_layers[0] = layers[n];
    c->up_noise[0] = noise[n];
    for (int i = 0; i < n; i++) {
        int from = n - 1 - i;
        c->up_widths[i + 1] = widths[from] / factor[from];
        c->up_layers[i + 1] = layers[from];
        c->up_noise[i + 1] = noise[from];
        c->up_scales[i] = scales[from];
        c->up_residual[i] = residual[from];
        c->up_factor[i] = factor[from];
        int64_t in = c->up_widths[i] / factor[from];
        if (widths[from] % factor[from] || 8 % factor[from]) return refuse(config, "upsample_factor 1, 2, 4 or 8");
        if ((c->timestep || c->up_noise[i + 1]) && in != c->up_widths[i + 1])
            return refuse(config, "decoder_block_out_channels of levels that only enlarging narrows");
        if (c->up_residual[i] && c->up_widths[i] % 8) return refuse(config, "decoder widths in steps of 8");
    }
    return ZOE_OK;
}

int zoe_ltx_vae_config_read(const zoe_config *config, zoe_ltx_vae_config *out) {
    int64_t in = 3, made = 3, patch_time = 1, space = 0, time = 0;
    bool causal = true, up_causal = false;
    *out = (zoe_ltx_vae_config){.channels = 128, .patch = 4, .eps = 1e-6};
    ZOE_TRY(zoe_config_int(config, "latent_channels", 1, 4096, &out->channels));
    ZOE_TRY(zoe_config_int(config, "patch_size", 1, 16, &out->patch));
    ZOE_TRY(zoe_config_int(config, "patch_size_t", 1, 16, &patch_time));
    ZOE_TRY(zoe_config_real(config, "resnet_norm_eps", &out->eps));
    ZOE_TRY(zoe_config_bool(config, "timestep_conditioning", &out->timestep));
    ZOE_TRY(zoe_config_bool(config, "encoder_causal", &causal));
    ZOE_TRY(zoe_config_bool(config, "decoder_causal", &up_causal));
    ZOE_TRY(zoe_config_int(config, "in_channels", 1, 64, &in));
    ZOE_TRY(zoe_config_int(config, "out_channels", 1, 64, &made));
    ZOE_TRY(read_encoder(config, out));
    ZOE_TRY(read_decoder(config, out));
    space = zoe_ltx_vae_space_factor(out), time = zoe_ltx_vae_time_factor(out);
    int64_t stated_space = space, stated_time = time;
    ZOE_TRY(zoe_config_int(config, "spatial_compression_ratio", 1, 4096, &stated_space));
    ZOE_TRY(zoe_config_int(config, "temporal_compression_ratio", 1, 4096, &stated_time));
    if (in != 3 || made != 3 || patch_time != 1) return refuse(config, "three colours and patch_size_t 1");
    if (!causal || up_causal) return refuse(config, "encoder_causal true and decoder_causal false");
    if (space != stated_space || time != stated_time || space != 32 || time != 8)
        return refuse(config, "levels that compress 32 pixels and 8 frames into one");
    return ZOE_OK;
}

int64_t zoe_ltx_vae_time_factor(const zoe_ltx_vae_config *config) {
    int64_t factor = 1;
    for (int i = 0; i < config->up_levels; i++) factor *= config->up_scales[i] ? 2 : 1;
    return factor;
}

int64_t zoe_ltx_vae_space_factor(const zoe_ltx_vae_config *config) {
    return zoe_ltx_vae_time_factor(config) * config->patch;
}

/* ---- binding ---- */

/* I channels in, T timestep-conditioned, N takes noise, C the channels change */
static const zoe_slot resnet_slots[] = {
    {"scale_shift_table", offsetof(ltx_resnet, table), ZOE_SLOT_VECTOR, "4 I", 'T'},
    {"per_channel_scale1", offsetof(ltx_resnet, noise_1), ZOE_SLOT_VECTOR, "I 1 1", 'N'},
    {"per_channel_scale2", offsetof(ltx_resnet, noise_2), ZOE_SLOT_VECTOR, "I 1 1", 'N'},
    {"norm3.weight", offsetof(ltx_resnet, norm_w), ZOE_SLOT_VECTOR, "I", 'C'},
    {"norm3.bias", offsetof(ltx_resnet, norm_b), ZOE_SLOT_VECTOR, "I", 'C'},
    {0},
};

/* F sinusoid, O out */
static const zoe_slot time_slots[] = {
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ltx_time, first, "time_embedder.timestep_embedder.linear_1", "O", "F", 0),
    ZOE_LIN_SLOTS_OF(ZOE_SLOT_PRECISE, ltx_time, second, "time_embedder.timestep_embedder.linear_2", "O", "O", 0),
    {0},
};

/* L latent channels */
static const zoe_slot statistics_slots[] = {
    {"latents_mean", offsetof(struct zoe_ltx_vae, mean), ZOE_SLOT_VECTOR, "L", 0},
    {"latents_std", offsetof(struct zoe_ltx_vae, std), ZOE_SLOT_VECTOR, "L", 0},
    {0},
};

/* C channels of the decoder's end */
static const zoe_slot end_slots[] = {
    {"timestep_scale_multiplier", offsetof(ltx_coder, multiplier), ZOE_SLOT_VECTOR, "", 0},
    {"scale_shift_table", offsetof(ltx_coder, table), ZOE_SLOT_VECTOR, "2 C", 0},
    {0},
};

/* Convolutions lie in a module of their own. */
static int bind_conv(zoe_weights *weights, zoe_carrier *conv, int64_t in, int64_t out, int kernel, const char *prefix) {
    char name[256];
    snprintf(name, sizeof name, "%sconv.", prefix);
    return zoe_carrier_bind(weights, conv, in, out, (const int[]){kernel, kernel, kernel}, name);
}

static int bind_resnet(zoe_weights *weights, ltx_resnet *resnet, int64_t in, int64_t out, bool timestep, bool noise,
                       const char *prefix) {
    const zoe_dims dims = {['I' - 'A'] = in, ['T' - 'A'] = timestep, ['N' - 'A'] = noise, ['C' - 'A'] = in != out};
    char name[256];
    ZOE_TRY(zoe_weights_bind(weights, resnet_slots, dims, resnet, "%s", prefix));
    snprintf(name, sizeof name, "%sconv1.", prefix);
    ZOE_TRY(bind_conv(weights, &resnet->conv_1, in, out, 3, name));
    snprintf(name, sizeof name, "%sconv2.", prefix);
    ZOE_TRY(bind_conv(weights, &resnet->conv_2, out, out, 3, name));
    if (in == out) return ZOE_OK;
    snprintf(name, sizeof name, "%sconv_shortcut.", prefix);
    return bind_conv(weights, &resnet->shortcut, in, out, 1, name);
}

static int bind_time(zoe_weights *weights, ltx_time *time, int64_t out, const char *prefix) {
    const zoe_dims dims = {['F' - 'A'] = FREQ_DIM, ['O' - 'A'] = out};
    return zoe_weights_bind(weights, time_slots, dims, time, "%s", prefix);
}

/* The resnets of a level, all of one width, and what tells them the timestep. */
static int bind_resnets(zoe_weights *weights, ltx_level *level, int64_t count, int64_t width, bool timestep, bool noise,
                        const char *prefix) {
    char name[256];
    level->resnet_count = (int)count;
    if (timestep) ZOE_TRY(bind_time(weights, &level->time, 4 * width, prefix));
    for (int i = 0; i < level->resnet_count; i++) {
        snprintf(name, sizeof name, "%sresnets.%d.", prefix, i);
        ZOE_TRY(bind_resnet(weights, &level->resnets[i], width, width, timestep, noise, name));
    }
    return ZOE_OK;
}

static int bind_encoder(zoe_ltx_vae *vae) {
    const zoe_ltx_vae_config *c = &vae->config;
    zoe_weights *w = vae->weights;
    ltx_coder *coder = &vae->encoder;
    char name[256];
    ZOE_TRY(bind_conv(w, &coder->conv_in, 3 * c->patch * c->patch, c->widths[0], 3, "encoder.conv_in."));
    for (int i = 0; i < c->levels; i++) {
        ltx_level *level = &coder->levels[i];
        int64_t in = c->widths[i], out = c->out_widths[i], cells = c->stride[i][0] * c->stride[i][1] * c->stride[i][1];
        snprintf(name, sizeof name, "encoder.down_blocks.%d.", i);
        ZOE_TRY(bind_resnets(w, level, c->layers[i], in, false, false, name));
        if (cells > 1) {
            const char *inner = c->shuffles ? "conv." : "";
            snprintf(name, sizeof name, "encoder.down_blocks.%d.downsamplers.0.%s", i, inner);
            ZOE_TRY(bind_conv(w, &level->resample, in, c->shuffles ? out / cells : in, 3, name));
        }
        if (c->shuffles || in == out) continue;
        snprintf(name, sizeof name, "encoder.down_blocks.%d.conv_out.", i);
        ZOE_TRY(bind_resnet(w, &level->change, in, out, false, false, name));
    }
    int64_t last = c->out_widths[c->levels - 1];
    ZOE_TRY(bind_resnets(w, &coder->mid, c->layers[c->levels], last, false, false, "encoder.mid_block."));
    return bind_conv(w, &coder->conv_out, last, c->channels + 1, 3, "encoder.conv_out.");
}

static int bind_decoder(zoe_ltx_vae *vae) {
    const zoe_ltx_vae_config *c = &vae->config;
    zoe_weights *w = vae->weights;
    ltx_coder *coder = &vae->decoder;
    char name[256];
    ZOE_TRY(bind_conv(w, &coder->conv_in, c->channels, c->up_widths[0], 3, "decoder.conv_in."));
    ZOE_TRY(
        bind_resnets(w, &coder->mid, c->up_layers[0], c->up_widths[0], c->timestep, c->up_noise[0], "decoder.mid_block."));
    for (int i = 0; i < c->up_levels; i++) {
        ltx_level *level = &coder->levels[i];
        int64_t in = c->up_widths[i] / c->up_factor[i], out = c->up_widths[i + 1], wide = out * c->up_factor[i];
        snprintf(name, sizeof name, "decoder.up_blocks.%d.conv_in.", i);
        if (in != out) ZOE_TRY(bind_resnet(w, &level->change, in, out, false, c->up_noise[i + 1], name));
        snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.conv.", i);
        if (c->up_scales[i]) ZOE_TRY(bind_conv(w, &level->resample, wide, wide * 8 / c->up_factor[i], 3, name));
        snprintf(name, sizeof name, "decoder.up_blocks.%d.", i);
        ZOE_TRY(bind_resnets(w, level, c->up_layers[i + 1], out, c->timestep, c->up_noise[i + 1], name));
    }
    int64_t last = c->up_widths[c->up_levels];
    if (c->timestep) {
        ZOE_TRY(zoe_weights_bind(w, end_slots, (zoe_dims){['C' - 'A'] = last}, coder, "decoder."));
        ZOE_TRY(bind_time(w, &coder->time, 2 * last, "decoder."));
    }
    return bind_conv(w, &coder->conv_out, last, 3 * c->patch * c->patch, 3, "decoder.conv_out.");
}

int zoe_ltx_vae_create(zoe_backend *be, const zoe_ltx_vae_config *config, const zoe_checkpoint *ckpt, zoe_ltx_vae **out) {
    int status;
    zoe_ltx_vae *vae;
    *out = NULL;
    ZOE_TRY(ZOE_NEW_ARRAY(be->ctx, vae, 1));
    vae->be = be;
    vae->config = *config;
    ZOE_TRY_DONE(zoe_weights_create(be, ckpt, "VAE", zoe_ltx_vae_aliases(config), ZOE_FORM_NATIVE, &vae->weights));
    ZOE_TRY_DONE(zoe_weights_unit(vae->weights));
    ZOE_TRY_DONE(bind_encoder(vae));
    ZOE_TRY_DONE(zoe_weights_unit(vae->weights));
    ZOE_TRY_DONE(bind_decoder(vae));
    ZOE_TRY_DONE(zoe_weights_unit(vae->weights));
    ZOE_TRY_DONE(
        zoe_weights_bind(vae->weights, statistics_slots, (zoe_dims){['L' - 'A'] = config->channels}, vae, "%s", ""));
    ZOE_TRY_DONE(zoe_weights_check(vae->weights));
    *out = vae;
    return ZOE_OK;
done:
    zoe_ltx_vae_free(vae);
    return status;
}

void zoe_ltx_vae_free(zoe_ltx_vae *vae) {
    if (!vae) return;
    zoe_weights_free(vae->weights);
    zoe_free(vae->be->ctx, vae);
}

const zoe_ltx_vae_config *zoe_ltx_vae_configuration(const zoe_ltx_vae *vae) {
    return &vae->config;
}

zoe_weights *zoe_ltx_vae_weights(zoe_ltx_vae *vae) {
    return vae->weights;
}

int zoe_ltx_vae_acquire(zoe_ltx_vae *vae, int unit) {
    ZOE_TRY(zoe_weights_acquire(vae->weights, ZOE_LTX_VAE_SHARED_UNIT));
    int status = zoe_weights_acquire(vae->weights, unit);
    return status < 0 ? zoe_weights_release(vae->weights, ZOE_LTX_VAE_SHARED_UNIT, status) : ZOE_OK;
}

int zoe_ltx_vae_release(zoe_ltx_vae *vae, int unit, int status) {
    status = zoe_weights_release(vae->weights, unit, status);
    return zoe_weights_release(vae->weights, ZOE_LTX_VAE_SHARED_UNIT, status);
}
