"""Small things that the training stages share: the run's folder, its log, checkpoints that survive an interruption."""
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch._dynamo

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.benchmark = True
torch._dynamo.config.recompile_limit = 64  # the VAE's one compiled function sees many shapes


def autocast():
    return torch.autocast("cuda", torch.bfloat16) if DEVICE == "cuda" else nullcontext()


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Run:
    """A folder with log.jsonl and one checkpoint file for each stage."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, **fields):
        fields = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        line = json.dumps({"time": time.strftime("%H:%M:%S"), **fields})
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def path(self, name):
        return self.folder / name

    def save(self, name, state):
        temporary = self.folder / (name + ".part")
        torch.save(state, temporary)
        os.replace(temporary, self.folder / name)

    def load(self, name):
        path = self.folder / name
        return torch.load(path, map_location=DEVICE, weights_only=False) if path.exists() else None


class Clock:
    """Progress of a stage that has a time budget: seconds spent in earlier tries count."""

    def __init__(self, budget, spent=0.0):
        self.budget, self.start = budget, time.monotonic() - spent

    @property
    def spent(self):
        return time.monotonic() - self.start

    @property
    def progress(self):
        return min(1.0, self.spent / self.budget)


def learning_rate(progress, step, warmup, hold):
    """Factor of the peak rate: a linear start, constant until `hold` of the stage, then straight down to zero."""
    return min(1.0, (step + 1) / warmup, max(0.0, (1 - progress) / (1 - hold)))


def main_guard(function):
    try:
        function()
    except KeyboardInterrupt:
        sys.exit(130)
