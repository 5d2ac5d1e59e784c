"""Makes a Wan reference case: a tiny random model folder as published, a call, and what diffusers computes for it.

    python tests/reference/wan_case.py tests/data/cases/NAME --variant t2v --size 64x48 --frames 13 ...
    python tests/reference/wan_case.py --verify CASE      compares a case with what this installation computes

The folder holds case.json (the call), image.png and last_image.png where the variant takes them, golden.safetensors and
model/. Every weight is random: parameters that normally start constant too, so that one left out shows. Weights may be
stored as bf16 or f16 and in shards; the reference computes in float32 from the stored values.
"""
import argparse
import json
import os
import pathlib
import sys

import diffusers
import numpy
import safetensors.torch
import torch
import transformers
from PIL import Image

import wan_names

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
VARIANTS = ("t2v", "i2v", "flf2v", "t2v-a14b", "i2v-a14b", "ti2v")
TWO_EXPERTS = {"t2v-a14b": 0.875, "i2v-a14b": 0.9}  # where the second expert takes over, of the noise scale
CLIP_PIXELS, CLIP_PATCH = 28, 7
# Parameters that are rows to choose from or to add, not matrices to multiply by.
TABLES = ("scale_shift_table", "pos_embed", "position_embedding", "class_embedding", "shared", "relative_attention_bias")

# ---- the model folder ----


def randomise(module, generator):
    """Activations keep their size from layer to layer; scales lie around 1, shifts and tables around 0."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight"))
        with torch.no_grad():
            if scale:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            elif any(part in name for part in TABLES):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def text_encoder(a):
    return transformers.UMT5EncoderModel(transformers.UMT5Config(
        vocab_size=700, d_model=a.text_width, d_kv=a.text_head_dim, num_heads=a.text_heads, d_ff=a.text_ffn,
        num_layers=a.text_layers, num_decoder_layers=a.text_layers, feed_forward_proj="gated-gelu"))


def denoiser(a, image):
    clip = a.variant in ("i2v", "flf2v")
    latent = 48 if a.variant == "ti2v" else 16
    return diffusers.WanTransformer3DModel(
        num_attention_heads=a.heads, attention_head_dim=a.head_dim, num_layers=a.layers, ffn_dim=a.ffn,
        in_channels=latent + (20 if image and a.variant != "ti2v" else 0), out_channels=latent, text_dim=a.text_width,
        image_dim=a.clip_width if clip else None, added_kv_proj_dim=a.heads * a.head_dim if clip else None,
        pos_embed_seq_len=2 * ((CLIP_PIXELS // CLIP_PATCH) ** 2 + 1) if a.variant == "flf2v" else None)


def autoencoder(a):
    settings = dict(base_dim=a.vae_base, dim_mult=a.vae_multiples, num_res_blocks=a.vae_resnets)
    if a.variant == "ti2v":
        settings.update(
            decoder_base_dim=a.vae_decoder_base, z_dim=48, is_residual=True, patch_size=2, in_channels=12, out_channels=12,
            scale_factor_spatial=16, latents_mean=wan_names.MEAN_22, latents_std=wan_names.STD_22)
    return diffusers.AutoencoderKLWan(**settings)


def image_encoder(a):
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
        hidden_size=a.clip_width, intermediate_size=2 * a.clip_width, num_hidden_layers=a.clip_layers,
        num_attention_heads=a.clip_heads, image_size=CLIP_PIXELS, patch_size=CLIP_PATCH, projection_dim=16,
        hidden_act="gelu"))


def scheduler(a):
    if a.scheduler == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=a.flow_shift)
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=a.flow_shift)


def make_folder(a, folder):
    image = a.image is not None
    generator = torch.Generator().manual_seed(a.seed)
    networks = {"text_encoder": text_encoder(a), "transformer": denoiser(a, image), "vae": autoencoder(a)}
    if a.variant in TWO_EXPERTS:
        networks["transformer_2"] = denoiser(a, image)
    if a.variant in ("i2v", "flf2v"):
        networks["image_encoder"] = image_encoder(a)
    index = {"_class_name": "WanImageToVideoPipeline" if image else "WanPipeline",
             "_diffusers_version": diffusers.__version__, "boundary_ratio": TWO_EXPERTS.get(a.variant),
             "expand_timesteps": a.variant == "ti2v", "scheduler": ["diffusers", type(scheduler(a)).__name__],
             "tokenizer": ["transformers", "T5TokenizerFast"], "transformer_2": [None, None]}
    if image:
        index.update(image_encoder=[None, None], image_processor=[None, None])
    for part, module in networks.items():
        randomise(module, generator)
        kind = "transformers" if isinstance(module, transformers.PreTrainedModel) else "diffusers"
        index[part] = [kind, type(module).__name__]
        settings = {"max_shard_size": a.shard_size} if a.shard_size else {}
        module.to(DTYPES[a.dtype]).save_pretrained(folder / part, **settings)
    if "image_encoder" in networks:
        index["image_processor"] = ["transformers", "CLIPImageProcessor"]
        square = {"height": CLIP_PIXELS, "width": CLIP_PIXELS}
        transformers.CLIPImageProcessor(size={"shortest_edge": CLIP_PIXELS}, crop_size=square).save_pretrained(
            folder / "image_processor")
    scheduler(a).save_pretrained(folder / "scheduler")
    os.symlink(os.path.relpath(DATA / "tokenizer" / "wan", folder), folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps(index, indent=1, sort_keys=True))


def picture(size, seed):
    """Slopes, edges and some noise, so that every step of a resize shows."""
    width, height = size
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    random = numpy.random.default_rng(seed)
    channels = [x / width, y / height, ((x // 5 + y // 7) % 2) * 0.6 + 0.2 * numpy.sin(x * y / 90)]
    pixels = numpy.stack(channels, -1) * 200 + 20 + random.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


# ---- what the reference computes ----


class Tokenizer:
    """Sentencepiece as the published tokenizer uses it: the pieces, </s>, padding with 0."""

    def __init__(self, folder):
        import sentencepiece
        self.processor = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))

    def __call__(self, texts, max_length, **_):
        ids = [self.processor.encode(text)[: max_length - 1] + [self.processor.eos_id()] for text in texts]
        rows = torch.tensor([row + [0] * (max_length - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (max_length - len(row)) for row in ids])
        return transformers.BatchEncoding({"input_ids": rows, "attention_mask": mask})


class ImageProcessor:
    """What CLIPImageProcessor does through torchvision: resize bytes so that the shorter edge fits, cut out the middle."""

    def __init__(self, folder):
        self.settings = json.loads((folder / "preprocessor_config.json").read_text())

    def prepare(self, image):
        s = self.settings
        edge, crop = s["size"]["shortest_edge"], s["crop_size"]["height"]
        pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        short = min(height, width)
        pixels = torch.nn.functional.interpolate(
            pixels[None], (edge * height // short, edge * width // short), mode="bicubic", antialias=True)[0]
        top, left = (pixels.shape[1] - crop) // 2, (pixels.shape[2] - crop) // 2
        pixels = pixels[:, top : top + crop, left : left + crop] * s["rescale_factor"]
        mean, std = (torch.tensor(s[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
        return (pixels - mean) / std

    def __call__(self, images, **_):
        images = images if isinstance(images, list) else [images]
        return transformers.BatchFeature({"pixel_values": torch.stack([self.prepare(image) for image in images])})


def load_network(kind, folder):
    """In float32, whatever type the files have; diffusers' own loader does this only with another package installed."""
    if issubclass(kind, transformers.PreTrainedModel):
        return kind.from_pretrained(folder, dtype=torch.float32).eval()
    network = kind.from_config(kind.load_config(folder))
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights.update(safetensors.torch.load_file(file))
    network.load_state_dict(weights)
    return network.eval()


