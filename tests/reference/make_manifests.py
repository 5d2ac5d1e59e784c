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
        scale_factor_spatial=16, latents_mean=wan_names.MEAN_22, latents_std=wan_names.STD_22), wan_names.VAE_22, None),
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
