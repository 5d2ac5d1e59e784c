"""Judge the demo model by the pixels of what it makes.

    python evaluate.py truth   [--count N]                       the judge itself, on rendered clips
    python evaluate.py torch   --model DIR [--count N]           clips sampled here, in PyTorch
    python evaluate.py prompts --out DIR [--count N]             write prompts.jsonl and first frames for another program
    python evaluate.py zoe     --out DIR --zoe PROGRAM [...]     let `zoe generate` make the clips of DIR/prompts.jsonl
    python evaluate.py files   --out DIR                         judge the clips NNN.mp4 (or .y4m) and image_NNN.mp4 in DIR

Prompts are drawn from the evaluation half of the grammar: no such sentence occurs in training.
"""
import argparse
import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import export  # noqa: E402
import judge as judging  # noqa: E402
import train_vae  # noqa: E402
from common import DEVICE, autocast  # noqa: E402
from config import TOKENS, Settings  # noqa: E402
from kind import KindJudge  # noqa: E402
from model import sampler  # noqa: E402
from world import grammar, motion, render  # noqa: E402

EVALUATION_SEED = 31337


def cases(count, seed=EVALUATION_SEED):
    """(scenes, prompts) of the evaluation."""
    scenes, rng = motion.draw_scenes(count, np.random.default_rng(seed)), random.Random(seed)
    return scenes, [grammar.describe(scenes, i, rng, evaluation=True) for i in range(count)]


class Scores:
    """Counts of right answers, means of measures, and the cases that went wrong."""

    def __init__(self, device=DEVICE):
        self.judge, self.kinds = judging.Judge(device), KindJudge(device)
        self.right, self.values, self.wrong, self.motions = defaultdict(list), defaultdict(list), [], defaultdict(list)

    def add(self, frames, wanted, prompt, group="text", place=None):
        verdict = self.judge.look(frames)
        result = judging.compare(verdict, wanted, [self.kinds.name(frames, t) for t in verdict.tracks])
        for name, ok in result.items():
            self.right[f"{group} {name}"].append(ok)
        self.values[f"{group} flicker"].append(verdict.flicker)
        if place is not None:
            self.right[f"{group} floor"].append(verdict.floor == place[0])
            self.right[f"{group} backdrop"].append(verdict.backdrop == place[1])
        for solid, track in judging.match(verdict, wanted):
            self.motions[f"{group} {solid['motion']}"].append(track is not None and track.motion == solid["motion"])
        if not all(result.values()):
            self.wrong.append({"prompt": prompt, "group": group, "wrong": [k for k, ok in result.items() if not ok], "wanted": wanted,
                               "found": [[t.colour, t.motion, self.kinds.name(frames, t),
                                          {k: round(v, 3) for k, v in t.numbers.items()}] for t in verdict.tracks],
                               "count": verdict.count})

    def report(self):
        result = {name: round(float(np.mean(v)), 4) for name, v in self.right.items()}
        result.update({name: round(float(np.nanmean(v)), 3) for name, v in self.values.items()})
        result["by motion"] = {name: f"{sum(v)}/{len(v)}" for name, v in sorted(self.motions.items())}
        return result


def place_of(scenes, i):
    return motion.FLOORS[scenes["floor"][i]], motion.BACKDROPS[scenes["backdrop"][i]]


def judge_truth(count):
    scores = Scores()
    scenes, prompts = cases(count, 4242)
    for start in range(0, count, 50):
        clips = render.render(motion.select(scenes, slice(start, start + 50)))
        for i, frames in enumerate(clips, start):
            scores.add(frames, judging.wanted(scenes, i), prompts[i], "truth", place_of(scenes, i))
    return scores


