"""The sampler: UniPC (second order, bh2) on flow-matching sigmas, as UniPCMultistepScheduler runs it, and guidance."""
import numpy as np
import torch


def flow_sigmas(steps, shift):
    """(sigmas [steps + 1], integer timesteps [steps]) of the scheduler with use_flow_sigmas."""
    sigmas = np.linspace(1, 1 / 1000, steps + 1)[:-1]
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6
    timesteps = (sigmas * 1000).astype(np.int64)
    return np.append(sigmas, 0.0).astype(np.float32), timesteps


class UniPC:
    """One state for a batch of equally long trajectories."""

    def __init__(self, sigmas):
        self.sigmas = [float(s) for s in sigmas]
        self.steps = len(sigmas) - 1
        self.outputs, self.last, self.order = [], None, 1

    def _lambda(self, i):
        sigma = self.sigmas[i]
        return np.inf if sigma == 0 else np.log(1 - sigma) - np.log(sigma)

    def _update(self, x, i, j, order, model, previous, current=None):
        """From sigma i to sigma j with the clean estimate `model` at i; `current`, the estimate at j, makes it the corrector."""
        h = self._lambda(j) - self._lambda(i)
        b = float(np.expm1(-h))  # also B(h) of the bh2 variant
        alpha = 1 - self.sigmas[j]
        base = self.sigmas[j] / self.sigmas[i] * x - alpha * b * model
        ratios, differences = [], []
        if order == 2:
            ratio = (self._lambda(i - 1) - self._lambda(i)) / h
            ratios.append(ratio)
            differences.append((previous - model) / ratio)
        if current is not None:
            ratios.append(1.0)
        # Solve for the weights of the differences: rows are powers of the ratios, see the UniPC paper (Zhao et al., 2023).
        phi = b / -h - 1 if np.isfinite(h) else 0.0
        rights, factorial = [], 1.0
        for k in range(1, len(ratios) + 1):
            rights.append(phi * factorial / b)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial if np.isfinite(h) else 0.0
        if current is None:
            weights = [0.5] if order == 2 else []
        elif order == 1:
            weights = [0.5]
        else:
            weights = np.linalg.solve(np.array([[r ** k for r in ratios] for k in range(len(ratios))]), np.array(rights)).tolist()
        total = 0.0
        for weight, difference in zip(weights, differences):
            total = total + weight * difference
        if current is not None:
            total = total + weights[-1] * (current - model)
        return base - alpha * b * total if ratios else base

    def step(self, i, velocity, x):
        """The sample at sigma i + 1 from the network's velocity at sigma i."""
        estimate = x - self.sigmas[i] * velocity
        if i > 0:
            previous = self.outputs[-2] if len(self.outputs) > 1 else None
            x = self._update(self.last, i - 1, i, self.order, self.outputs[-1], previous, estimate)
        self.outputs = (self.outputs + [estimate])[-2:]
        self.order = min(2, self.steps - i, i + 1)
        self.last = x
        previous = self.outputs[0] if len(self.outputs) > 1 else None
        return self._update(x, i, i + 1, self.order, estimate, previous)


@torch.no_grad()
def sample(denoiser, text, empty, noise, steps, shift, guidance, first=None):
    """Latents from noise [batch, c, t, h, w]. text and empty: encoded prompts [batch, rows, dim]. first: latents of a first frame
    [batch, c, 1, h, w] for image-to-video."""
    sigmas, timesteps = flow_sigmas(steps, shift)
    solver, x = UniPC(sigmas), noise.float()
    both = torch.cat((text, empty)) if guidance > 1 else text
    for i, timestep in enumerate(timesteps):
        t = torch.full((x.shape[0], x.shape[2]), float(timestep), device=x.device)
        y = x
        if first is not None:
            y = torch.cat((first, x[:, :, 1:]), 2)
            t[:, 0] = 0
        if guidance > 1:
            v, u = denoiser(torch.cat((y, y)), torch.cat((t, t)), both).float().chunk(2)
            v = u + guidance * (v - u)
        else:
            v = denoiser(y, t, both).float()
        x = solver.step(i, v, x)
    return x if first is None else torch.cat((first, x[:, :, 1:]), 2)
