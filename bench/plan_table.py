"""The table of docs/memory.md: what published models take on cards of several sizes, as `zoe plan` foretells it.

usage: plan_table.py ZOE        prints Markdown; needs no device and no weights: folders are made whose files are holes
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import random_model

CASES = random_model.ROOT / "tests/data/cases"
# name: case that gives the folder's layout, denoisers, VAE, sizes as (width, height, frames, steps)
MODELS = {
    "Wan2.1-T2V-1.3B": ("wan21_t2v", ["wan2.1-t2v-1.3b"], "wan2.1-vae", [(832, 480, 81, 50)]),
    "Wan2.2-TI2V-5B": ("wan22_ti2v_5b_t2v", ["wan2.2-ti2v-5b"], "wan2.2-vae", [(1280, 704, 121, 50)]),
    "Wan2.1-T2V-14B": ("wan21_t2v", ["wan2.1-t2v-14b"], "wan2.1-vae", [(832, 480, 81, 50), (1280, 720, 81, 50)]),
    "CogVideoX1.5-5B": ("cogvideox15_5b", ["cogvideox1.5-5b"], "cogvideox-vae", [(1360, 768, 81, 50)]),
    "LTX-Video-13B": ("ltx095_t2v", ["ltx-0.9.7-13b"], "ltx-0.9.7-vae", [(768, 512, 97, 40)]),
    "Wan2.2-T2V-A14B": ("wan22_t2v_a14b", ["wan2.2-t2v-a14b"] * 2, "wan2.1-vae", [(1280, 720, 81, 40)]),
}
CARDS = [8, 12, 16, 24, 48, 80]


def folder(out, case, denoisers, vae):
    shutil.copytree(CASES / case / "model", out, ignore=shutil.ignore_patterns("*.safetensors"))
    parts = [("vae", vae, "diffusion_pytorch_model")]
    if case.startswith("wan"):
        parts.append(("text_encoder", "umt5-xxl", "model"))
    else:
        text = json.loads((out / "text_encoder/config.json").read_text())
        text.update(d_model=4096, vocab_size=32128, **random_model.XXL)
        random_model.text_encoder(out / "text_encoder", text, holes=True)
    parts += [("transformer" + ("" if i == 0 else f"_{i + 1}"), name, "diffusion_pytorch_model")
              for i, name in enumerate(denoisers)]
    for part, name, stem in parts:
        random_model.write(out / part / (stem + ".safetensors"), random_model.manifest(name), holes=True)
        shutil.copy(random_model.MANIFESTS / name / "config.json", out / part)


def plan(zoe, model, size, linear, vram, ram):
    width, height, frames, steps = size
    done = subprocess.run([zoe, "plan", "--model", str(model), "--prompt", "A red fox runs through snow", "--device", "cuda",
                           "--size", f"{width}x{height}", "--frames", str(frames), "--steps", str(steps), "--linear", linear,
                           "--vram", f"{vram}G", "--ram", f"{ram}G", "--json"], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def duration(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def row(zoe, name, model, size, vram):
    """The best form that needs no more host memory than most machines with such a card have."""
    read = {}  # bytes that denoising reads of the files where host memory is no matter
    for ram in (16, 32, 64, 128):
        for linear in ("native", "fp8", "int4"):
            found = plan(zoe, model, size, linear, vram, ram)
            if not found:
                continue
            denoise = next(phase for phase in found["phases"] if phase["phase"] == "denoise")
            if linear not in read:
                ample = plan(zoe, model, size, linear, vram, 1024)
                read[linear] = next(phase for phase in ample["phases"] if phase["phase"] == "denoise")["read_bytes"]
            if denoise["read_bytes"] > read[linear]:
                continue  # would read files in every step
            gib = lambda value: f"{value / 2**30:.1f}"
            settings = f"--vram {vram}G --ram {ram}G" + ("" if linear == "native" else f" --linear {linear}")
            return (f"| {name} | {size[0]}x{size[1]}, {size[2]} | {vram} GiB | `{settings}` | "
                    f"{gib(found['peak_device_bytes'])} | {gib(found['peak_host_bytes'])} | "
                    f"{gib(denoise['streamed_bytes_per_step'])} | {duration(found['seconds'])} |")
    return f"| {name} | {size[0]}x{size[1]}, {size[2]} | {vram} GiB | does not fit | | | | |"


def main():
    zoe = sys.argv[1]
    print("| model | size, frames | card | settings | device GiB | host GiB | streamed GiB a step | time |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, (case, denoisers, vae, sizes) in MODELS.items():
            model = pathlib.Path(temporary) / name
            folder(model, case, denoisers, vae)
            for size in sizes:
                for vram in CARDS:
                    print(row(zoe, name, model, size, vram), flush=True)


if __name__ == "__main__":
    main()