@torch.no_grad()
def sample_clips(parts, settings, prompts, seed, first=None):
    """uint8 clips [n, frames, h, w, 3]; first: uint8 pictures [n, h, w, 3]."""
    text, denoiser, vae, tokenizer = parts
    shape = (len(prompts), settings.vae.z_dim, 1 + (settings.frames - 1) // 4, settings.size // 8, settings.size // 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    out = []
    for start in range(0, len(prompts), 50):
        part = slice(start, start + 50)
        with autocast():
            empty = text(tokenizer.ids([""], TOKENS).to(DEVICE))
            rows = text(tokenizer.ids(prompts[part], TOKENS).to(DEVICE))
            given = None
            if first is not None:
                given = vae.encode(train_vae.to_video(first[part].to(DEVICE).unsqueeze(1)))
            z = sampler.sample(denoiser, rows, empty.expand_as(rows), noise[part], settings.steps, settings.flow_shift,
                               settings.guidance, given)
            for piece in z.split(10):
                out.append(train_vae.to_frames(vae.decode(piece)))
    return torch.cat(out)


def psnr(a, b):
    return float(-10 * ((a.float() - b.float()).square().mean() / 255 ** 2).clamp(min=1e-10).log10())


def judge_model(parts, settings, count, images, scores=None, keep=None):
    """Text-to-video on `count` prompts and image-to-video on `images`; `keep` takes the clips."""
    scores = scores or Scores()
    scenes, prompts = cases(count)
    clips = sample_clips(parts, settings, prompts, 1)
    for i, frames in enumerate(clips):
        scores.add(frames, judging.wanted(scenes, i), prompts[i], "text", place_of(scenes, i) if named(prompts[i]) else None)
    if keep is not None:
        keep["text"] = clips
    if images:
        scenes, prompts = cases(images, EVALUATION_SEED + 1)
        truth = torch.cat([render.render(motion.select(scenes, slice(a, a + 50)))[:, 0] for a in range(0, images, 50)])
        clips = sample_clips(parts, settings, prompts, 2, truth)
        for i, frames in enumerate(clips):
            scores.add(frames, judging.wanted(scenes, i), prompts[i], "image")
            scores.values["image first frame PSNR"].append(psnr(frames[0].cpu(), truth[i].cpu()))
        if keep is not None:
            keep["image"] = clips
    return scores


def named(prompt):
    """Whether a prompt names both floor and backdrop, so that they can be judged."""
    low = prompt.lower()
    return all(any(w in low for words in table.values() for w in words) for table in (grammar.FLOOR_WORDS, grammar.BACKDROP_WORDS))


def write_prompts(folder, count, images):
    from PIL import Image
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for group, n, seed in (("text", count, EVALUATION_SEED), ("image", images, EVALUATION_SEED + 1)):
        scenes, prompts = cases(n, seed) if n else ({}, [])
        for i, prompt in enumerate(prompts):
            name = f"{i:03d}" if group == "text" else f"image_{i:03d}"
            line = {"name": name, "prompt": prompt, "wanted": judging.wanted(scenes, i), "seed": i}
            if group == "image":
                picture = render.render(motion.select(scenes, slice(i, i + 1)), 1)[0, 0]
                Image.fromarray(picture.cpu().numpy()).save(folder / f"{name}.png")
                line["image"] = f"{name}.png"
            lines.append(json.dumps(line))
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def read_prompts(folder):
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]


def run_zoe(folder, program, model):
    for line in read_prompts(folder):
        target = folder / f"{line['name']}.mp4"
        if target.exists():
            continue
        command = [program, "generate", "--prompt", line["prompt"], "--seed", str(line["seed"]), "-o", str(target)]
        command += ["--model", model] if model else []
        command += ["--image", str(folder / line["image"])] if "image" in line else []
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def read_clip(path):
    """uint8 frames of a video file, through ffmpeg."""
    size = motion.SIZE
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True,
                         stdout=subprocess.PIPE).stdout
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, size, size, 3)


def judge_files(folder):
    from PIL import Image
    scores = Scores()
    for line in read_prompts(folder):
        path = next((p for p in (folder / f"{line['name']}{end}" for end in (".mp4", ".y4m")) if p.exists()), None)
        if path is None:
            continue
        frames, group = read_clip(path), "image" if "image" in line else "text"
        scores.add(frames, line["wanted"], line["prompt"], group)
        if group == "image":
            picture = torch.from_numpy(np.array(Image.open(folder / line["image"]).convert("RGB")))
            scores.values["image first frame PSNR"].append(psnr(frames[0], picture))
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["truth", "torch", "prompts", "zoe", "files"])
    parser.add_argument("--model", default=None)
    parser.add_argument("--out", type=Path, default=Path("build/demo-evaluation"))
    parser.add_argument("--zoe", default="build/zoe")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--wrong", action="store_true", help="list the cases that went wrong")
    options = parser.parse_args()
    if options.mode == "prompts":
        return write_prompts(options.out, options.count, options.images)
    if options.mode == "zoe":
        run_zoe(options.out, options.zoe, options.model)
    if options.mode == "truth":
        scores = judge_truth(options.count)
    elif options.mode == "torch":
        settings = Settings()
        scores = judge_model(export.read(options.model, settings, DEVICE), settings, options.count, options.images)
    else:
        scores = judge_files(options.out)
    if options.wrong:
        for case in scores.wrong:
            print(json.dumps(case))
    print(json.dumps(scores.report(), indent=2))


if __name__ == "__main__":
    main()
