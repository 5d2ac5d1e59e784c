/* Configuration of the denoiser. */
#include <string.h>

#include "models/cogvideox/denoiser.h"

static int read_sizes(const zoe_config *config, zoe_cogvideox_config *c) {
    ZOE_TRY(zoe_config_int(config, "num_layers", 1, 1000, &c->layers));
    ZOE_TRY(zoe_config_int(config, "num_attention_heads", 1, 4096, &c->heads));
    ZOE_TRY(zoe_config_int(config, "attention_head_dim", 2, 4096, &c->head_dim));
    ZOE_TRY(zoe_config_int(config, "in_channels", 1, 4096, &c->in_channels));
    ZOE_TRY(zoe_config_int(config, "out_channels", 1, 4096, &c->out_channels));
    ZOE_TRY(zoe_config_int(config, "time_embed_dim", 2, 1 << 16, &c->time_dim));
    ZOE_TRY(zoe_config_int(config, "ofs_embed_dim", 2, 1 << 16, &c->ofs_dim));
    ZOE_TRY(zoe_config_int(config, "text_embed_dim", 1, 1 << 20, &c->text_dim));
    ZOE_TRY(zoe_config_int(config, "max_text_seq_length", 1, 1 << 16, &c->text_rows));
    ZOE_TRY(zoe_config_int(config, "patch_size", 1, 64, &c->patch));
    ZOE_TRY(zoe_config_int(config, "patch_size_t", 1, 64, &c->patch_time));
    ZOE_TRY(zoe_config_int(config, "sample_frames", 1, 100000, &c->sample_frames));
    ZOE_TRY(zoe_config_int(config, "sample_height", 1, 100000, &c->sample_size[0]));
    ZOE_TRY(zoe_config_int(config, "sample_width", 1, 100000, &c->sample_size[1]));
    ZOE_TRY(zoe_config_int(config, "temporal_compression_ratio", 1, 64, &c->time_ratio));
    ZOE_TRY(zoe_config_real(config, "spatial_interpolation_scale", &c->space_scale));
    ZOE_TRY(zoe_config_real(config, "temporal_interpolation_scale", &c->time_scale));
    ZOE_TRY(zoe_config_bool(config, "use_rotary_positional_embeddings", &c->rotary));
    ZOE_TRY(zoe_config_bool(config, "use_learned_positional_embeddings", &c->learned));
    return zoe_config_real(config, "norm_eps", &c->eps);
}

static int refuse(const zoe_config *config, const char *what) {
    return zoe_fail(config->ctx, ZOE_ERR_UNSUPPORTED, "%s: expected %s", config->path, what);
}

static int check(const zoe_config *config, const zoe_cogvideox_config *c) {
    const char *activation = "gelu-approximate", *time_activation = "silu";
    bool bias = true, affine = true;
    ZOE_TRY(zoe_config_text(config, "activation_fn", &activation));
    ZOE_TRY(zoe_config_text(config, "timestep_activation_fn", &time_activation));
    ZOE_TRY(zoe_config_bool(config, "attention_bias", &bias));
    ZOE_TRY(zoe_config_bool(config, "norm_elementwise_affine", &affine));
    if (strcmp(activation, "gelu-approximate") != 0) return refuse(config, "activation_fn \"gelu-approximate\"");
    if (strcmp(time_activation, "silu") != 0) return refuse(config, "timestep_activation_fn \"silu\"");
    if (!bias || !affine) return refuse(config, "attention_bias and norm_elementwise_affine true");
    if (c->head_dim % 16) return refuse(config, "an attention_head_dim in steps of 16");
    if (c->ofs_dim && c->ofs_dim != c->time_dim) return refuse(config, "ofs_embed_dim null or equal to time_embed_dim");
    if (c->sample_size[0] % c->patch || c->sample_size[1] % c->patch)
        return refuse(config, "sample_height and sample_width that patch_size divides");
    if (!(c->space_scale > 0) || !(c->time_scale > 0)) return refuse(config, "interpolation scales of more than 0");
    return ZOE_OK;
}

int zoe_cogvideox_config_read(const zoe_config *config, zoe_cogvideox_config *out) {
    *out = (zoe_cogvideox_config){.layers = 30,
                                  .heads = 30,
                                  .head_dim = 64,
                                  .in_channels = 16,
                                  .out_channels = 16,
                                  .time_dim = 512,
                                  .text_dim = 4096,
                                  .text_rows = 226,
                                  .patch = 2,
                                  .sample_frames = 49,
                                  .sample_size = {60, 90},
                                  .time_ratio = 4,
                                  .space_scale = 1.875,
                                  .time_scale = 1,
                                  .eps = 1e-5};
    ZOE_TRY(read_sizes(config, out));
    return check(config, out);
}

int64_t zoe_cogvideox_sample_latents(const zoe_cogvideox_config *c) {
    return (c->sample_frames - 1) / c->time_ratio + 1;
}

int64_t zoe_cogvideox_sample_tokens(const zoe_cogvideox_config *c) {
    return zoe_cogvideox_sample_latents(c) * (c->sample_size[0] / c->patch) * (c->sample_size[1] / c->patch);
}
