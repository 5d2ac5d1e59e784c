"""Write the trained parts as a model folder in the published layout of Wan 2.2 TI2V (diffusers), in bf16.

What the reference keeps in float32 when it loads a smaller type (norm2, scale_shift_table, time_embedder) stays float32 here.
"""
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.denoiser import Denoiser
from model.text import TextEncoder, Tokenizer
from model.vae import Vae
from world import grammar

KEPT = {"norm2", "scale_shift_table", "time_embedder"}


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def _weights(path, state, kept=frozenset()):
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().float().cpu().contiguous() if kept & set(name.split("."))
             else value.detach().to(torch.bfloat16).cpu().contiguous() for name, value in state.items()}
    save_file(state, str(path), metadata={"format": "pt"})


def write(folder, settings, generator, vae, spiece):
    folder = Path(folder)
    d, t, v = settings.denoiser, settings.text, settings.vae
    _write(folder / "model_index.json", {
        "_class_name": "WanPipeline", "_diffusers_version": "0.35.0", "boundary_ratio": None, "expand_timesteps": True,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"], "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": [None, None], "vae": ["diffusers", "AutoencoderKLWan"],
        "zoe_defaults": {"width": settings.size, "height": settings.size, "num_frames": settings.frames, "fps": settings.fps,
                         "num_inference_steps": settings.steps, "guidance_scale": settings.guidance}})
    _write(folder / "scheduler/scheduler_config.json", {
        "_class_name": "UniPCMultistepScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
        "disable_corrector": [], "final_sigmas_type": "zero", "flow_shift": settings.flow_shift, "lower_order_final": True,
        "num_train_timesteps": 1000, "predict_x0": True, "prediction_type": "flow_prediction", "solver_order": 2, "solver_type": "bh2",
        "thresholding": False, "timestep_spacing": "linspace", "use_beta_sigmas": False, "use_exponential_sigmas": False,
        "use_flow_sigmas": True, "use_karras_sigmas": False})
    _write(folder / "text_encoder/config.json", {
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5", "vocab_size": t.vocab_size, "d_model": t.d_model, "d_kv": t.d_kv,
        "d_ff": t.d_ff, "num_layers": t.num_layers, "num_decoder_layers": t.num_layers, "num_heads": t.num_heads,
        "relative_attention_num_buckets": t.relative_attention_num_buckets,
        "relative_attention_max_distance": t.relative_attention_max_distance, "dropout_rate": 0.0, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True, "is_encoder_decoder": True,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "tie_word_embeddings": True, "dtype": "bfloat16"})
    _write(folder / "transformer/config.json", {
        "_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": d.num_attention_heads,
        "attention_head_dim": d.attention_head_dim, "in_channels": d.in_channels, "out_channels": d.out_channels,
        "text_dim": d.text_dim, "freq_dim": d.freq_dim, "ffn_dim": d.ffn_dim, "num_layers": d.num_layers, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None})
    _write(folder / "vae/config.json", {
        "_class_name": "AutoencoderKLWan", "base_dim": v.base_dim, "decoder_base_dim": None, "z_dim": v.z_dim,
        "dim_mult": list(v.dim_mult), "num_res_blocks": v.num_res_blocks, "attn_scales": [],
        "temperal_downsample": list(v.temperal_downsample), "dropout": 0.0, "is_residual": False, "in_channels": 3, "out_channels": 3,
        "patch_size": None, "scale_factor_temporal": 4, "scale_factor_spatial": 8, "latents_mean": vae.mean.tolist(),
        "latents_std": vae.std.tolist()})
    _weights(folder / "text_encoder/model.safetensors", generator.text.state_dict())
    _weights(folder / "transformer/diffusion_pytorch_model.safetensors", generator.denoiser.state_dict(), KEPT)
    _weights(folder / "vae/diffusion_pytorch_model.safetensors", vae.state_dict())
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    shutil.copyfile(spiece, tokenizer / "spiece.model")
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    _write(tokenizer / "special_tokens_map.json", special)
    _write(tokenizer / "tokenizer_config.json", {"tokenizer_class": "T5TokenizerFast", **special, "extra_ids": 0, "model_max_length": 512})
    (folder / "words.txt").write_text("\n".join(grammar.vocabulary()) + "\n")


def read(folder, settings, device="cpu"):
    """(text encoder, denoiser, VAE, tokenizer) from a folder, float32; `settings` takes what its configs say."""
    folder = Path(folder)
    tokenizer = Tokenizer(folder / "tokenizer/spiece.model")
    index = json.loads((folder / "model_index.json").read_text())["zoe_defaults"]
    settings.steps, settings.guidance = index["num_inference_steps"], index["guidance_scale"]
    settings.flow_shift = json.loads((folder / "scheduler/scheduler_config.json").read_text())["flow_shift"]
    for part, name in (("text", "text_encoder"), ("denoiser", "transformer"), ("vae", "vae")):
        config, values = getattr(settings, part), json.loads((folder / name / "config.json").read_text())
        for key in vars(config):
            setattr(config, key, values[key])
    text, denoiser, vae = TextEncoder(settings.text), Denoiser(settings.denoiser), Vae(settings.vae)
    for module, path in ((text, "text_encoder/model.safetensors"), (denoiser, "transformer/diffusion_pytorch_model.safetensors"),
                         (vae, "vae/diffusion_pytorch_model.safetensors")):
        module.load_state_dict({k: v.float() for k, v in load_file(str(folder / path)).items()})
        module.to(device).eval()
    values = json.loads((folder / "vae/config.json").read_text())
    vae.mean.copy_(torch.tensor(values["latents_mean"]))
    vae.std.copy_(torch.tensor(values["latents_std"]))
    return text, denoiser, vae, tokenizer
