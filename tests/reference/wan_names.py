"""Names of Wan-AI's own files for those of the diffusers layout, and what its own layout leaves unsaid."""
import re

# Statistics of the latents of the second autoencoder; the class's defaults are those of the first.
MEAN_22 = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.157, -0.0098,
    0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567,
    -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957,
    0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667]
STD_22 = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454,
    0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999,
    0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444,
    0.4089, 0.7468, 0.7744]

DENOISER = [
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
    (r"condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
    (r"condition_embedder\.image_embedder\.pos_embed", "img_emb.emb_pos"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
    (r"^proj_out", "head.head"),
    (r"\.attn2\.add_k_proj", ".cross_attn.k_img"),
    (r"\.attn2\.add_v_proj", ".cross_attn.v_img"),
    (r"\.attn2\.norm_added_k", ".cross_attn.norm_k_img"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0", ".o"),
    (r"\.to_([qkv])", r".\1"),
    (r"\.norm2", ".norm3"),
    (r"\.ffn\.net\.0\.proj", ".ffn.0"),
    (r"\.ffn\.net\.2", ".ffn.2"),
]
TEXT = [
    (r"^(shared|encoder\.embed_tokens)", "token_embedding"),
    (r"^encoder\.final_layer_norm", "norm"),
    (r"^encoder\.block", "blocks"),
    (r"\.layer\.0\.layer_norm", ".norm1"),
    (r"\.layer\.1\.layer_norm", ".norm2"),
    (r"\.layer\.0\.SelfAttention\.relative_attention_bias", ".pos_embedding.embedding"),
    (r"\.layer\.0\.SelfAttention", ".attn"),
    (r"\.layer\.1\.DenseReluDense\.wi_0", ".ffn.gate.0"),
    (r"\.layer\.1\.DenseReluDense\.wi_1", ".ffn.fc1"),
    (r"\.layer\.1\.DenseReluDense\.wo", ".ffn.fc2"),
]
CLIP = [
    (r"^vision_model\.embeddings\.class_embedding", "visual.cls_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.patch_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.pos_embedding"),
    (r"^vision_model\.pre_layrnorm", "visual.pre_norm"),
    (r"^vision_model\.post_layernorm", "visual.post_norm"),
    (r"^visual_projection\.weight", "visual.head"),
    (r"^vision_model\.encoder\.layers", "visual.transformer"),
    (r"\.layer_norm([12])", r".norm\1"),
    (r"\.self_attn\.out_proj", ".attn.proj"),
    (r"\.self_attn\.q_proj\.(.*)", r".attn.to_qkv.\1@0/3"),
    (r"\.self_attn\.k_proj\.(.*)", r".attn.to_qkv.\1@1/3"),
    (r"\.self_attn\.v_proj\.(.*)", r".attn.to_qkv.\1@2/3"),
    (r"\.mlp\.fc1", ".mlp.0"),
    (r"\.mlp\.fc2", ".mlp.2"),
]
RESNET = [
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
]
VAE = RESNET + [
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
]
VAE_22 = VAE + [
    (r"^encoder\.down_blocks\.(\d+)\.resnets", r"encoder.downsamples.\1.downsamples"),
    (r"^encoder\.down_blocks\.(\d+)\.downsampler", r"encoder.downsamples.\1.downsamples.2"),
    (r"^decoder\.up_blocks\.(\d+)\.resnets", r"decoder.upsamples.\1.upsamples"),
    (r"^decoder\.up_blocks\.(\d+)\.upsampler", r"decoder.upsamples.\1.upsamples.3"),
]


def flat(match):
    """Levels of the first autoencoder's decoder are three residual blocks and an upsampler, numbered through."""
    level, kind, index = int(match[1]), match[2], int(match[3])
    return f"decoder.upsamples.{4 * level + (index if kind == 'resnets' else 3)}"


VAE_21 = VAE + [
    (r"^encoder\.down_blocks", "encoder.downsamples"),
    (r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)", flat),
]


def original(name, rules):
    """The name in Wan-AI's files; "@i/n" behind it: the i-th of n parts of that tensor's first axis."""
    for pattern, other in rules:
        name = re.sub(pattern, other, name)
    return name
