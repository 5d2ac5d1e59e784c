#include "models/cogvideox/names.h"

#define DIT    "model.diffusion_model."
#define LAYERS DIT "transformer.layers.*."
#define ADALN  DIT "mixins.adaln_layer."

const zoe_alias zoe_cogvideox_denoiser_aliases[] = {
    {"patch_embed.proj", DIT "mixins.patch_embed.proj"},
    {"patch_embed.text_proj", DIT "mixins.patch_embed.text_proj"},
    {"patch_embed.pos_embedding", DIT "mixins.pos_embed.pos_embedding"},
    {"time_embedding.linear_1", DIT "time_embed.0"},
    {"time_embedding.linear_2", DIT "time_embed.2"},
    {"ofs_embedding.linear_1", DIT "ofs_embed.0"},
    {"ofs_embedding.linear_2", DIT "ofs_embed.2"},
    {"norm_final", DIT "transformer.final_layernorm"},
    {"norm_out.norm", DIT "mixins.final_layer.norm_final"},
    {"norm_out.linear", DIT "mixins.final_layer.adaLN_modulation.1"},
    {"proj_out", DIT "mixins.final_layer.linear"},
    /* One layer modulates before attention and before the MLP: for the video, then for the text. */
    {"transformer_blocks.*.norm1.linear", ADALN "adaLN_modulations.*.1@0+2/4"},
    {"transformer_blocks.*.norm2.linear", ADALN "adaLN_modulations.*.1@1+3/4"},
    {"transformer_blocks.*.norm1.norm", LAYERS "input_layernorm"},
    {"transformer_blocks.*.norm2.norm", LAYERS "post_attention_layernorm"},
    {"transformer_blocks.*.attn1.norm_q", ADALN "query_layernorm_list.*"},
    {"transformer_blocks.*.attn1.norm_k", ADALN "key_layernorm_list.*"},
    {"transformer_blocks.*.attn1.to_q", LAYERS "attention.query_key_value@0/3"},
    {"transformer_blocks.*.attn1.to_k", LAYERS "attention.query_key_value@1/3"},
    {"transformer_blocks.*.attn1.to_v", LAYERS "attention.query_key_value@2/3"},
    {"transformer_blocks.*.attn1.to_out.0", LAYERS "attention.dense"},
    {"transformer_blocks.*.ff.net.0.proj", LAYERS "mlp.dense_h_to_4h"},
    {"transformer_blocks.*.ff.net.2", LAYERS "mlp.dense_4h_to_h"},
    {0},
};

/* The authors count the decoder's levels from the pixels on. */
#define UP(level, original)                                                                                                \
    {"decoder.up_blocks." #level ".resnets.*.conv_shortcut", "decoder.up." #original ".block.*.nin_shortcut"},             \
        {"decoder.up_blocks." #level ".resnets.*", "decoder.up." #original ".block.*"}, {                                  \
        "decoder.up_blocks." #level ".upsamplers.0", "decoder.up." #original ".upsample"                                   \
    }

const zoe_alias zoe_cogvideox_vae_aliases[] = {
    {"encoder.down_blocks.*.resnets.*.conv_shortcut", "encoder.down.*.block.*.nin_shortcut"},
    {"encoder.down_blocks.*.resnets.*", "encoder.down.*.block.*"},
    {"encoder.down_blocks.*.downsamplers.0", "encoder.down.*.downsample"},
    {"encoder.mid_block.resnets.0", "encoder.mid.block_1"},
    {"encoder.mid_block.resnets.1", "encoder.mid.block_2"},
    UP(0, 3),
    UP(1, 2),
    UP(2, 1),
    UP(3, 0),
    {"decoder.mid_block.resnets.0", "decoder.mid.block_1"},
    {"decoder.mid_block.resnets.1", "decoder.mid.block_2"},
    {0},
};
