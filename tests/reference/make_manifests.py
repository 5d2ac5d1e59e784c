"""Writes tests/data/manifests: the tensors of every published Wan network, with Wan-AI's own names beside them.

Each folder has the configuration (config.json; of denoisers original.json too, as Wan-AI publishes it) and tensors.tsv:
name, shape, original name. "{0-29}" in a row stands for each of these numbers. The lists come from the reference classes,
built without weights.
"""
import json
import pathlib
import re

import diffusers
import torch
import transformers

import wan_names

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "manifests"

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


def denoiser(kind, heads, ffn, layers, inputs=16, outputs=16, image=False, positions=None):
    width = heads * 128
    config = dict(num_attention_heads=heads, attention_head_dim=128, ffn_dim=ffn, num_layers=layers, in_channels=inputs,
                  out_channels=outputs, image_dim=1280 if image else None, added_kv_proj_dim=width if image else None,
                  pos_embed_seq_len=positions)
    own = dict(_class_name="WanModel", model_type=kind, dim=width, ffn_dim=ffn, freq_dim=256, in_dim=inputs,
               out_dim=outputs, num_heads=heads, num_layers=layers, text_len=512, eps=1e-6)
    return diffusers.WanTransformer3DModel, config, wan_names.DENOISER, own


NETWORKS = {
    "wan2.1-t2v-1.3b": denoiser("t2v", 12, 8960, 30),
    "wan2.1-t2v-14b": denoiser("t2v", 40, 13824, 40),
    "wan2.1-i2v-14b": denoiser("i2v", 40, 13824, 40, 36, image=True),
    "wan2.1-flf2v-14b": denoiser("flf2v", 40, 13824, 40, 36, image=True, positions=514),
    "wan2.2-t2v-a14b": denoiser("t2v", 40, 13824, 40),
    "wan2.2-i2v-a14b": denoiser("i2v", 40, 13824, 40, 36),
    "wan2.2-ti2v-5b": denoiser("ti2v", 24, 14336, 30, 48, 48),
    "wan2.1-vae": (diffusers.AutoencoderKLWan, {}, wan_names.VAE_21, None),
    "wan2.2-vae": (diffusers.AutoencoderKLWan, dict(
        base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, patch_size=2, in_channels=12, out_channels=12,
        scale_factor_spatial=16, latents_mean=MEAN_22, latents_std=STD_22), wan_names.VAE_22, None),
    "umt5-xxl": (transformers.UMT5EncoderModel, dict(
        vocab_size=256384, d_model=4096, d_kv=64, num_heads=64, d_ff=10240, num_layers=24, feed_forward_proj="gated-gelu"),
        wan_names.TEXT, None),
    "clip-vit-h": (transformers.CLIPVisionModelWithProjection, dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, image_size=224, patch_size=14,
        projection_dim=1024, hidden_act="gelu"), wan_names.CLIP, None),
}


def build(kind, config):
    with torch.device("meta"):
        if not issubclass(kind, transformers.PreTrainedModel):
            network = kind(**config)
            return network, {"_class_name": kind.__name__, **{k: v for k, v in network.config.items() if k[0] != "_"}}
        network = kind(kind.config_class(**config))
        return network, {"model_type": network.config.model_type, **config}


def rows(network, rules):
    """One row a tensor; those of repeated blocks that differ in their number only are joined."""
    shared = {id(p): name for name, p in reversed(list(network.named_parameters(remove_duplicate=False)))}
    grouped = {}
    for name, parameter in network.named_parameters():
        name = shared[id(parameter)]
        shape = "x".join(map(str, parameter.shape))
        other = wan_names.original(name, rules)
        key, numbers = (name, shape, other), None
        if block := re.match(r"(blocks|encoder\.block|vision_model\.encoder\.layers)\.(\d+)\.", name):
            key = tuple(text.replace(f".{block[2]}.", ".#.", 1) for text in (name, shape, other))
            numbers = int(block[2])
        grouped.setdefault(key, []).append(numbers)
    for key, numbers in grouped.items():
        span = "{%d-%d}" % (numbers[0], numbers[-1]) if numbers[0] is not None else ""
        assert numbers[0] is None or numbers == list(range(numbers[0], numbers[-1] + 1))
        yield "\t".join(key).replace("#", span)


for folder, (kind, config, rules, own) in NETWORKS.items():
    network, full = build(kind, config)
    (FOLDER / folder).mkdir(parents=True, exist_ok=True)
    (FOLDER / folder / "config.json").write_text(json.dumps(full) + "\n")
    if own:
        (FOLDER / folder / "original.json").write_text(json.dumps(own) + "\n")
    (FOLDER / folder / "tensors.tsv").write_text("\n".join(rows(network, rules)) + "\n")
