"""What diffusers' tiled decoding makes of random latents, with the VAEs of reference cases.

    python tests/reference/vae_tiling.py

Writes tests/data/tiling/CASE.safetensors: every eleventh row and ninth column of the first and the last frame.
"""
import pathlib

import diffusers
import safetensors.torch
import torch

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
CASES = {  # latents [frames, height, width], in tiles of which the last ones are narrow
    "wan21_t2v": (2, 34, 36),
    "wan22_ti2v_5b_t2v": (2, 17, 30),
    "cogvideox_x_long": (3, 31, 48),
    "ltx_t2v": (2, 17, 18),
    "ltx095_t2v": (1, 18, 17),
}


def latents_of(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decode(case, size):
    folder = DATA / "cases" / case / "model" / "vae"
    if case.startswith("wan"):
        vae = diffusers.AutoencoderKLWan.from_pretrained(folder)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
        call = [latents_of((1, vae.config.z_dim, *size), 11) * std + mean]
    elif case.startswith("ltx"):
        vae = diffusers.AutoencoderKLLTXVideo.from_pretrained(folder)
        shape = (1, vae.config.latent_channels, *size)
        latents = latents_of(shape, 11) * vae.latents_std.view(1, -1, 1, 1, 1) + vae.latents_mean.view(1, -1, 1, 1, 1)
        call = [latents]
        if vae.config.timestep_conditioning:
            call = [0.975 * latents + 0.025 * latents_of(shape, 5), torch.tensor([0.05])]
    else:
        vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(folder)
        latents = latents_of((1, size[0], vae.config.latent_channels, *size[1:]), 11)
        call = [latents.permute(0, 2, 1, 3, 4) / vae.config.scaling_factor]
    whole = vae.decode(*call).sample
    vae.enable_tiling()
    tiled = vae.decode(*call).sample
    error = (whole.clamp(-1, 1) - tiled.clamp(-1, 1)).square().mean() / 4
    print(f"{case}: {tuple(tiled.shape)}, {-10 * error.log10():.1f} dB from whole frames")
    return tiled[0].permute(1, 2, 3, 0)


@torch.no_grad()
def main():
    for case, size in CASES.items():
        video = decode(case, size)
        part = video[[0, -1]][:, ::11, ::9].contiguous()
        safetensors.torch.save_file({"video": part}, DATA / "tiling" / f"{case}.safetensors")


main()
