"""The engine's video against PyTorch's, for the same prompt, seed and weights, in float32 on the CPU.

    python training/demo/parity.py --zoe build/zoe --model models/demo [--steps N] [--image FILE]

Prints the PSNR of the frames before any video coding and fails under 50 dB.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
import export  # noqa: E402
from config import TOKENS, Settings  # noqa: E402
from model import sampler  # noqa: E402


@torch.no_grad()
def by_torch(settings, parts, prompt, seed, picture):
    text, denoiser, vae, tokenizer = parts
    shape = (1, settings.vae.z_dim, 1 + (settings.frames - 1) // 4, settings.size // 8, settings.size // 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    given = None
    if picture is not None:
        given = vae.encode(torch.from_numpy(picture).permute(2, 0, 1).float()[None, :, None] / 127.5 - 1)
    latents = sampler.sample(denoiser, text(tokenizer.ids([prompt], TOKENS)), text(tokenizer.ids([""], TOKENS)), noise, settings.steps,
                             settings.flow_shift, settings.guidance, given)
    return (vae.decode(latents)[0].permute(1, 2, 3, 0) + 1) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoe", default="build/zoe")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--prompt", default="A red ball rolls to the left on a wooden floor.")
    parser.add_argument("--image")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    settings = Settings()
    parts = export.read(options.model, settings)
    settings.steps = options.steps or settings.steps
    picture = None
    with tempfile.TemporaryDirectory() as folder:
        command = [options.zoe, "generate", "--model", options.model, "--prompt", options.prompt, "--seed", str(options.seed), "--quiet",
                   "--steps", str(settings.steps), "--dtype", "f32", "--dump", f"{folder}/dump.safetensors", "-o", f"{folder}/out.mp4"]
        if options.image:
            from PIL import Image
            picture = np.array(Image.open(options.image).convert("RGB"))
            command += ["--image", options.image]
        subprocess.run(command, check=True)
        engine = load_file(f"{folder}/dump.safetensors")["video"]
    mine = by_torch(settings, parts, options.prompt, options.seed, picture)
    psnr = float(-10 * (engine.view_as(mine) - mine).square().mean().clamp(min=1e-12).log10())
    print(f"{settings.steps} steps, guidance {settings.guidance}: PSNR {psnr:.1f} dB")
    if psnr < 50:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
