"""Writes the small files in tests/data/formats that the tests of the readers compare with.

Needs safetensors, numpy and torch: python tests/reference/make_formats.py
"""
import collections
import json
import pathlib
import zipfile

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


def pth():
    ramp = torch.arange(24, dtype=torch.float32)
    tensors = {
        "ramp": ramp.reshape(2, 3, 4), "tail": ramp[20:], "bf16": torch.tensor([1.5, -2.0]).bfloat16(),
        "half": torch.tensor([[0.25]]).half(), "parameter": torch.nn.Parameter(torch.full((2, 2), 7.0)),
        "long": torch.tensor([-1, 2 ** 40]), "bool": torch.tensor([True, False]), "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3), "byte": torch.tensor([1, 2, 255], dtype=torch.uint8), "double": torch.tensor([0.1]).double(),
        "column": ramp.reshape(24, 1).t().t(),
    }
    torch.save({**tensors, "epoch": 3, "name": "x", "rate": 0.1, "none": None, "list": [1, 2]}, OUT / "plain.pth")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    torch.save(model.state_dict(), OUT / "ordered.pth")
    torch.save(collections.OrderedDict(("module." + k, v) for k, v in model.state_dict().items()), OUT / "wrapped.pth")
    torch.save({"module": model.state_dict(), "shapes": [ramp.shape], "names": {"a", "b"}, "x": ramp}, OUT / "training.pth")
    torch.save({"x": ramp.reshape(4, 6).t()}, OUT / "strided.pth")
    torch.save({"x": model}, OUT / "object.pth")
    torch.save(ramp, OUT / "alone.pth")
    torch.save({"x": ramp}, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(OUT / "plain.pth") as source:
        with zipfile.ZipFile(OUT / "compressed.pth", "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
        with zipfile.ZipFile(OUT / "zip64.pth", "w") as target:
            for name in source.namelist():
                with target.open(name, "w", force_zip64=True) as entry:
                    entry.write(source.read(name))
    pickles = {"evil": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
               "code": b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
               "outside": b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
                          b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00K\x03\x85K\x01\x85\x89NtRs."}
    for name, data in pickles.items():
        with zipfile.ZipFile(OUT / (name + ".pth"), "w") as target:
            target.writestr(name + "/data.pkl", data)
            target.writestr(name + "/data/0", b"\0" * 8)


OUT.mkdir(parents=True, exist_ok=True)
safetensors()
sharded()
pth()
