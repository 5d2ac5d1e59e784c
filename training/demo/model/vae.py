"""The Wan 2.1 VAE as one pass over the whole sequence, with the parameter names of AutoencoderKLWan.

The published code runs chunk by chunk and carries frames between chunks. That is the same as plain causal convolutions over
the whole sequence, except where time is halved or doubled: there the first frame goes its own way. Frames travel through the
network as pictures [batch * frames, channels, height, width] in channels-last memory.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


def norm_silu(x, gamma):
    y = x.float()
    y = y * torch.rsqrt(y.square().sum(1, keepdim=True).clamp(min=1e-24)) * (x.shape[1] ** 0.5) * gamma.view(1, -1, 1, 1)
    return (y * torch.sigmoid(y)).to(x.dtype)


_fused = {}


def fused_norm_silu(x, gamma):
    """norm_silu; on a GPU compiled into one kernel for each direction."""
    if not x.is_cuda:
        return norm_silu(x, gamma)
    if "norm_silu" not in _fused:
        _fused["norm_silu"] = torch.compile(norm_silu, dynamic=True)
    return _fused["norm_silu"](x, gamma)


class Norm(nn.Module):
    def __init__(self, dim, pictures=False):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, 1, 1) if pictures else torch.ones(dim, 1, 1, 1))


def history(x, frames, count):
    """[b*t, c, h, w] -> [b, t + count, c, h, w] with `count` zero frames in front, channels last in memory."""
    x = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))
    return F.pad(x, (0, 0, 0, 0, 0, 0, count, 0)).permute(0, 1, 4, 2, 3)


class CausalConv(nn.Conv3d):
    """3-D convolution that sees this frame and those before it."""

    def forward(self, x, frames):
        taps = self.kernel_size[0]
        if taps == 1:
            return F.conv2d(x, self.weight[:, :, 0], self.bias)
        padded = history(x, frames, taps - 1)
        return self.volume(padded, frames) if x.is_cuda else self.stacked(padded, frames)

    def volume(self, padded, frames):
        """As one 3-D convolution: the faster way on a GPU. The transposed frames are a volume in channels-last memory."""
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)
        y = F.conv3d(padded.transpose(1, 2), weight, self.bias, padding=(0,) + self.padding[1:])
        return y.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)

    def stacked(self, padded, frames):
        """As a 2-D convolution over frames stacked as channels: the faster way on a CPU."""
        taps = self.kernel_size[0]
        x = torch.cat([padded[:, i:i + frames] for i in range(taps)], 2).flatten(0, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight.transpose(1, 2).flatten(1, 2), self.bias, padding=self.padding[1:])


def causal(into, out, kernel):
    return CausalConv(into, out, kernel, padding=tuple(k // 2 for k in kernel))


class ResBlock(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.conv1 = Norm(into), causal(into, out, (3, 3, 3))
        self.norm2, self.conv2 = Norm(out), causal(out, out, (3, 3, 3))
        self.conv_shortcut = causal(into, out, (1, 1, 1)) if into != out else None

    def forward(self, x, frames):
        y = self.conv1(fused_norm_silu(x, self.norm1.gamma), frames)
        y = self.conv2(fused_norm_silu(y, self.norm2.gamma), frames)
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x, frames))


class PictureAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = Norm(dim, pictures=True)
        self.to_qkv, self.proj = nn.Conv2d(dim, 3 * dim, 1), nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        y = x.float()
        y = y * torch.rsqrt(y.square().sum(1, keepdim=True).clamp(min=1e-24)) * (c ** 0.5) * self.norm.gamma
        q, k, v = self.to_qkv(y.to(x.dtype)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, -1)
        y = F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())
        return x + self.proj(y.squeeze(1).transpose(1, 2).reshape(n, c, h, w))


class Middle(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(dim, dim), ResBlock(dim, dim)])
        self.attentions = nn.ModuleList([PictureAttention(dim)])

    def forward(self, x, frames):
        return self.resnets[1](self.attentions[0](self.resnets[0](x, frames)), frames)


class Down(nn.Module):
    """Half the height and width; with `time`, frames 2j-2, 2j-1, 2j become frame j, and frame 0 stays."""

    def __init__(self, dim, time):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = CausalConv(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if time else None

    def forward(self, x, frames):
        x = self.resample[1](F.pad(x, (0, 1, 0, 1)))
        if self.time_conv is None:
            return x, frames
        x = x.unflatten(0, (-1, frames))
        stacked = torch.cat((x[:, 0:-2:2], x[:, 1:-1:2], x[:, 2::2]), 2)
        y = F.conv2d(stacked.flatten(0, 1), self.time_conv.weight.transpose(1, 2).flatten(1, 2)[..., 0:1], self.time_conv.bias)
        y = torch.cat((x[:, :1], y.unflatten(0, (x.shape[0], -1))), 1)
        return y.flatten(0, 1).contiguous(memory_format=torch.channels_last), y.shape[1]


class Up(nn.Module):
    """Twice the height and width; with `time`, every frame but the first becomes two."""

    def __init__(self, dim, out, time):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(dim, out, 3, padding=1))
        self.time_conv = causal(dim, 2 * dim, (3, 1, 1)) if time else None

    def forward(self, x, frames):
        if self.time_conv is not None and frames > 1:
            x = x.unflatten(0, (-1, frames))
            first, rest = x[:, :1], x[:, 1:]
            y = self.time_conv(rest.flatten(0, 1).contiguous(memory_format=torch.channels_last), frames - 1)
            y = y.unflatten(0, (-1, frames - 1)).unflatten(2, (2, -1)).flatten(1, 2)
            x = torch.cat((first, y), 1)
            frames = x.shape[1]
            x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.resample[1](x), frames


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        dims = [c.base_dim] + [c.base_dim * m for m in c.dim_mult]
        self.conv_in = causal(3, dims[0], (3, 3, 3))
        blocks = []
        for i, (into, out) in enumerate(zip(dims[:-1], dims[1:])):
            for k in range(c.num_res_blocks):
                blocks.append(ResBlock(into if k == 0 else out, out))
            if i < len(c.dim_mult) - 1:
                blocks.append(Down(out, c.temperal_downsample[i]))
        self.down_blocks = nn.ModuleList(blocks)
        self.mid_block = Middle(dims[-1])
        self.norm_out, self.conv_out = Norm(dims[-1]), causal(dims[-1], 2 * c.z_dim, (3, 3, 3))

    def forward(self, x, frames):
        x = self.conv_in(x, frames)
        for block in self.down_blocks:
            if isinstance(block, Down):
                x, frames = block(x, frames)
            else:
                x = block(x, frames)
        x = self.mid_block(x, frames)
        return self.conv_out(fused_norm_silu(x, self.norm_out.gamma), frames), frames


class _UpBlock(nn.Module):
    def __init__(self, into, out, count, upsampler):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(into if k == 0 else out, out) for k in range(count))
        self.upsamplers = nn.ModuleList([upsampler]) if upsampler is not None else None

    def forward(self, x, frames):
        for block in self.resnets:
            x = block(x, frames)
        return self.upsamplers[0](x, frames) if self.upsamplers is not None else (x, frames)


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        mult = c.dim_mult[::-1]
        dims = [c.base_dim * mult[0]] + [c.base_dim * m for m in mult]
        self.conv_in = causal(c.z_dim, dims[0], (3, 3, 3))
        self.mid_block = Middle(dims[0])
        blocks = []
        for i, (into, out) in enumerate(zip(dims[:-1], dims[1:])):
            last = i == len(mult) - 1
            upsampler = None if last else Up(out, out // 2, c.temperal_downsample[::-1][i])
            blocks.append(_UpBlock(into // 2 if i else into, out, c.num_res_blocks + 1, upsampler))
        self.up_blocks = nn.ModuleList(blocks)
        self.norm_out, self.conv_out = Norm(dims[-1]), causal(dims[-1], 3, (3, 3, 3))

    def forward(self, x, frames):
        x = self.mid_block(self.conv_in(x, frames), frames)
        for block in self.up_blocks:
            x, frames = block(x, frames)
        return self.conv_out(fused_norm_silu(x, self.norm_out.gamma), frames), frames


class Vae(nn.Module):
    """Videos are [batch, 3, frames, height, width] in -1..1, latents [batch, z, 1 + (frames - 1) / 4, height / 8, width / 8]."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv, self.post_quant_conv = causal(2 * c.z_dim, 2 * c.z_dim, (1, 1, 1)), causal(c.z_dim, c.z_dim, (1, 1, 1))
        self.register_buffer("mean", torch.zeros(c.z_dim), persistent=False)
        self.register_buffer("std", torch.ones(c.z_dim), persistent=False)

    def posterior(self, video):
        """(mean, log variance), not normalised."""
        frames = video.shape[2]
        x = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x, frames = self.encoder(x, frames)
        x = self.quant_conv(x, frames).unflatten(0, (-1, frames)).transpose(1, 2)
        mean, log_variance = x.float().chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def reconstruct(self, latents):
        """Decode latents that are not normalised; not clamped."""
        frames = latents.shape[2]
        x = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x, frames = self.decoder(self.post_quant_conv(x, frames), frames)
        return x.unflatten(0, (-1, frames)).transpose(1, 2).float()

    def _stat(self, values):
        return values.view(1, -1, 1, 1, 1)

    def encode(self, video):
        """Normalised latents."""
        return (self.posterior(video)[0] - self._stat(self.mean)) / self._stat(self.std)

    def decode(self, latents):
        """Normalised latents to a video in -1..1."""
        return self.reconstruct(latents * self._stat(self.std) + self._stat(self.mean)).clamp(-1, 1)
