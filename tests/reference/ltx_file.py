"""Writes an LTX-Video folder of the diffusers layout as one file, under the names that Lightricks publishes.

    python tests/reference/ltx_file.py tests/data/cases/NAME/model tests/data/layouts/NAME/model.safetensors

The folder gets links to the text encoder and the tokenizer. The autoencoder must have the published structure of its
version; its original numbers the parts of a direction in the order in which they run, which is how the names are made here.
"""
import json
import os
import pathlib
import re
import sys

import safetensors.torch
import torch

DENOISER = (("proj_in.", "patchify_proj."), ("time_embed.", "adaln_single."), (".norm_q.", ".q_norm."),
            (".norm_k.", ".k_norm."))


def load(folder):
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(safetensors.torch.load_file(file))
    return weights


def denoiser_name(name):
    for ours, theirs in DENOISER:
        name = name.replace(ours, theirs)
    return "model.diffusion_model." + name


def running_order(weights, side):
    """The parts of a direction as diffusers names them, in the order in which they run."""
    kind = {"encoder": "down_blocks", "decoder": "up_blocks"}[side]
    inner = {"encoder": ("resnets", "downsamplers.0", "conv_out"), "decoder": ("conv_in", "upsamplers.0", "resnets")}[side]
    levels = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(f"{side}.{kind}."))
    parts = [f"{side}.{kind}.{level}.{part}" for level in range(levels) for part in inner]
    parts = parts + [f"{side}.mid_block.resnets"] if side == "encoder" else [f"{side}.mid_block.resnets"] + parts
    return [part for part in parts if any(name.startswith(part + ".") for name in weights)]


def autoencoder_names(weights):
    names = {}
    places = {}
    for side, kind in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
        for number, part in enumerate(running_order(weights, side)):
            places[part] = f"{side}.{kind}.{number}"
    for name in weights:
        other = name
        for part, place in places.items():
            if name.startswith(part + "."):
                rest = name[len(part):]
                other = place + (".res_blocks" if part.endswith(".resnets") else "") + rest
            elif part.endswith(".resnets") and name.startswith(part[:-len("resnets")] + "time_embedder."):
                other = place + name[len(part) - len("resnets") - 1:]
        other = re.sub(r"conv_shortcut\.conv\.", "conv_shortcut.", other).replace("norm3.", "norm3.norm.")
        other = other.replace("decoder.time_embedder", "decoder.last_time_embedder")
        other = re.sub(r"^decoder\.scale_shift_table", "decoder.last_scale_shift_table", other)
        other = {"latents_mean": "per_channel_statistics.mean-of-means",
                 "latents_std": "per_channel_statistics.std-of-means"}.get(other, other)
        names[name] = "vae." + other
    return names


def convert(source, target):
    config = json.loads((source / "transformer" / "config.json").read_text())
    index = json.loads((source / "model_index.json").read_text())
    later = index["_class_name"] == "LTXConditionPipeline"
    weights = {denoiser_name(name): tensor for name, tensor in load(source / "transformer").items()}
    vae = load(source / "vae")
    weights.update({other: vae[name] for name, other in autoencoder_names(vae).items()})
    # Published beside the two that are used.
    weights["vae.per_channel_statistics.mean-of-stds"] = torch.ones(vae["latents_mean"].shape)
    metadata = {"config": json.dumps({
        "transformer": {"_class_name": "Transformer3DModel", "num_attention_heads": config["num_attention_heads"],
                        "attention_head_dim": config["attention_head_dim"], "causal_temporal_positioning": later},
        "scheduler": {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000,
                      "sampler": "LinearQuadratic" if later else "Uniform", "shifting": None if later else "SD3",
                      **({} if later else {"target_shift_terminal": 0.1})},
        "vae": {"_class_name": "CausalVideoAutoencoder", "causal_decoder": False}})}
    target.parent.mkdir(parents=True)
    safetensors.torch.save_file(weights, target, metadata=metadata)
    for part in ("text_encoder", "tokenizer"):
        os.symlink(os.path.relpath((source / part).resolve(), target.parent), target.parent / part)


if __name__ == "__main__":
    convert(pathlib.Path(sys.argv[1]).absolute(), pathlib.Path(sys.argv[2]).absolute())
