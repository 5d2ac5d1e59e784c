"""Stage "vae": train the video autoencoder on clips rendered as it goes."""
import math

import numpy as np
import torch
import torch.nn.functional as F

from common import DEVICE, Clock, autocast, learning_rate, synchronize
from model.vae import Vae
from optim import Average, Muon, Optimizers
from world import motion, render

KL_WEIGHT = 1e-4


class Pool:
    """Rendered clips to draw crops from; some are replaced at every step. Crops lie mostly where solids are."""

    def __init__(self, count, seed):
        self.rng, self.count, self.next = np.random.default_rng(seed), count, 0
        self.empty = render.empty_pictures().to(DEVICE)
        self.clips, self.weights = None, None
        parts = [self._make(min(256, count - start)) for start in range(0, count, 256)]
        self.clips, self.weights = (torch.cat([p[i] for p in parts]) for i in range(2))

    def _make(self, n):
        scenes = motion.draw_scenes(n, self.rng, pairs=0.5)
        clips = render.render(scenes)
        empty = self.empty[torch.from_numpy(scenes["floor"] * 4 + scenes["backdrop"]).to(DEVICE)]
        busy = (clips[:, ::4].float() - empty[:, None].float()).abs().mean((1, 4)) / 255
        cells = F.avg_pool2d(busy.unsqueeze(1), 8).flatten(1)
        return clips, cells.clamp(max=0.2) + 0.004

    def refresh(self, n):
        clips, weights = self._make(n)
        rows = (self.next + torch.arange(n)) % self.count
        self.clips[rows], self.weights[rows] = clips, weights
        self.next = (self.next + n) % self.count

    def draw(self, batch, size):
        """Videos [batch, 3, frames, size, size] in -1..1."""
        rows = torch.randint(0, self.count, (batch,), device=DEVICE)
        side = motion.SIZE
        if size == side:
            return to_video(self.clips[rows])
        cell = torch.multinomial(self.weights[rows], 1)
        span = torch.arange(size, device=DEVICE)
        y, x = ((part * 8 + torch.randint(-16, 24, (batch, 1), device=DEVICE) - size // 2).clamp(0, side - size) + span
                for part in (cell // 16, cell % 16))
        frame = torch.arange(self.clips.shape[1], device=DEVICE).view(1, -1, 1, 1)
        return to_video(self.clips[rows.view(-1, 1, 1, 1), frame, y.view(batch, 1, -1, 1), x.view(batch, 1, 1, -1)])


def to_video(clips):
    """uint8 [batch, frames, h, w, 3] -> float [batch, 3, frames, h, w] in -1..1."""
    return clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def to_frames(video):
    """The way back."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


def loss_of(vae, video):
    mean, log_variance = vae.posterior(video)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    error = vae.reconstruct(z) - video
    edges = sum((error.narrow(d, 1, error.shape[d] - 1) - error.narrow(d, 0, error.shape[d] - 1)).abs().mean() for d in (2, 3, 4))
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    mse = error.square().mean()
    return 0.5 * error.abs().mean() + 4 * mse + 0.4 * edges + KL_WEIGHT * kl, mse, kl


@torch.no_grad()
def psnr(vae, clips=32, seed=991):
    """Mean PSNR over unseen clips (decoded pictures rounded to bytes, as they are shown)."""
    frames = render.render(motion.draw_scenes(clips, np.random.default_rng(seed))).to(DEVICE)
    values = []
    for part in frames.split(4):
        video = to_video(part)
        with autocast():
            out = vae.decode(vae.encode(video))
        mse = (to_frames(out).float() - part.float()).square().mean((1, 2, 3, 4)) / 255 ** 2
        values += (-10 * mse.log10()).tolist()
    return float(np.mean(values)), float(np.min(values))


def statistics(vae, clips=256, seed=992):
    """Set the latents' mean and standard deviation for each channel."""
    frames = render.render(motion.draw_scenes(clips, np.random.default_rng(seed))).to(DEVICE)
    with torch.no_grad(), autocast():
        z = torch.cat([vae.posterior(to_video(part))[0] for part in frames.split(8)])
        noise = torch.exp(0.5 * vae.posterior(to_video(frames[:8]))[1]).mean((0, 2, 3, 4))
    vae.mean.copy_(z.mean((0, 2, 3, 4)))
    vae.std.copy_(z.std((0, 2, 3, 4)))
    return (noise / vae.std).mean().item()


def make_optimizers(vae, muon_rate, rate):
    outer = ("conv_in", "conv_out", "quant_conv")
    inner = [p for name, p in vae.named_parameters() if p.ndim > 3 and min(p.shape[:2]) > 1 and not any(o in name for o in outer)]
    taken = {id(p) for p in inner}
    rest = [p for p in vae.parameters() if id(p) not in taken]
    adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=DEVICE == "cuda")
    return Optimizers(Muon(inner, lr=muon_rate, weight_decay=0.01), adam)


def train(run, settings, budget, pool=2048, batch=32, full_batch=8, crop=64, full_from=0.6, muon_rate=2e-3, rate=1e-3, unseen=256):
    torch.manual_seed(1)
    vae = Vae(settings.vae).to(DEVICE)
    done = run.load("vae.pt")
    average = Average(vae, 0.998)
    optimizers = make_optimizers(vae, muon_rate, rate)
    step = 0
    if done:
        vae.load_state_dict(done["vae"])
        average.load_state_dict(done["average"])
        optimizers.load_state_dict(done["optimizers"])
        step = done["step"]

    def save():
        run.save("vae.pt", {"vae": vae.state_dict(), "average": average.state_dict(), "optimizers": optimizers.state_dict(),
                            "step": step, "spent": clock.spent})

    data = Pool(pool, 1000 + step)
    clock = Clock(budget, done["spent"] if done else 0.0)
    saved = clock.spent
    while clock.progress < 1:
        full = clock.progress > full_from
        video = data.draw(full_batch if full else batch, motion.SIZE if full else crop)
        with autocast():
            loss, mse, kl = loss_of(vae, video)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 0.5)
        factor = learning_rate(clock.progress, step, 100, 0.5)
        optimizers.step(factor)
        average.update()
        if step % 8 == 0:
            data.refresh(min(32, pool // 2))
        step += 1
        if step % 100 == 0 or step == 20:
            run.log(stage="vae", step=step, seconds=clock.spent, loss=loss.item(), psnr=-10 * math.log10(mse.item() / 4),
                    kl=kl.item(), rate=factor, norm=float(norm))
        if clock.spent - saved > 60:
            saved = clock.spent
            save()
        if step % 10 == 0:
            synchronize()
    save()
    finished = Vae(settings.vae).to(DEVICE)
    average.copy_to(finished)
    noise = statistics(finished, unseen)
    mean, least = psnr(finished, min(unseen, 64))
    run.log(stage="vae", step=step, seconds=clock.spent, unseen_psnr=mean, least_psnr=least, noise=noise)
    keep(run, finished)


def keep(run, vae):
    run.save("vae_final.pt", {"vae": vae.state_dict(), "mean": vae.mean, "std": vae.std})


def load(run, settings):
    state = run.load("vae_final.pt")
    vae = Vae(settings.vae).to(DEVICE).eval()
    vae.load_state_dict(state["vae"])
    vae.mean.copy_(state["mean"])
    vae.std.copy_(state["std"])
    return vae
