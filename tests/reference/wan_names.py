"""Names of Wan-AI's own files for those of the diffusers layout."""
import re

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
