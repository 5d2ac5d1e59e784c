"""Writes a CogVideoX folder of the diffusers layout in the authors' own (SAT): the same weights under other names.

    python tests/reference/sat_layout.py tests/data/cases/NAME/model tests/data/layouts/NAME

The case must be made with family_case.py --sat: this layout has no configurations.
"""
import json
import os
import pathlib
import re
import sys

import safetensors.torch
import torch

ENDS = {"patch_embed.proj": "mixins.patch_embed.proj", "patch_embed.text_proj": "mixins.patch_embed.text_proj",
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "ofs_embedding.linear_1": "ofs_embed.0", "ofs_embedding.linear_2": "ofs_embed.2",
        "norm_final": "transformer.final_layernorm", "norm_out.norm": "mixins.final_layer.norm_final",
        "norm_out.linear": "mixins.final_layer.adaLN_modulation.1", "proj_out": "mixins.final_layer.linear"}
BLOCK = {"norm1.norm": "transformer.layers.#.input_layernorm", "norm2.norm": "transformer.layers.#.post_attention_layernorm",
         "attn1.norm_q": "mixins.adaln_layer.query_layernorm_list.#",
         "attn1.norm_k": "mixins.adaln_layer.key_layernorm_list.#",
         "attn1.to_out.0": "transformer.layers.#.attention.dense", "ff.net.0.proj": "transformer.layers.#.mlp.dense_h_to_4h",
         "ff.net.2": "transformer.layers.#.mlp.dense_4h_to_h"}


def load(folder):
    return safetensors.torch.load_file(folder / "diffusion_pytorch_model.safetensors")


def denoiser(weights):
    """Query, key and value are one layer there, and the modulations before attention and before the MLP another."""
    out = {}
    for name, tensor in weights.items():
        place, kind = name.rsplit(".", 1)
        block = re.match(r"transformer_blocks\.(\d+)\.(.*)", place)
        if not block:
            out[f"{ENDS[place]}.{kind}"] = tensor
        elif block[2] in BLOCK:
            out[f"{BLOCK[block[2]].replace('#', block[1])}.{kind}"] = tensor
        elif block[2] == "attn1.to_q":
            parts = [weights[f"transformer_blocks.{block[1]}.attn1.to_{p}.{kind}"] for p in "qkv"]
            out[f"transformer.layers.{block[1]}.attention.query_key_value.{kind}"] = torch.cat(parts)
        elif block[2] == "norm1.linear":
            first, second = (weights[f"transformer_blocks.{block[1]}.norm{i}.linear.{kind}"].chunk(2) for i in (1, 2))
            parts = [first[0], second[0], first[1], second[1]]  # the video's, then the text's
            out[f"mixins.adaln_layer.adaLN_modulations.{block[1]}.1.{kind}"] = torch.cat(parts)
    return {"model.diffusion_model." + name: tensor for name, tensor in out.items()}


def autoencoder(weights):
    out = {}
    for name, tensor in weights.items():
        name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}", name)
        name = name.replace("down_blocks.", "down.").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        out[name.replace(".resnets.", ".block.").replace("conv_shortcut", "nin_shortcut")] = tensor
    return out


def convert(source, target):
    config = json.loads((source / "transformer" / "config.json").read_text())
    weights = denoiser(load(source / "transformer"))
    if config["use_rotary_positional_embeddings"]:
        weights["model.diffusion_model.mixins.pos_embed.freqs_cos"] = torch.zeros(4, 4)
        weights["model.diffusion_model.mixins.pos_embed.freqs_sin"] = torch.zeros(4, 4)
    else:  # computed, but a parameter
        weights["model.diffusion_model.mixins.pos_embed.pos_embedding"] = torch.zeros(1, 4, 4)
    place = "transformer_i2v" if config["patch_size_t"] else "transformer"
    (target / place / "1000").mkdir(parents=True)
    (target / place / "latest").write_text("1000")
    torch.save({"module": weights, "iteration": 1000}, target / place / "1000" / "mp_rank_00_model_states.pt")
    (target / "vae").mkdir()
    vae = autoencoder(load(source / "vae"))
    torch.save({"state_dict": {**vae, "loss.logvar": torch.zeros(1)}, "epoch": 1}, target / "vae" / "3d-vae.pt")
    (target / "t5-v1_1-xxl").mkdir()
    for part in ("text_encoder", "tokenizer"):
        for file in sorted((source / part).resolve().iterdir()):
            os.symlink(os.path.relpath(file, target / "t5-v1_1-xxl"), target / "t5-v1_1-xxl" / file.name)


if __name__ == "__main__":
    convert(pathlib.Path(sys.argv[1]).absolute(), pathlib.Path(sys.argv[2]).absolute())
