"""Writes tensors.tsv beside the config.json of every CogVideoX and LTX-Video network in tests/data/manifests.

Name and shape of every stored tensor; "{0-29}" in a row stands for each of these numbers. The lists come from the reference
classes, built without weights.
"""
import json
import pathlib
import re

import diffusers
import diffusers.pipelines.ltx
import torch

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "manifests"


def rows(network):
    grouped = {}
    for name, tensor in network.state_dict().items():
        shape = "x".join(map(str, tensor.shape))
        block = re.match(r"(\w*blocks)\.(\d+)\.", name)
        key = (name.replace(f".{block[2]}.", ".#.", 1) if block else name, shape)
        grouped.setdefault(key, []).append(int(block[2]) if block else None)
    for (name, shape), numbers in grouped.items():
        if numbers[0] is not None:
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            name = name.replace("#", "{%d-%d}" % (numbers[0], numbers[-1]))
        yield f"{name}\t{shape}"


for path in sorted(FOLDER.glob("*/config.json")):
    if not path.parent.name.startswith(("cogvideox", "ltx")):
        continue
    config = json.loads(path.read_text())
    name = config.pop("_class_name")
    kind = getattr(diffusers, name, None) or getattr(diffusers.pipelines.ltx, name)
    with torch.device("meta"):
        network = kind(**{key: value for key, value in config.items() if key[0] != "_"})
    (path.parent / "tensors.tsv").write_text("\n".join(rows(network)) + "\n")
