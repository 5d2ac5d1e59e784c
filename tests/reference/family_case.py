"""Makes a CogVideoX or LTX-Video reference case: a tiny random model folder, a call, and what diffusers computes for it.

    python tests/reference/family_case.py tests/data/cases/NAME --variant cogvideox-2b --size 64x48 --frames 16 ...

As wan_case.py does for Wan; every draw of a call comes from one generator with the case's seed.
"""
import argparse
import json
import os
import pathlib
import sys

import diffusers
import numpy
import PIL.ImageSequence
import safetensors.torch
import torch
import transformers
from PIL import Image

import wan_case

TOKENIZER = wan_case.DATA / "cases" / "cogvideox_2b" / "model" / "tokenizer"
COGVIDEOX = ("cogvideox-2b", "cogvideox-5b", "cogvideox-5b-i2v", "cogvideox15", "cogvideox15-i2v")
LTX = ("ltx-0.9.0", "ltx-0.9.1", "ltx-0.9.5")

# ---- the model folder ----


def randomise(network, generator):
    for name, parameter in [*network.named_parameters(), *network.named_buffers()]:
        if parameter.ndim == 0 or not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        scale = name == "latents_std" or (parameter.ndim == 1 and name.endswith("weight"))
        small = name == "latents_mean" or parameter.ndim == 1 or "per_channel_scale" in name
        table = any(part in name for part in ("table", "pos_embedding", "shared", "relative_attention_bias"))
        with torch.no_grad():
            fan = parameter[0].numel() ** 0.5
            parameter.copy_(1 + 0.2 * noise if scale else 0.2 * noise if small else 0.5 * noise if table else noise / fan)


def text_encoder():
    return transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=700, d_model=24, d_kv=10, num_heads=3, d_ff=40, num_layers=2, feed_forward_proj="gated-gelu"))


def cogvideox(a):
    picture, second = a.variant.endswith("i2v"), a.variant.startswith("cogvideox15")
    scale = 0.7
    if a.sat:  # as published, where the authors' layout leaves it open
        a.sample, a.sample_frames = ((300, 300), 81) if second else ((90, 60), 49)
        scale = 1.15258426 if a.variant == "cogvideox-2b" else 0.7
    transformer = diffusers.CogVideoXTransformer3DModel(
        max_text_seq_length=224 if a.sat and second else 226,
        num_attention_heads=3, attention_head_dim=16, num_layers=2, in_channels=8 if picture else 4, out_channels=4,
        time_embed_dim=16, text_embed_dim=24, sample_width=a.sample[0], sample_height=a.sample[1], sample_frames=a.sample_frames,
        patch_size_t=2 if second else None, patch_bias=not second, ofs_embed_dim=16 if second and picture else None,
        use_rotary_positional_embeddings=a.variant != "cogvideox-2b",
        use_learned_positional_embeddings=a.variant == "cogvideox-5b-i2v")
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(4, 8, 8, 12), layers_per_block=2, latent_channels=4, norm_num_groups=4 if a.sat else 2,
        scaling_factor=scale,
        invert_scale_latents=second and picture)
    kind = diffusers.CogVideoXDDIMScheduler if a.scheduler == "ddim" else diffusers.CogVideoXDPMScheduler
    scheduler = kind(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False, timestep_spacing=a.spacing,
        snr_shift_scale=3.0 if a.variant == "cogvideox-2b" else 1.0)
    return "CogVideoXImageToVideoPipeline" if picture else "CogVideoXPipeline", transformer, vae, scheduler


