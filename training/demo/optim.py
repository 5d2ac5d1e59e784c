"""Muon for the matrices inside the blocks, AdamW for everything else, under one learning-rate schedule."""
import torch


def orthogonal(m):
    """The nearest semi-orthogonal matrices to m [n, rows, columns], roughly: Newton-Schulz, quintic (Jordan et al., 2024)."""
    x = m.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Parameters of one shape are updated together; a convolution counts as a matrix with a row for each output. The update has
    the size that AdamW's would have (Liu et al., 2025)."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        groups = {}
        for p in params:
            groups.setdefault(tuple(p.shape), []).append(p)
        super().__init__([{"params": g} for g in groups.values()], dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = group["params"]
            state = self.state[params[0]]
            grad = torch.stack([p.grad.float() for p in params]).flatten(2)
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(grad)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            update = orthogonal(torch.lerp(grad, state["momentum"], group["momentum"])).float()
            update *= 0.2 * max(grad.shape[1:]) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, list(update.view(-1, *params[0].shape).unbind(0)), alpha=-group["lr"])


class Optimizers:
    """Several optimisers whose learning rates follow one factor."""

    def __init__(self, *optimizers):
        self.all = optimizers
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]

    def step(self, factor):
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.all, states):
            optimizer.load_state_dict(state)


class Average:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module, decay):
        self.source, self.decay, self.count = list(module.parameters()), decay, 0
        self.values = [p.detach().clone() for p in self.source]

    @torch.no_grad()
    def update(self):
        self.count += 1
        torch._foreach_lerp_(self.values, [p.detach() for p in self.source], 1 - min(self.decay, self.count / (self.count + 9)))

    @torch.no_grad()
    def copy_to(self, module):
        for p, value in zip(module.parameters(), self.values):
            p.copy_(value)

    def state_dict(self):
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
        for mine, value in zip(self.values, state["values"]):
            mine.copy_(value)
