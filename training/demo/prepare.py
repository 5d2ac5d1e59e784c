"""Stages "captions" and "latents": the data set of the denoiser. Both draw the same scenes: data = (clips, seed, pairs)."""
import random
from multiprocessing import Pool

import numpy as np
import torch

import train_vae
from common import DEVICE, autocast
from config import TOKENS
from model.text import Tokenizer, train_tokenizer
from world import grammar, motion, render



def scenes_of(clips, seed, pairs):
    return motion.draw_scenes(clips, np.random.default_rng(seed), pairs)


def make_tokenizer(run):
    """Train the sentencepiece model on captions of scenes that are not in the data set."""
    rng = random.Random(5)
    scenes = motion.draw_scenes(20000, np.random.default_rng(5))
    train_tokenizer([grammar.describe(scenes, i, rng) for i in range(20000)], str(run.path("spiece")))


def _caption_rows(job):
    path, data, start, stop, each = job
    tokenizer, scenes, rng = Tokenizer(path), scenes_of(*data), random.Random(start)
    sentences = [grammar.describe(scenes, i, rng) for i in range(start, stop) for _ in range(each)]
    return tokenizer.ids(sentences, TOKENS).numpy().astype(np.int16).reshape(stop - start, each, TOKENS)


def make_captions(run, data, each, processes):
    """captions.npy: int16 [clip, each, TOKENS], `each` sentences for every clip of data = (clips, seed, pairs)."""
    clips = data[0]
    if not run.path("spiece.model").exists():
        make_tokenizer(run)
    jobs = [(str(run.path("spiece.model")), data, a, min(a + 500, clips), each) for a in range(0, clips, 500)]
    with Pool(processes) as pool:
        rows = np.concatenate(pool.map(_caption_rows, jobs))
    np.save(run.path("captions.npy"), rows)
    run.log(stage="captions", clips=clips, each=each, longest=int((rows != 0).sum(-1).max()))


@torch.no_grad()
def make_latents(run, settings, data, chunk=256, part=32):
    """latents.pt: float16 [clip, 16, t, h, w], normalised; also returned."""
    clips = data[0]
    vae, scenes, rows = train_vae.load(run, settings), scenes_of(*data), []
    for start in range(0, clips, chunk):
        frames = render.render(motion.select(scenes, slice(start, start + chunk)))
        for piece in frames.split(part):
            with autocast():
                rows.append(vae.encode(train_vae.to_video(piece.to(DEVICE))).half())
        if start // chunk % 20 == 0:
            run.log(stage="latents", clips=start + len(frames))
    latents = torch.cat(rows)
    run.save("latents.pt", latents)
    run.log(stage="latents", clips=clips, deviation=float(latents[:512].float().std()), largest=float(latents.abs().max()))
    return latents
