"""What PyTorch reaches on this GPU at the shapes of Wan at 832x480, 81 frames, in bf16: the peer of `zoe bench --device cuda`.

usage: peers.py      prints one line a part: time (median), rate
"""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

TOKENS = 32760
PRODUCTS = [(TOKENS, 1536, 1536), (TOKENS, 1536, 8960), (TOKENS, 8960, 1536), (TOKENS, 5120, 5120), (TOKENS, 5120, 13824),
            (TOKENS, 13824, 5120)]
CONVOLUTIONS = [(96, 480, 832), (192, 240, 416), (384, 120, 208), (384, 60, 104)]  # channels, height, width


def draw(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def report(name, run, flops, repeats=5):
    for _ in range(2):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(True), torch.cuda.Event(True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    ms = sorted(times)[repeats // 2]
    print(f"{name}: {ms:.3f} ms, {1e-9 * flops / ms:.0f} TFLOP/s")


def main():
    print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version(), torch.cuda.get_device_name())
    for m, k, n in PRODUCTS:
        x, w, b = draw(m, k), draw(n, k), draw(n)
        report(f"linear {m} x {k} x {n}", lambda: F.linear(x, w, b), 2 * m * k * n)
    for heads in (12, 40):
        q, k, v = (draw(1, TOKENS, heads, 128).transpose(1, 2) for _ in range(3))
        for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention-2", SDPBackend.FLASH_ATTENTION)):
            with sdpa_kernel(backend):
                report(f"attention {heads} heads, {name}", lambda: F.scaled_dot_product_attention(q, k, v),
                       4 * TOKENS**2 * 128 * heads)
    for channels, height, width in CONVOLUTIONS:
        x = draw(1, channels, 3, height + 2, width + 2).to(memory_format=torch.channels_last_3d)
        w = draw(channels, channels, 3, 3, 3).to(memory_format=torch.channels_last_3d)
        report(f"conv 3x3x3, {channels} channels, one frame {height}x{width}", lambda: F.conv3d(x, w),
               2 * 27 * channels**2 * height * width)


main()
