"""Stage "denoiser": text encoder and denoiser together, by flow matching on the prepared latents."""
import numpy as np
import torch

from common import DEVICE, Clock, autocast, learning_rate
from config import TOKENS
from model.denoiser import Denoiser
from model.text import TextEncoder, Tokenizer
from optim import Average, Muon, Optimizers

DROPPED, WITH_FIRST = 0.12, 0.35  # shares of samples: empty prompt, first frame given
TEXT_RATE = 0.2                   # of the others' rate: the encoder knows its trade already
COMPOSED = 0.9                    # noise level under which it can be seen what is where


class Generator(torch.nn.Module):
    """Text encoder and denoiser as one module."""

    def __init__(self, settings):
        super().__init__()
        self.text, self.denoiser = TextEncoder(settings.text), Denoiser(settings.denoiser)

    def encode(self, tokenizer, prompts):
        return self.text(tokenizer.ids(prompts, TOKENS).to(next(self.parameters()).device))


def draw_sigma(count, shift):
    """Noise levels: logit-normal with a fifth uniform, then shifted as the sampler's are; spread evenly over the batch."""
    even = (torch.rand(count, device=DEVICE).argsort() + torch.rand(count, device=DEVICE)) / count
    normal = torch.sigmoid(torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)))
    u = torch.where(torch.rand(count, device=DEVICE) < 0.2, torch.rand(count, device=DEVICE), normal)
    return shift * u / (1 + (shift - 1) * u)


def loss_of(generator, latents, ids, shift, composing):
    """Mean squared error of the velocity (noise - latents); a first frame that is given takes no part. A share `composing` of the
    batch trains the noise levels from COMPOSED up alone, without a first frame: what is where is settled there."""
    count, frames = latents.shape[0], latents.shape[2]
    empty = (torch.arange(ids.shape[1], device=DEVICE) == 0).long()
    ids = torch.where(torch.rand(count, 1, device=DEVICE) < DROPPED, empty, ids)
    free = torch.ones(count, frames, device=DEVICE)
    compose = torch.rand(count, device=DEVICE) < composing
    free[:, 0] = ((torch.rand(count, device=DEVICE) >= WITH_FIRST) | compose).float()
    sigma = torch.where(compose, COMPOSED + (1 - COMPOSED) * torch.rand(count, device=DEVICE), draw_sigma(count, shift))
    sigma = sigma[:, None] * free
    noise = torch.randn_like(latents)
    s = sigma[:, None, :, None, None]
    with autocast():
        velocity = generator.denoiser((1 - s) * latents + s * noise, sigma * 1000, generator.text(ids))
    error = (velocity.float() - (noise - latents)).square().mean((1, 3, 4))
    return (error * free).sum() / free.sum()


def make_optimizers(generator, muon_rate, rate):
    matrices = [p for name, p in generator.denoiser.blocks.named_parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in generator.denoiser.parameters() if id(p) not in taken]
    groups = [{"params": rest}, {"params": list(generator.text.parameters()), "lr": TEXT_RATE * rate}]
    adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=DEVICE == "cuda")
    return Optimizers(Muon(matrices, lr=muon_rate, weight_decay=0.02), adam)


def train(run, settings, budget, latents=None, batch=256, muon_rate=2e-3, rate=1e-3, compiled=True, hold=0.55, until=None,
          start=None, composing=0.0):
    """`latents`: the data set, else read from latents.pt. `until`: stop, with a checkpoint, after this many seconds of the budget.
    `start`: (text encoder, denoiser) to go on from; a denoiser of None is a new one.
    `composing`: see loss_of()."""
    torch.manual_seed(2)
    settings.text.vocab_size = len(Tokenizer(run.path("spiece.model")))
    generator = Generator(settings).to(DEVICE)
    if start:
        generator.text.load_state_dict(start[0].state_dict())
        if start[1] is not None:
            generator.denoiser.load_state_dict(start[1].state_dict())
    latents = run.load("latents.pt").to(DEVICE) if latents is None else latents
    captions = torch.from_numpy(np.load(run.path("captions.npy"))).to(DEVICE)
    average, optimizers = Average(generator, 0.999), make_optimizers(generator, muon_rate, rate)
    step = 0
    done = run.load("denoiser.pt")
    if done:
        generator.load_state_dict(done["generator"])
        average.load_state_dict(done["average"])
        optimizers.load_state_dict(done["optimizers"])
        step = done["step"]
        torch.manual_seed(1000 + step)
    if compiled:
        for block in [*generator.denoiser.blocks, *generator.text.encoder.block]:
            block.compile()
    clock = Clock(budget, done["spent"] if done else 0.0)

    def save():
        run.save("denoiser.pt", {"generator": generator.state_dict(), "average": average.state_dict(),
                                 "optimizers": optimizers.state_dict(), "step": step, "spent": clock.spent})
        finished = Generator(settings).to(DEVICE)
        average.copy_to(finished)
        run.save("denoiser_final.pt", {"generator": finished.state_dict(), "steps": step, "spent": clock.spent})

    total, saved = torch.zeros((), device=DEVICE), clock.spent
    while clock.progress < 1 and not (until and clock.spent > until):
        rows = torch.randint(0, len(latents), (batch,), device=DEVICE)
        ids = captions[rows, torch.randint(0, captions.shape[1], (batch,), device=DEVICE)].long()
        loss = loss_of(generator, latents[rows].float(), ids, settings.flow_shift, composing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        factor = learning_rate(clock.progress, step, 300, hold)
        optimizers.step(factor)
        average.update()
        total += loss.detach()
        step += 1
        if step % 100 == 0:
            run.log(stage="denoiser", step=step, seconds=clock.spent, loss=total.item() / 100, rate=factor)
            total.zero_()
        if clock.spent - saved > 90:
            saved = clock.spent
            save()
    save()
    run.log(stage="denoiser", step=step, seconds=clock.spent, samples=step * batch)


def load(run, settings):
    settings.text.vocab_size = len(Tokenizer(run.path("spiece.model")))
    generator = Generator(settings).to(DEVICE).eval()
    generator.load_state_dict(run.load("denoiser_final.pt")["generator"])
    return generator
