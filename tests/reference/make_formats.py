"""Writes the small files in tests/data/formats that the tests of the readers compare with.

Needs safetensors, numpy and torch: python tests/reference/make_formats.py
"""
import json
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "formats"


def safetensors():
    types = {
        "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "I16": torch.int16,
        "I32": torch.int32, "I64": torch.int64, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32,
        "U64": torch.uint64, "BOOL": torch.bool,
    }
    tensors = {}
    for i, (name, dtype) in enumerate(types.items()):
        tensors["type." + name] = (torch.arange(6, dtype=torch.float64).reshape(2, 3) * (i + 1) % 2 ** (i % 3)).to(dtype)
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.zeros(0, 4)
    tensors["ramp"] = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    save_file(tensors, OUT / "all_types.safetensors", metadata={"format": "pt", "note": "ä"})


def sharded():
    folder = OUT / "sharded"
    folder.mkdir(exist_ok=True)
    shards = [{"a.weight": torch.full((2, 2), 1.0), "b.weight": torch.full((3,), 2.0)},
              {"c.weight": torch.full((4,), 3.0, dtype=torch.bfloat16)}]
    names = ["diffusion_pytorch_model-0000%d-of-00002.safetensors" % (i + 1) for i in range(2)]
    for name, tensors in zip(names, shards):
        save_file(tensors, folder / name)
    index = {"metadata": {"total_size": 36},
             "weight_map": {key: name for name, tensors in zip(names, shards) for key in tensors}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index, indent=1))


OUT.mkdir(parents=True, exist_ok=True)
safetensors()
sharded()