def ltx(a):
    later = a.variant == "ltx-0.9.5"
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=20, cross_attention_dim=40, num_layers=2,
        caption_channels=24)
    settings = {"ltx-0.9.0": dict(), "ltx-0.9.1": dict(
        decoder_block_out_channels=(8, 16, 32), decoder_layers_per_block=(1, 2, 1, 1),
        decoder_spatio_temporal_scaling=(True, True, True), decoder_inject_noise=(True, True, True, False),
        upsample_residual=(True, True, True), upsample_factor=(2, 2, 2), timestep_conditioning=True), "ltx-0.9.5": dict(
        block_out_channels=(4, 8, 16, 32, 32), down_block_types=("LTXVideo095DownBlock3D",) * 4,
        layers_per_block=(2, 1, 1, 1, 1), spatio_temporal_scaling=(True,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=(8, 16, 32), decoder_layers_per_block=(1, 1, 2, 1),
        decoder_spatio_temporal_scaling=(True, True, True), decoder_inject_noise=(False,) * 4,
        upsample_residual=(True, True, True), upsample_factor=(2, 2, 2), timestep_conditioning=True,
        spatial_compression_ratio=32, temporal_compression_ratio=8)}[a.variant]
    widths = (4, 8, 16, 16) if a.published else (4, 8, 8, 8)  # two levels of the published ones change their width
    first = dict(block_out_channels=widths, layers_per_block=(1, 1, 2, 1, 1), latent_channels=8)
    if not settings:
        first.update(decoder_block_out_channels=widths, decoder_layers_per_block=(1, 2, 1, 1, 1))
    vae = diffusers.AutoencoderKLLTXVideo(**{**first, **settings})
    shift = dict(use_dynamic_shifting=not later, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024,
                 max_image_seq_len=4096, shift_terminal=None if later else 0.1, stochastic_sampling=a.stochastic)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**shift)
    name = "LTXConditionPipeline" if later else "LTXImageToVideoPipeline" if a.image else "LTXPipeline"
    return name, transformer, vae, scheduler


def make_folder(a, folder):
    generator = torch.Generator().manual_seed(a.seed)
    name, transformer, vae, scheduler = cogvideox(a) if a.variant in COGVIDEOX else ltx(a)
    parts = {"text_encoder": text_encoder(), "transformer": transformer, "vae": vae}
    index = {"_class_name": name, "_diffusers_version": diffusers.__version__,
             "scheduler": ["diffusers", type(scheduler).__name__], "tokenizer": ["transformers", "T5Tokenizer"]}
    for part, network in parts.items():
        randomise(network, generator)
        kind = "transformers" if isinstance(network, transformers.PreTrainedModel) else "diffusers"
        index[part] = [kind, type(network).__name__]
        network.to(torch.bfloat16).save_pretrained(folder / part)
    scheduler.save_pretrained(folder / "scheduler")
    os.symlink(os.path.relpath(TOKENIZER, folder), folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(index, indent=1, sort_keys=True))


# ---- what the reference computes ----


class Tokenizer(wan_case.Tokenizer):
    model_max_length = 512

    def __call__(self, texts, max_length=None, **settings):
        texts = [texts] if isinstance(texts, str) else texts
        return super().__call__(texts, max_length or 1 + max(len(self.processor.encode(text)) for text in texts))


def load_pipeline(folder):
    index = json.loads((folder / "model_index.json").read_text())
    parts = {part: wan_case.load_network(getattr({"diffusers": diffusers, "transformers": transformers}[entry[0]], entry[1]),
                                         folder / part)
             for part, entry in index.items() if part in ("text_encoder", "transformer", "vae")}
    scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler")
    pipeline = getattr(diffusers, index["_class_name"])(
        tokenizer=Tokenizer(folder / "tokenizer"), scheduler=scheduler, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def frames_of(file):
    with Image.open(file) as picture:
        return [frame.convert("RGB") for frame in PIL.ImageSequence.Iterator(picture)]


def write_conditions(a, case):
    """Pictures and lossless clips that move a little from frame to frame; [[file, frame, strength], ...]."""
    rows = []
    for i, (size, count, frame, strength) in enumerate(a.condition):
        frames = [wan_case.picture((size[0] + count, size[1]), a.seed + 10 * i).crop((k, 0, k + size[0], size[1]))
                  for k in range(count)]
        file = f"given{i}.png"
        frames[0].save(case / file, **(dict(save_all=True, append_images=frames[1:], duration=40) if count > 1 else {}))
        rows.append([file, frame, strength])
    return rows


def make_upsampler(a, folder):
    upsampler = diffusers.pipelines.ltx.LTXLatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1)
    randomise(upsampler, torch.Generator().manual_seed(a.seed))
    upsampler.to(torch.bfloat16).save_pretrained(folder / "latent_upsampler")


