"""A small classifier that names the kind of a solid from cut-out pictures of it; trained on rendered clips only."""
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from judge import Judge
from world import motion, render

FILE = Path(__file__).with_name("kind.safetensors")
SIDE, LOOKS = 32, 8


class KindNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(),
            nn.Linear(64, len(motion.KINDS)))

    def forward(self, x):
        return self.layers(x)


def cut_out(frames, track):
    """Square pictures [looks, 2, SIDE, SIDE] of a tracked solid: its mask, and its brightness inside the mask."""
    seen = (~track.boxes[:, 0].isnan()).nonzero().flatten()
    if len(seen) == 0:
        return torch.zeros(0, 2, SIDE, SIDE)
    at = seen[torch.linspace(0, len(seen) - 1, LOOKS).round().long()]
    grids = []
    for top, bottom, left, right in track.boxes[at].tolist():
        half = 0.58 * max(bottom - top, right - left) / 64
        axis = torch.linspace(-half, half, SIDE)
        y, x = torch.meshgrid(axis + (top + bottom) / 128 - 1, axis + (left + right) / 128 - 1, indexing="ij")
        grids.append(torch.stack((x, y), -1))
    device = track.masks.device
    mask = track.masks[at.to(device)].float()
    light = frames[at.to(frames.device)].to(device).float().amax(-1) / 255 * mask
    pictures = torch.stack((mask, light), 1)
    return F.grid_sample(pictures, torch.stack(grids).to(device), align_corners=False)


class KindJudge:
    def __init__(self, device="cpu"):
        self.net = KindNet().to(device).eval()
        self.net.load_state_dict(load_file(str(FILE)))
        self.device = device

    @torch.no_grad()
    def name(self, frames, track):
        pictures = cut_out(frames, track).to(self.device)
        if len(pictures) == 0:
            return "none"
        return motion.KINDS[int(self.net(pictures).softmax(-1).mean(0).argmax())]


def train(device, clips=2000, steps=1500, seed=77):
    """Train on `clips` rendered clips, slightly blurred and noisy as decoded video is, and write FILE. Returns the accuracy on
    clips kept aside, a solid counted once."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    judge = Judge(device)
    pictures, labels = [], []
    scenes = motion.draw_scenes(clips, rng)
    for start in range(0, clips, 100):
        frames = render.render(motion.select(scenes, slice(start, start + 100)))
        for i in range(len(frames)):
            verdict = judge.look(frames[i])
            solids = int(scenes["solids"][start + i])
            if verdict.count != solids:
                continue
            for k in range(solids):
                colour = motion.COLOURS[scenes["colour"][start + i, k]]
                track = next((t for t in verdict.tracks if t.colour == colour), None)
                if track is not None:
                    pictures.append(cut_out(frames[i], track))
                    labels.append(int(scenes["kind"][start + i, k]))
    x, y = torch.stack(pictures).to(device), torch.tensor(labels, device=device)
    keep = max(1, len(x) // 10)
    net = KindNet().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        row = torch.randint(keep, len(x), (256,), device=device)
        batch = x[row, torch.randint(0, LOOKS, (256,), device=device)]
        if torch.rand(()) < 0.5:
            batch = F.avg_pool2d(batch, 3, 1, 1)
        batch = batch + 0.03 * torch.randn_like(batch)
        loss = F.cross_entropy(net(batch), y[row], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        votes = net(x[:keep].flatten(0, 1)).softmax(-1).view(keep, LOOKS, -1).mean(1)
    save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, str(FILE))
    return float((votes.argmax(-1) == y[:keep]).float().mean())
