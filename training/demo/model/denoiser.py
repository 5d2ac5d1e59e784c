"""The Wan denoiser, lean: the parameter names of WanTransformer3DModel, written for one job.

Two things differ from the general model, neither in what is computed: the time embedding is given for each latent frame (Wan
2.2's per-token timesteps are constant within a frame), and cross-attention sees `TOKENS` rows of which the last, always a
padding row, counts for all the equal rows up to TEXT_ROWS.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from config import TEXT_ROWS


def rotary_table(head_dim, t, h, w):
    """(cos, sin), each float32 [t*h*w, head_dim/2]; pairs of neighbouring channels, split over time, height and width."""
    side = 2 * (head_dim // 6)
    parts = []
    for axis, (size, dim) in enumerate(((t, head_dim - 2 * side), (h, side), (w, side))):
        frequency = 1.0 / 10000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.arange(size, dtype=torch.float64)[:, None] * frequency
        shape = [1, 1, 1, dim // 2]
        shape[axis] = size
        parts.append(angle.view(shape).expand(t, h, w, dim // 2))
    angle = torch.cat(parts, -1).reshape(t * h * w, head_dim // 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """x [batch, heads, tokens, head_dim]; channels 2i and 2i+1 form a pair."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def sinusoid(timestep, dim):
    """[n] -> [n, dim], cosines first."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angle = timestep.float()[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), -1)


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x, context=None, rotary=None, bias=None):
        source = x if context is None else context
        q, k, v = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(source)), self.to_v(source)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.to_out[0](x.transpose(1, 2).flatten(2))


class _Projection(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.proj = nn.Linear(dim, inner)


class FeedForward(nn.Module):
    """Names as in diffusers: net.0.proj, net.2."""

    def __init__(self, dim, inner):
        super().__init__()
        self.net = nn.ModuleList([_Projection(dim, inner), nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, dim, heads, inner):
        super().__init__()
        self.attn1, self.attn2 = Attention(dim, heads), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = FeedForward(dim, inner)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x, text, modulation, cos, sin, bias):
        """x [batch, tokens, dim], modulation [batch, frames, 6, dim] float32; tokens of a frame are neighbours."""
        frames = modulation.shape[1]
        e = [part.unsqueeze(2) for part in (modulation + self.scale_shift_table.unsqueeze(1)).unbind(2)]

        def modulated(y, shift, scale):
            y = F.layer_norm(y.float(), y.shape[-1:], eps=1e-6).unflatten(1, (frames, -1))
            return (y * (1 + scale) + shift).flatten(1, 2).to(x.dtype)

        def gated(y, gate):
            return (y.float().unflatten(1, (frames, -1)) * gate).flatten(1, 2)

        x = (x.float() + gated(self.attn1(modulated(x, e[0], e[1]), rotary=(cos, sin)), e[2])).to(x.dtype)
        y = F.layer_norm(x.float(), x.shape[-1:], self.norm2.weight, self.norm2.bias, 1e-6).to(x.dtype)
        x = x + self.attn2(y, context=text, bias=bias)
        return (x.float() + gated(self.ffn(modulated(x, e[3], e[4])), e[5])).to(x.dtype)


class _Mlp(nn.Module):
    def __init__(self, into, dim, act):
        super().__init__()
        self.linear_1, self.linear_2, self.act = nn.Linear(into, dim), nn.Linear(dim, dim), act

    def forward(self, x):
        return self.linear_2(self.act(self.linear_1(x)))


class ConditionEmbedder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.time_embedder = _Mlp(c.freq_dim, c.dim, F.silu)
        self.time_proj = nn.Linear(c.dim, 6 * c.dim)
        self.text_embedder = _Mlp(c.text_dim, c.dim, lambda x: F.gelu(x, approximate="tanh"))


class Denoiser(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config, dim = c, c.dim
        self.patch_embedding = nn.Conv3d(c.in_channels, dim, (1, 2, 2), (1, 2, 2))
        self.condition_embedder = ConditionEmbedder(c)
        self.blocks = nn.ModuleList(Block(dim, c.num_attention_heads, c.ffn_dim) for _ in range(c.num_layers))
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, dim))
        self.proj_out = nn.Linear(dim, 4 * c.out_channels)
        self.rotary = {}
        self.reset()

    def reset(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        embedder = self.condition_embedder
        for linear in (embedder.time_embedder.linear_1, embedder.time_embedder.linear_2):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.normal_(embedder.time_proj.weight, std=0.002)
        nn.init.zeros_(self.proj_out.weight)
        for block in self.blocks:
            nn.init.zeros_(block.attn2.to_out[0].weight)
            with torch.no_grad():
                block.scale_shift_table[:, 2].fill_(0.1)
                block.scale_shift_table[:, 5].fill_(0.1)

    def forward(self, x, timestep, text):
        """x [batch, channels, t, h, w]; timestep [batch, t], one for each latent frame; text [batch, rows, text_dim] with zero
        rows behind each text, the last of them standing for all rows up to TEXT_ROWS. Returns the velocity, like x."""
        batch, _, t, h, w = x.shape
        h, w, dim = h // 2, w // 2, self.config.dim
        key = (t, h, w, x.device)
        if key not in self.rotary:
            self.rotary[key] = tuple(part.to(x.device) for part in rotary_table(self.config.attention_head_dim, t, h, w))
        cos, sin = self.rotary[key]
        # The patch convolution as a product: its stride is its kernel.
        x = x.view(batch, -1, t, h, 2, w, 2).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        x = F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        with torch.autocast(x.device.type, enabled=False):
            time = self.condition_embedder.time_embedder(sinusoid(timestep.flatten(), self.config.freq_dim))
            modulation = self.condition_embedder.time_proj(F.silu(time)).view(batch, t, 6, dim)
            time = time.view(batch, t, 1, 1, dim)
        text = self.condition_embedder.text_embedder(text)
        rows = text.shape[1]
        bias = torch.zeros(1, 1, 1, rows, device=x.device, dtype=x.dtype)
        bias[..., -1] = math.log(TEXT_ROWS + 1 - rows)
        bias = bias.expand(batch, self.config.num_attention_heads, t * h * w, rows)
        for block in self.blocks:
            x = block(x, text, modulation, cos, sin, bias)
        shift, scale = (self.scale_shift_table[:, i].view(1, 1, 1, 1, dim) + time for i in range(2))
        x = F.layer_norm(x.float(), (dim,), eps=1e-6).view(batch, t, h, w, dim)
        x = self.proj_out((x * (1 + scale[..., 0, :].unsqueeze(3)) + shift[..., 0, :].unsqueeze(3)).to(text.dtype))
        x = x.view(batch, t, h, w, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(batch, -1, t, 2 * h, 2 * w)
