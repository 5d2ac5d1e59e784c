"""The language that the renderer is written in.

scene.py is written once, in the part of Triton's language that is plain arithmetic. On a machine with a CUDA device it is
compiled by Triton; elsewhere `tl` is this small stand-in, which does the same with torch tensors, so that everything can be
tested without a GPU. ZOE_WORLD=torch forces the stand-in, ZOE_WORLD=triton the kernel.
"""
import os

import torch

ON_GPU = os.environ.get("ZOE_WORLD", "triton" if torch.cuda.is_available() else "torch") == "triton"


class _Torch:
    """The few functions of triton.language that scene.py uses, on torch tensors and Python numbers."""

    sqrt, sin, cos, exp, floor, where = torch.sqrt, torch.sin, torch.cos, torch.exp, torch.floor, torch.where
    abs = torch.abs

    @staticmethod
    def maximum(a, b):
        if not torch.is_tensor(a):
            a, b = b, a
        return torch.maximum(a, b) if torch.is_tensor(b) else torch.clamp(a, min=b)

    @staticmethod
    def minimum(a, b):
        if not torch.is_tensor(a):
            a, b = b, a
        return torch.minimum(a, b) if torch.is_tensor(b) else torch.clamp(a, max=b)

    @staticmethod
    def max(a):
        return torch.max(a)


if ON_GPU:
    import triton
    import triton.language as tl

    jit = triton.jit
else:
    tl = _Torch

    def jit(function):
        return function