def two_passes(call, case, pipeline, settings, call_pipeline):
    """As diffusers documents it: half the size, the upsampler, and the end of a schedule at the full size."""
    own = call["upsampler"]
    for key in ("upsampler", "width", "height"):
        settings.pop(key)
    size = {"width": call["width"] // 2, "height": call["height"] // 2}
    upsampler = wan_case.load_network(diffusers.pipelines.ltx.LTXLatentUpsamplerModel, case / "upsampler" / "latent_upsampler")
    latents = call_pipeline(**size, output_type="latent")
    latents = diffusers.LTXLatentUpsamplePipeline(vae=pipeline.vae, latent_upsampler=upsampler)(
        latents=latents, adain_factor=own["adain"], tone_map_compression_ratio=own["tone_map"], output_type="latent",
        **{key: 2 * value for key, value in size.items()}).frames
    settings.pop("timesteps", None)
    settings["num_inference_steps"] = own["steps"]
    return call_pipeline(width=call["width"], height=call["height"], latents=latents, denoise_strength=own["strength"],
                         output_type="np")


def compute(a, case, call):
    pipeline = load_pipeline(case / "model")
    generator = torch.Generator().manual_seed(a.seed)
    plain_randn, plain_like, found, steps = torch.randn, torch.randn_like, {}, []

    def randn(*args, **kwargs):
        """The decoder of 0.9.1 and stochastic steps draw from the global generator; here from the call's."""
        return plain_randn(*args, **{**kwargs, "generator": kwargs.get("generator") or generator})

    def first_call(_module, _args, kwargs, output):
        found.setdefault("dit_in.encoder_hidden_states", kwargs["encoder_hidden_states"].clone())
        found.setdefault("dit_out", output[0].clone())

    def after_step(_pipeline, _step, _time, tensors):
        steps.append(tensors["latents"].clone())
        return {}

    pipeline.transformer.register_forward_hook(first_call, with_kwargs=True)
    settings = {key: value for key, value in call.items() if key not in ("seed", "conditions")}
    pictures = [Image.open(case / f"{name}.png").convert("RGB") for name in ("image", "last_image")
                if (case / f"{name}.png").exists()]
    if a.variant == "ltx-0.9.5" and pictures:
        frames = [0, a.frames - 1] if a.image and a.last_image else [0] if a.image else [a.frames - 1]
        settings.update(image=pictures, frame_index=frames, video=[None] * len(frames), strength=[1.0] * len(frames),
                        image_cond_noise_scale=0.0)
    elif pictures:
        settings["image"] = pictures[0]
    if a.condition:
        given = [(frames_of(case / file), frame, strength) for file, frame, strength in call["conditions"]]
        settings.update(image=[f[0] if len(f) == 1 else None for f, _, _ in given],
                        video=[f if len(f) > 1 else None for f, _, _ in given],
                        frame_index=[frame for _, frame, _ in given], strength=[strength for _, _, strength in given])
    if a.variant in ("ltx-0.9.1", "ltx-0.9.5"):
        settings.update(decode_timestep=0.05, decode_noise_scale=0.025)
    if a.variant in COGVIDEOX:
        settings["use_dynamic_cfg"] = a.scheduler == "dpm"
        settings["max_sequence_length"] = pipeline.transformer.config.max_text_seq_length
    torch.randn, torch.randn_like = randn, lambda tensor: randn(tensor.shape, dtype=tensor.dtype)
    tokens = a.size[0] // 32 * (a.size[1] // 32) * ((a.frames - 1) // 8 + 1)
    call_pipeline = lambda **more: pipeline(**settings, **more, generator=generator, callback_on_step_end=after_step).frames
    if a.upsampler:
        video = two_passes(call, case, pipeline, settings, call_pipeline)[0]
        found["refined_latents"] = torch.stack([latents[:, -tokens:] for latents in steps[a.steps:]])
        steps, tokens = steps[:a.steps], tokens // 4
    else:
        video = call_pipeline(output_type="np")[0]
    torch.randn, torch.randn_like = plain_randn, plain_like
    if a.variant in LTX:
        steps = [latents[:, -tokens:] for latents in steps]
    found.update({"step_latents": torch.stack(steps), "video": torch.from_numpy(numpy.array(video)),
                  "timesteps": pipeline.scheduler.timesteps.float()})
    return {name: tensor.detach().contiguous() for name, tensor in found.items()}


def make(a):
    case = pathlib.Path(a.case)
    case.mkdir(parents=True)
    if a.model:
        os.symlink(f"../{a.model}/model", case / "model")
    else:
        make_folder(a, case / "model")
    if a.image:
        wan_case.picture(a.image, a.seed).save(case / "image.png")
    if a.last_image:
        wan_case.picture(a.last_image, a.seed + 1).save(case / "last_image.png")
    call = {"prompt": a.prompt, "negative_prompt": a.negative_prompt, "width": a.size[0], "height": a.size[1],
            "num_frames": a.frames, "num_inference_steps": a.steps, "guidance_scale": a.guidance, "seed": a.seed}
    if a.variant in LTX:
        call["frame_rate"] = a.fps
    if a.timesteps:
        call["timesteps"] = a.timesteps
    if a.upsampler:
        make_upsampler(a, case / "upsampler")
        call["upsampler"] = dict(zip(("steps", "strength", "adain", "tone_map"), a.upsampler))
    if a.condition:
        call["conditions"] = write_conditions(a, case)
        call["image_cond_noise_scale"] = a.condition_noise
    found = compute(a, case, call)
    safetensors.torch.save_file(found, case / "golden.safetensors")
    call["made_with"] = " ".join(a.arguments)
    call["versions"] = {m.__name__: m.__version__ for m in (diffusers, transformers, torch)}
    (case / "case.json").write_text(json.dumps(call, indent=1, ensure_ascii=False) + "\n")
    video = found["video"]
    print(f"video {tuple(video.shape)}, mean {video.mean():.2f}, std {video.std():.2f}, "
          f"at its limits {((video <= 0) | (video >= 1)).float().mean():.1%}; "
          f"{sum(f.stat().st_size for f in case.rglob('*') if f.is_file()) / 1024:.0f} KiB")


def condition(text):
    shape, place = text.split("@")
    width, height, count = map(int, shape.split("x"))
    frame, strength = place.split(":")
    return (width, height), count, int(frame), float(strength)


def parse(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("case")
    p.add_argument("--variant", choices=COGVIDEOX + LTX, required=True)
    p.add_argument("--model", help="another case, whose model this one shares")
    p.add_argument("--size", type=wan_case.size, default=(48, 32))
    p.add_argument("--frames", type=int, default=9)
    p.add_argument("--fps", type=int, default=25)
    p.add_argument("--sample", type=wan_case.size, default=(6, 4), help="latent size that CogVideoX's positions are made for")
    p.add_argument("--sat", action="store_true", help="sizes that CogVideoX' authors' own layout can tell")
    p.add_argument("--published", action="store_true", help="an autoencoder of the published structure")
    p.add_argument("--sample-frames", type=int, default=9)
    p.add_argument("--image", type=wan_case.size)
    p.add_argument("--last-image", type=wan_case.size)
    p.add_argument("--scheduler", choices=("ddim", "dpm"), default="dpm")
    p.add_argument("--spacing", choices=("trailing", "linspace", "leading"), default="trailing")
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--condition", type=condition, action="append", default=[], metavar="WxHxCOUNT@FRAME:STRENGTH",
                   help="a picture, or a clip of COUNT frames")
    p.add_argument("--condition-noise", type=float, default=0.0)
    p.add_argument("--upsampler", type=lambda text: [int(text.split(",")[0]), *map(float, text.split(",")[1:])],
                   metavar="STEPS,STRENGTH,ADAIN,TONE_MAP", help="a second pass at the size, the first at half of it")
    p.add_argument("--stochastic", action="store_true")
    p.add_argument("--timesteps", type=lambda text: [float(t) for t in text.split(",")])
    p.add_argument("--guidance", type=float, default=5.0)
    p.add_argument("--prompt", default="A red ball rolls across a wooden table while a cat watches.")
    p.add_argument("--negative-prompt", default="blurry, low quality, 静态")
    p.add_argument("--seed", type=int, default=11)
    a = p.parse_args(arguments)
    a.arguments = arguments[1:]
    return a


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    make(parse(sys.argv[1:]))