def load_pipeline(folder):
    index = json.loads((folder / "model_index.json").read_text())
    parts = {}
    for part, entry in index.items():
        if not isinstance(entry, list) or part in ("tokenizer", "image_processor"):
            continue
        library, name = entry
        kind = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), name) if name else None
        if kind is None or part == "scheduler":
            parts[part] = kind and kind.from_pretrained(folder / part)
        else:
            parts[part] = load_network(kind, folder / part)
    if parts.get("image_encoder"):
        parts["image_processor"] = ImageProcessor(folder / "image_processor")
    pipeline = getattr(diffusers, index["_class_name"])(
        tokenizer=Tokenizer(folder / "tokenizer"), boundary_ratio=index["boundary_ratio"],
        expand_timesteps=index["expand_timesteps"], **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def watch(pipeline, found):
    """Keeps the denoiser's first call, the latents after each step and the encoders' results in `found`."""
    def first_call(_module, args, kwargs, output):
        if "dit_out" not in found:
            for name in ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"):
                if kwargs.get(name) is not None:
                    found["dit_in." + name] = kwargs[name].clone()
            found["dit_out"] = output[0].clone()

    pipeline.transformer.register_forward_hook(first_call, with_kwargs=True)
    encode_prompt, encode_image = pipeline.encode_prompt, getattr(pipeline, "encode_image", None)

    def keep_prompts(*args, **kwargs):
        found["prompt_embeds"], found["negative_prompt_embeds"] = encode_prompt(*args, **kwargs)
        return found["prompt_embeds"], found["negative_prompt_embeds"]

    def keep_image(*args, **kwargs):
        found["image_embeds"] = encode_image(*args, **kwargs)
        return found["image_embeds"]

    pipeline.encode_prompt, pipeline.encode_image = keep_prompts, keep_image


def compute(case, call, latents):
    """All tensors of golden.safetensors for a call with these starting latents."""
    pipeline = load_pipeline(case / "model")
    found, steps = {}, []

    def after_step(_pipeline, _step, _time, tensors):
        steps.append(tensors["latents"].clone())
        return {}

    watch(pipeline, found)
    keys = ("prompt", "negative_prompt", "width", "height", "num_frames", "num_inference_steps", "guidance_scale",
            "guidance_scale_2")
    settings = {key: call[key] for key in keys if key in call}
    for name in ("image", "last_image"):
        if (case / f"{name}.png").exists():
            settings[name] = Image.open(case / f"{name}.png").convert("RGB")
    video = pipeline(**settings, latents=latents, callback_on_step_end=after_step, output_type="np").frames[0]
    found.update({"in.latents": latents, "step_latents": torch.stack(steps), "video": torch.from_numpy(numpy.array(video)),
                  "timesteps": pipeline.scheduler.timesteps.float(),
                  "sigmas": pipeline.scheduler.sigmas.float()})
    return {name: tensor.detach().contiguous() for name, tensor in found.items() if tensor is not None}


# ---- the two uses ----


def make(a):
    case = pathlib.Path(a.case)
    case.mkdir(parents=True)
    make_folder(a, case / "model")
    if a.image:
        picture(a.image, a.seed).save(case / "image.png")
    if a.variant == "flf2v":
        picture(a.last_image or a.image, a.seed + 1).save(case / "last_image.png")
    call = {"prompt": a.prompt, "negative_prompt": a.negative_prompt, "width": a.size[0], "height": a.size[1],
            "num_frames": a.frames, "num_inference_steps": a.steps, "guidance_scale": a.guidance}
    if a.guidance_2 is not None:
        call["guidance_scale_2"] = a.guidance_2
    space, channels = (16, 48) if a.variant == "ti2v" else (8, 16)
    shape = (1, channels, (a.frames - 1) // 4 + 1, a.size[1] // space, a.size[0] // space)
    found = compute(case, call, torch.randn(shape, generator=torch.Generator().manual_seed(a.seed)))
    safetensors.torch.save_file(found, case / "golden.safetensors")
    call["made_with"] = " ".join(a.arguments).replace(a.prompt, "...")
    call["versions"] = {m.__name__: m.__version__ for m in (diffusers, transformers, torch)}
    (case / "case.json").write_text(json.dumps(call, indent=1, ensure_ascii=False) + "\n")
    video = found["video"]
    print(f"video {tuple(video.shape)}, mean {video.mean():.2f}, std {video.std():.2f}, "
          f"at its limits {((video <= 0) | (video >= 1)).float().mean():.1%}; "
          f"{sum(f.stat().st_size for f in case.rglob('*') if f.is_file()) / 1024:.0f} KiB")


def verify(case):
    expected = safetensors.torch.load_file(case / "golden.safetensors")
    found = compute(case, json.loads((case / "case.json").read_text()), expected["in.latents"])
    worst = 0.0
    for name in sorted(expected):
        if name not in found or found[name].shape != expected[name].shape:
            print(f"{name}: expected {tuple(expected[name].shape)}, found {tuple(found[name].shape) if name in found else None}")
            continue
        a, b = found[name].double(), expected[name].double()
        error = ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
        worst = max(worst, error)
        print(f"{name}: relative error {error:.1e}, largest {(a - b).abs().max():.1e}")
    return worst <= 1e-5


def size(text):
    width, height = text.split("x")
    return int(width), int(height)


def parse(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("case")
    p.add_argument("--verify", action="store_true")
    p.add_argument("--variant", choices=VARIANTS, default="t2v")
    p.add_argument("--size", type=size, default=(48, 32))
    p.add_argument("--frames", type=int, default=9)
    p.add_argument("--image", type=size, help="size of the first picture (default: none for t2v and ti2v, 40x30 else)")
    p.add_argument("--last-image", type=size, help="size of the last picture")
    p.add_argument("--scheduler", choices=("unipc", "euler"), default="unipc")
    p.add_argument("--flow-shift", type=float, default=3.0)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--guidance", type=float, default=5.0)
    p.add_argument("--guidance-2", type=float)
    p.add_argument("--prompt", default="A red ball rolls across a wooden table while a cat watches.")
    p.add_argument("--negative-prompt", default="blurry, low quality, 静态")
    p.add_argument("--seed", type=int, default=11)
    p.add_argument("--dtype", choices=DTYPES, default="f32")
    p.add_argument("--shard-size", help="largest weight file, such as 60KB; default: one file a network")
    for name, value in dict(heads=2, head_dim=12, layers=2, ffn=40, text_width=32, text_head_dim=8, text_heads=4,
                            text_ffn=64, text_layers=2, clip_width=32, clip_layers=3, clip_heads=2, vae_base=4,
                            vae_decoder_base=8, vae_resnets=1).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    p.add_argument("--vae-multiples", type=lambda text: [int(x) for x in text.split(",")], default=[1, 2, 2, 2])
    a = p.parse_args(arguments)
    a.arguments = arguments[1:]
    if a.variant in ("i2v", "flf2v", "i2v-a14b") and not a.image:
        a.image = (40, 30)
    return a


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    options = parse(sys.argv[1:])
    if options.verify:
        sys.exit(0 if verify(pathlib.Path(options.case)) else 1)
    make(options)
