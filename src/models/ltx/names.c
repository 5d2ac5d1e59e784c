#include "models/ltx/names.h"

#define DIT "model.diffusion_model."

const zoe_alias zoe_ltx_denoiser_aliases[] = {
    {"proj_in", DIT "patchify_proj"},
    {"proj_out", DIT "proj_out"},
    {"scale_shift_table", DIT "scale_shift_table"},
    {"time_embed", DIT "adaln_single"},
    {"caption_projection", DIT "caption_projection"},
    {"transformer_blocks.*.attn1.norm_q", DIT "transformer_blocks.*.attn1.q_norm"},
    {"transformer_blocks.*.attn1.norm_k", DIT "transformer_blocks.*.attn1.k_norm"},
    {"transformer_blocks.*.attn2.norm_q", DIT "transformer_blocks.*.attn2.q_norm"},
    {"transformer_blocks.*.attn2.norm_k", DIT "transformer_blocks.*.attn2.k_norm"},
    {"transformer_blocks.*", DIT "transformer_blocks.*"},
    {0},
};

/* ---- autoencoder ---- */

#define ENDS                                                                                                               \
    {"latents_mean", "vae.per_channel_statistics.mean-of-means"},                                                          \
        {"latents_std", "vae.per_channel_statistics.std-of-means"}, {"encoder.conv_in", "vae.encoder.conv_in"},            \
        {"encoder.conv_out", "vae.encoder.conv_out"}, {"decoder.conv_in", "vae.decoder.conv_in"},                          \
        {"decoder.conv_out", "vae.decoder.conv_out"},                                                                      \
        {"decoder.timestep_scale_multiplier", "vae.decoder.timestep_scale_multiplier"},                                    \
        {"decoder.scale_shift_table", "vae.decoder.last_scale_shift_table"}, {                                             \
        "decoder.time_embedder", "vae.decoder.last_time_embedder"                                                          \
    }

/* A level: its resnets and what enlarges or reduces are parts of their own; '-': there is none. */
#define DOWN(level, resnets, sampler)                                                                                      \
    {"encoder.down_blocks." #level ".resnets", "vae.encoder.down_blocks." #resnets ".res_blocks"}, {                       \
        "encoder.down_blocks." #level ".downsamplers.0", "vae.encoder.down_blocks." #sampler                               \
    }
#define UP(level, resnets, sampler)                                                                                        \
    {"decoder.up_blocks." #level ".resnets", "vae.decoder.up_blocks." #resnets ".res_blocks"},                             \
        {"decoder.up_blocks." #level ".time_embedder", "vae.decoder.up_blocks." #resnets ".time_embedder"}, {              \
        "decoder.up_blocks." #level ".upsamplers.0", "vae.decoder.up_blocks." #sampler                                     \
    }
#define MID(side, blocks, part)                                                                                            \
    {#side ".mid_block.resnets", "vae." #side "." #blocks "." #part ".res_blocks"}, {                                      \
#side ".mid_block.time_embedder", "vae." #side "." #blocks "." #part ".time_embedder"                              \
    }
/* A resnet between two widths. */
#define CHANGE(name, part)                                                                                                 \
    {name ".norm3", part ".norm3.norm"}, {name ".conv_shortcut.conv", part ".conv_shortcut"}, {                            \
        name, part                                                                                                         \
    }

#define ENCODER_090                                                                                                        \
    DOWN(0, 0, 1), DOWN(1, 3, 4), DOWN(2, 6, 7), DOWN(3, 8, -), MID(encoder, down_blocks, 9),                              \
        CHANGE("encoder.down_blocks.0.conv_out", "vae.encoder.down_blocks.2"),                                             \
        CHANGE("encoder.down_blocks.1.conv_out", "vae.encoder.down_blocks.5")
#define DECODER_091 MID(decoder, up_blocks, 0), UP(0, 2, 1), UP(1, 4, 3), UP(2, 6, 5)

const zoe_alias zoe_ltx_vae_090_aliases[] = {
    ENDS,
    ENCODER_090,
    MID(decoder, up_blocks, 0),
    UP(0, 1, -),
    UP(1, 3, 2),
    UP(2, 6, 5),
    UP(3, 9, 8),
    CHANGE("decoder.up_blocks.2.conv_in", "vae.decoder.up_blocks.4"),
    CHANGE("decoder.up_blocks.3.conv_in", "vae.decoder.up_blocks.7"),
    {0},
};

const zoe_alias zoe_ltx_vae_091_aliases[] = {ENDS, ENCODER_090, DECODER_091, {0}};

const zoe_alias zoe_ltx_vae_095_aliases[] = {
    ENDS, DOWN(0, 0, 1), DOWN(1, 2, 3), DOWN(2, 4, 5), DOWN(3, 6, 7), MID(encoder, down_blocks, 8), DECODER_091, {0},
};

const zoe_alias *zoe_ltx_vae_aliases(const zoe_ltx_vae_config *config) {
    if (config->shuffles) return zoe_ltx_vae_095_aliases;
    return config->timestep ? zoe_ltx_vae_091_aliases : zoe_ltx_vae_090_aliases;
}
