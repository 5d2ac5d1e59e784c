"""The lean networks against the reference implementation (diffusers, transformers), on the CPU in float32 with random weights.

    python training/demo/tests/test_reference.py
"""
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from config import TEXT_ROWS, TextConfig, tiny  # noqa: E402
from model import sampler  # noqa: E402
from model.denoiser import Denoiser  # noqa: E402
from model.text import TextEncoder, Tokenizer, train_tokenizer  # noqa: E402
from model.vae import Vae  # noqa: E402


def randomise(module, scale=0.5):
    """Move every parameter away from its start, so that one that is missing shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale * (parameter.std().nan_to_num(0) + 0.1))


def close(name, ours, theirs, bound):
    error = (ours - theirs).abs().max().item() / theirs.abs().max().item()
    print(f"{name}: largest difference {error:.2e} of the largest value")
    assert error < bound, name


@torch.no_grad()
def test_vae():
    from diffusers import AutoencoderKLWan
    c = tiny().vae
    c.base_dim, c.num_res_blocks = 8, 2
    ours = Vae(c)
    randomise(ours, 0.2)
    theirs = AutoencoderKLWan(base_dim=c.base_dim, z_dim=c.z_dim, dim_mult=list(c.dim_mult), num_res_blocks=c.num_res_blocks,
                              temperal_downsample=list(c.temperal_downsample))
    theirs.load_state_dict(ours.state_dict())
    for frames in (1, 5, 13):
        video = torch.rand(2, 3, frames, 32, 48) * 2 - 1
        mean = theirs.encode(video).latent_dist.mean
        close(f"VAE encoder, {frames} frames", ours.posterior(video)[0], mean, 1e-4)
        close(f"VAE decoder, {frames} frames", ours.reconstruct(mean).clamp(-1, 1), theirs.decode(mean).sample, 1e-4)


@torch.no_grad()
def test_denoiser():
    from diffusers import WanTransformer3DModel
    c = tiny().denoiser
    ours = Denoiser(c)
    randomise(ours)
    theirs = WanTransformer3DModel(num_attention_heads=c.num_attention_heads, attention_head_dim=c.attention_head_dim, in_channels=16,
                                   out_channels=16, text_dim=c.text_dim, ffn_dim=c.ffn_dim, num_layers=c.num_layers)
    theirs.load_state_dict(ours.state_dict())
    x, t = torch.randn(2, 16, 3, 4, 6), torch.tensor([[0.0, 700, 700], [311.0, 311, 311]])
    text = torch.randn(2, 12, c.text_dim)
    text[0, 5:] = 0
    text[1, 11:] = 0
    padded = torch.cat((text, torch.zeros(2, TEXT_ROWS - 12, c.text_dim)), 1)
    expected = theirs(x, t.repeat_interleave(6, 1), padded, return_dict=False)[0]
    close("denoiser", ours(x, t, text), expected, 1e-4)


@torch.no_grad()
def test_text():
    from transformers import UMT5Config, UMT5EncoderModel
    c = TextConfig(vocab_size=90, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2)
    ours = TextEncoder(c)
    randomise(ours)
    theirs = UMT5EncoderModel(UMT5Config(**asdict(c), dropout_rate=0.0, feed_forward_proj="gated-gelu"))
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"encoder.embed_tokens.weight"}
    theirs.eval()
    ids = torch.randint(3, 90, (2, 40))
    ids[0, 17:] = 0
    expected = theirs(ids, attention_mask=(ids != 0).long()).last_hidden_state * (ids != 0)[..., None]
    close("text encoder", ours(ids), expected, 1e-4)


@torch.no_grad()
def test_sampler():
    from diffusers import UniPCMultistepScheduler
    for steps, shift in ((1, 3.0), (2, 5.0), (7, 3.0), (20, 3.0)):
        theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
        theirs.set_timesteps(steps)
        sigmas, timesteps = sampler.flow_sigmas(steps, shift)
        assert np.allclose(sigmas, theirs.sigmas.numpy(), atol=1e-7) and (timesteps == theirs.timesteps.numpy()).all()
        solver, x, y = sampler.UniPC(sigmas), torch.randn(1, 4, 2, 3, 3), None
        y = x.clone()
        for i, t in enumerate(theirs.timesteps):
            x = solver.step(i, torch.sin(3 * x) + x * x * 0.1, x)
            y = theirs.step(torch.sin(3 * y) + y * y * 0.1, t, y, return_dict=False)[0]
        close(f"sampler, {steps} steps", x, y, 1e-4)


def test_tokenizer():
    import random
    import tempfile

    from transformers import T5TokenizerFast
    from world import grammar, motion
    rng, draw = random.Random(1), np.random.default_rng(1)
    scenes = motion.draw_scenes(3000, draw)
    sentences = [grammar.describe(scenes, i, rng) for i in range(3000)]
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(sentences, folder + "/spiece")
        Path(folder, "tokenizer_config.json").write_text('{"tokenizer_class": "T5TokenizerFast", "extra_ids": 0}')
        ours, theirs = Tokenizer(folder + "/spiece.model"), T5TokenizerFast.from_pretrained(folder)
        print("vocabulary", len(ours), "pieces; longest caption", int((ours.ids(sentences, 64) != 0).sum(1).max()), "tokens")
        for text in sentences[:200] + ["", "A Zebra, dancing!"]:
            expected = theirs(text).input_ids
            assert ours.ids([text], 64)[0, :len(expected)].tolist() == expected, text
        assert ours.ids([""], 8)[0].tolist() == [1] + [0] * 7


if __name__ == "__main__":
    torch.manual_seed(0)
    for test in (test_vae, test_denoiser, test_text, test_sampler, test_tokenizer):
        test()
