"""Train the demo model from nothing: one command, one GPU.

    python training/demo/train.py --run build/demo --model models/demo

Stages: kind (the judge's classifier; kept if kind.safetensors exists), captions, vae, text, latents, denoiser,
export, evaluation.
A stage that is done is skipped, one that was interrupted goes on from its checkpoint. Seeds are fixed; lengths are in seconds,
so that a schedule always ends. --scale tiny tries the whole chain on a CPU in a few minutes.
"""
import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import evaluate  # noqa: E402
import export  # noqa: E402
import kind  # noqa: E402
import prepare  # noqa: E402
import train_denoiser  # noqa: E402
import train_text  # noqa: E402
import train_vae  # noqa: E402
from common import DEVICE, Clock, Run, main_guard  # noqa: E402
from config import Settings, tiny  # noqa: E402

TINY = dict(pool=2, batch=2, full_batch=1, crop=32, unseen=2)


def strip(clips, path, rows=12, columns=9):
    """A sheet of clips: a row each, `columns` frames."""
    from PIL import Image
    import numpy as np
    import torch
    at = torch.linspace(0, clips.shape[1] - 1, columns).round().long()
    sheet = np.concatenate([np.concatenate(list(clip[at.to(clip.device)].cpu().numpy()), 1) for clip in clips[:rows]], 0)
    Image.fromarray(sheet).save(path, quality=88)


def judge_and_record(run, settings, model, count, images, name):
    """Evaluate the exported folder; results to NAME.json, failures to NAME-wrong.jsonl, sheets beside."""
    parts, keep, clock = export.read(model, settings, DEVICE), {}, Clock(1)
    scores = evaluate.judge_model(parts, settings, count, images, keep=keep)
    report = scores.report()
    run.path(name + ".json").write_text(json.dumps(report, indent=2))
    run.path(name + "-wrong.jsonl").write_text("\n".join(json.dumps(case) for case in scores.wrong))
    for group, clips in keep.items():
        strip(clips, run.path(f"{name}-{group}.jpg"))
    run.log(stage="evaluation", steps=settings.steps, guidance=settings.guidance, seconds=clock.spent, **report)


def captions_apart(options):
    """Captions need the CPU alone: write them while the GPU trains the VAE."""
    command = [sys.executable, __file__, "--run", str(options.run), "--only", "captions"]
    for name in ("clips", "seed", "pairs", "captions", "processes"):
        command += ["--" + name, str(getattr(options, name))]
    return subprocess.Popen(command)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("build/demo"))
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--only", help="run this stage alone")
    parser.add_argument("--vae-seconds", type=float, default=360)
    parser.add_argument("--denoiser-seconds", type=float, default=840)
    parser.add_argument("--start", type=Path, help="go on from this model folder: its VAE and tokenizer stay, the denoiser learns on, and the text "
                        "encoder learns anew, near to its own")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the denoiser's learning rates")
    parser.add_argument("--composing", type=float, default=0.3, help="extra share of the denoiser's samples at the highest noise levels")
    parser.add_argument("--text-steps", type=int, default=1200)
    parser.add_argument("--until", type=float, help="interrupt the denoiser's training after this many seconds")
    parser.add_argument("--clips", type=int, default=65536)
    parser.add_argument("--seed", type=int, default=2024, help="of the data set's scenes")
    parser.add_argument("--pairs", type=float, default=0.4, help="share of scenes with two solids")
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--kind-clips", type=int, default=1000)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    run, settings = Run(options.run), tiny() if options.scale == "tiny" else Settings()

    data = (options.clips, options.seed, options.pairs)

    def wants(stage, product):
        return options.only == stage or (options.only is None and not run.path(product).exists())

    if options.only == "captions":
        return prepare.make_captions(run, data, options.captions, options.processes)
    if options.only == "kind" or (options.only is None and not kind.FILE.exists()):
        small = options.scale == "tiny"
        run.log(stage="kind", accuracy=kind.train(DEVICE, 6 if small else options.kind_clips, 60 if small else 1500))
    text, denoiser = None, None
    if options.start:
        text, denoiser, vae, _ = export.read(options.start, settings, DEVICE)
        train_vae.keep(run, vae)
        shutil.copyfile(options.start / "tokenizer/spiece.model", run.path("spiece.model"))
    writer = captions_apart(options) if wants("captions", "captions.npy") else None
    if wants("vae", "vae_final.pt"):
        train_vae.train(run, settings, options.vae_seconds, **(TINY if options.scale == "tiny" else {}))
    if writer and writer.wait():
        raise SystemExit("captions failed")
    if wants("text", "text.pt"):
        run.save("text.pt", train_text.train(run, settings, 20 if options.scale == "tiny" else options.text_steps, like=text).state_dict())
    latents = prepare.make_latents(run, settings, data) if wants("latents", "latents.pt") else None
    if wants("denoiser", "denoiser_done"):
        train_denoiser.train(run, settings, options.denoiser_seconds, latents, options.batch, 2e-3 * options.rate, 1e-3 * options.rate,
                             compiled=DEVICE == "cuda", until=options.until, start=(train_text.load(run, settings), denoiser), composing=options.composing)
        if options.until is None:
            run.path("denoiser_done").touch()
    if options.only in (None, "export"):
        export.write(options.model, settings, train_denoiser.load(run, settings), train_vae.load(run, settings), run.path("spiece.model"))
    if options.only in (None, "evaluation"):
        judge_and_record(run, settings, options.model, options.count, options.images, "evaluation")


if __name__ == "__main__":
    main_guard(main)
