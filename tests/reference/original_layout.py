"""Writes a model folder of the diffusers layout in Wan-AI's own: the same weights under other names, in other files.

    python tests/reference/original_layout.py tests/data/cases/NAME/model tests/data/layouts/NAME

The autoencoder must have the published structure (multiples 1,2,4,4 and 2 residual blocks): this layout has no
configuration for it.
"""
import json
import os
import pathlib
import sys

import safetensors.torch
import torch

import wan_names

SHARDS = 2  # files of each expert; a single denoiser is one file


def load(folder):
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(safetensors.torch.load_file(file))
    return weights


def renamed(weights, rules):
    """Under the original names, in the order of the parts "@i/n" of which some tensors consist."""
    joined = {}
    for name, tensor in weights.items():
        other, _, part = wan_names.original(name, rules).partition("@")
        joined.setdefault(other, []).append((part, tensor))
    return {name: torch.cat([t for _, t in sorted(parts, key=lambda x: x[0])]) if len(parts) > 1 else parts[0][1]
            for name, parts in joined.items()}


def write_denoiser(source, target, kind, shards):
    config = json.loads((source / "config.json").read_text())
    own = dict(_class_name="WanModel", model_type=kind, dim=config["num_attention_heads"] * config["attention_head_dim"],
               ffn_dim=config["ffn_dim"], freq_dim=config["freq_dim"], in_dim=config["in_channels"],
               out_dim=config["out_channels"], num_heads=config["num_attention_heads"], num_layers=config["num_layers"],
               text_len=512, text_dim=config["text_dim"], eps=config["eps"])
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(own, indent=1) + "\n")
    weights = renamed(load(source), wan_names.DENOISER)
    if shards == 1:
        safetensors.torch.save_file(weights, target / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        return
    names, index = sorted(weights), {}
    for i in range(shards):
        file = f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        index.update(dict.fromkeys(part, file))
        safetensors.torch.save_file(part, target / file, metadata={"format": "pt"})
    (target / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index}, indent=0) + "\n")


def write_clip(source, file):
    weights = renamed(load(source), wan_names.CLIP)
    weights["visual.cls_embedding"] = weights["visual.cls_embedding"][None, None]
    weights["visual.pos_embedding"] = weights["visual.pos_embedding"][None]
    weights["visual.head"] = weights["visual.head"].T.contiguous()
    # The published file also holds the text tower, which nothing here needs.
    weights.update({"log_scale": torch.tensor(4.6), "textual.token_embedding.weight": torch.zeros(4, 2)})
    torch.save(weights, file)


def convert(source, target):
    index = json.loads((source / "model_index.json").read_text())
    second, experts = index["expand_timesteps"], index["transformer_2"][0] is not None
    image = (source / "image_encoder").exists()
    config = json.loads((source / "transformer" / "config.json").read_text())
    kind = "ti2v" if second else "flf2v" if config["pos_embed_seq_len"] else "i2v" if config["in_channels"] == 36 else "t2v"
    target.mkdir(parents=True)
    if experts:
        write_denoiser(source / "transformer", target / "high_noise_model", kind, SHARDS)
        write_denoiser(source / "transformer_2", target / "low_noise_model", kind, SHARDS)
    else:
        write_denoiser(source / "transformer", target, kind, 1)
    text = renamed(load(source / "text_encoder"), wan_names.TEXT)
    torch.save(text, target / "models_t5_umt5-xxl-enc-bf16.pth")
    vae = renamed(load(source / "vae"), wan_names.VAE_22 if second else wan_names.VAE_21)
    torch.save(vae, target / ("Wan2.2_VAE.pth" if second else "Wan2.1_VAE.pth"))
    if image:
        write_clip(source / "image_encoder", target / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    (target / "google").mkdir()
    tokenizer = (source / "tokenizer").resolve()
    os.symlink(os.path.relpath(tokenizer, target / "google"), target / "google" / "umt5-xxl")


if __name__ == "__main__":
    convert(pathlib.Path(sys.argv[1]).absolute(), pathlib.Path(sys.argv[2]).absolute())
