"""diffusers' own transformers of CogVideoX and LTX-Video at published shapes with random bf16 weights, on this GPU: the peer
of `zoe bench denoise --device cuda`.

usage: peer_transformers.py     prints one line a model: time of a forward (median), largest memory
"""
import json
import pathlib
import time

import torch
import diffusers
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

MANIFESTS = pathlib.Path(__file__).resolve().parent.parent / "tests/data/manifests"


def draw(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def report(title, kind, name, arguments, repeats):
    config = json.loads((MANIFESTS / name / "config.json").read_text())
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = kind(**{key: value for key, value in config.items() if not key.startswith("_")}).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    torch.cuda.reset_peak_memory_stats()
    times = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            model(**arguments, return_dict=False)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    print(f"diffusers {diffusers.__version__}, {title}: {sorted(times[1:])[repeats // 2]:.4f} s, the median of {repeats}, "
          f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)


def main():
    step = torch.tensor([500], device="cuda")
    report("LTX 2B 768x512x97", LTXVideoTransformer3DModel, "ltx-0.9.0-2b",
           {"hidden_states": draw(1, 13 * 16 * 24, 128), "encoder_hidden_states": draw(1, 128, 4096), "timestep": step,
            "encoder_attention_mask": torch.ones(1, 128, device="cuda"), "num_frames": 13, "height": 16, "width": 24,
            "rope_interpolation_scale": (8 / 25, 32, 32)}, 10)
    rotary = get_3d_rotary_pos_embed(64, None, (48, 85), 11, grid_type="slice", max_size=(150, 150), device="cuda")
    report("CogVideoX1.5-5B 1360x768x81", CogVideoXTransformer3DModel, "cogvideox1.5-5b",
           {"hidden_states": draw(1, 22, 16, 96, 170), "encoder_hidden_states": draw(1, 226, 4096), "timestep": step,
            "image_rotary_emb": rotary}, 3)


main()
