"""Stage "text": the text encoder learns, from sentences alone, what belongs to what.

Trained by the denoiser's loss alone, the encoder stays a bag of words: the best answer to high noise then is a blend of both ways
to share out two colours, kinds and motions, and that is a saddle from which no gradient leads away. So every word of a solid
first learns to tell the colour, kind, motion and side of that solid; the heads that ask for it are thrown away afterwards.
"""
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from common import DEVICE
from config import TOKENS
from model.text import TextEncoder, Tokenizer
from world import grammar, motion

KIND_OF = {words.split()[0]: kind for kind, wordings in grammar.KIND_WORDS.items() for words in wordings}
ALONE, LEFT, RIGHT = range(3)
CLASSES = (len(motion.KINDS), len(motion.COLOURS), len(motion.MOTIONS), 3)
REACH = 6  # words after a solid's name that may tell of it


def owners(words, solids):
    """For each word the number of the solid it tells of, in order of naming, or -1."""
    names = [i for i, word in enumerate(words) if word.strip(".,;").lower() in KIND_OF]
    assert len(names) == solids, words
    result = [-1] * len(words)
    for k, at in enumerate(names):
        stop = names[k + 1] - 1 if k + 1 < solids else len(words)
        for i in range(at - 1, min(stop, at + 1 + REACH)):
            result[i] = k
    return result


def draw(tokenizer, count, rng, pairs=0.8):
    """(ids [count, TOKENS], labels [count, TOKENS, 4]): kind, colour, motion and side of the solid each token tells of, or -1."""
    scenes = motion.draw_scenes(count, np.random.default_rng(rng.getrandbits(32)), pairs)
    ids = torch.zeros(count, TOKENS, dtype=torch.long)
    labels = torch.full((count, TOKENS, 4), -1, dtype=torch.long)
    for n in range(count):
        sentence, solids = grammar.describe(scenes, n, rng), int(scenes["solids"][n])
        order = np.argsort(scenes["lane"][n, :solids])
        shared = solids == 2 and scenes["motion"][n, 0] == scenes["motion"][n, 1]
        at = 0
        for word, owner in zip(sentence.split(), owners(sentence.split(), solids)):
            pieces = tokenizer.processor.encode(word)
            if owner >= 0:
                k = order[owner]
                side = ALONE if solids == 1 else (LEFT, RIGHT)[owner]
                named = word.strip(".,;").lower()
                own = named in KIND_OF or any(named in words for words in grammar.COLOUR_WORDS.values())
                if own or not shared:
                    labels[n, at:at + len(pieces)] = torch.tensor([scenes["kind"][n, k], scenes["colour"][n, k],
                                                                   scenes["motion"][n, k], side])
            ids[n, at:at + len(pieces)] = torch.tensor(pieces)
            at += len(pieces)
        ids[n, at] = 1
    return ids, labels


class Heads(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(dim, n) for n in CLASSES)

    def forward(self, x, labels):
        """Mean cross-entropy over the labelled tokens, and the share of right answers for each of the four questions."""
        known = labels[..., 0] >= 0
        losses, right = [], []
        for i, head in enumerate(self.heads):
            scores = head(x[known])
            losses.append(F.cross_entropy(scores, labels[known][:, i]))
            right.append((scores.argmax(-1) == labels[known][:, i]).float().mean())
        return torch.stack(losses).mean(), torch.stack(right)


def train(run, settings, steps, batch=64, rate=1.5e-3, like=None, pull=0.5):
    """A trained encoder. `like`: an encoder whose answers to single words it should keep in the main, weighted by `pull`, so that
    a denoiser that knows that one can go on."""
    torch.manual_seed(6)
    tokenizer, rng = Tokenizer(run.path("spiece.model")), random.Random(6)
    settings.text.vocab_size = len(tokenizer)
    encoder = TextEncoder(settings.text).to(DEVICE)
    heads = Heads(settings.text.d_model).to(DEVICE)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    if like is not None:
        with torch.no_grad():
            encoder.shared.weight.copy_(like.shared.weight * (1.0 / like.shared.weight.std()))
            encoder.encoder.final_layer_norm.weight.copy_(like.encoder.final_layer_norm.weight)
    for step in range(steps):
        ids, labels = (t.to(DEVICE) for t in draw(tokenizer, batch, rng))
        longest = int((ids != 0).sum(1).max())
        ids, labels = ids[:, :longest], labels[:, :longest]
        x = encoder(ids)
        loss, right = heads(x, labels)
        total = loss
        if like is not None:
            with torch.no_grad():
                wanted = like(ids)
            apart = (x - wanted).square().sum(-1)[ids != 0].mean() / wanted.square().sum(-1)[ids != 0].mean()
            total = loss + pull * apart
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            run.log(stage="text", step=step + 1, loss=loss.item(), kind=right[0].item(), colour=right[1].item(),
                    motion=right[2].item(), side=right[3].item(), **({"apart": apart.item()} if like is not None else {}))
    return encoder


def load(run, settings):
    settings.text.vocab_size = len(Tokenizer(run.path("spiece.model")))
    encoder = TextEncoder(settings.text).to(DEVICE)
    encoder.load_state_dict(run.load("text.pt"))
    return encoder
