"""A Wan folder of published shapes with random bf16 weights, to measure memory and speed where the real one is not at hand.

usage: random_model.py OUT [DENOISER [VAE]]     names of folders in tests/data/manifests
The text encoder has the published width but one small layer, so that the folder stays near the size of its denoiser.
"""
import json
import pathlib
import random
import re
import shutil
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASE = ROOT / "tests/data/cases/wan21_t2v/model"
MANIFESTS = ROOT / "tests/data/manifests"


def block(scale, centre, count=1 << 20):
    """Bytes of `count` bf16 numbers, to be repeated."""
    rng = random.Random(1)
    out = bytearray()
    for _ in range(count):
        out += struct.pack("<f", centre + scale * rng.uniform(-1, 1))[2:]
    return bytes(out)


SMALL, NEAR_ONE = block(0.03, 0), block(0.03, 1, 1 << 16)


def write(path, tensors, holes=False):
    """`holes`: a file as large, with nothing in it."""
    header, at = {}, 0
    for name, shape in tensors:
        size = 2
        for axis in shape:
            size *= axis
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if holes:
            file.truncate(8 + len(text) + at)
            return
        for name, shape in tensors:
            size = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
            source = NEAR_ONE if "norm" in name else SMALL
            while size > 0:
                size -= file.write(source[: min(size, len(source))])


def expand(name):
    """Names that "blocks.{0-29}.x" stands for."""
    found = re.search(r"\{(\d+)-(\d+)\}", name)
    if not found:
        return [name]
    first, last = int(found[1]), int(found[2])
    return [rest for i in range(first, last + 1) for rest in expand(name[: found.start()] + str(i) + name[found.end() :])]


def manifest(name):
    rows = (line.split("\t") for line in (MANIFESTS / name / "tensors.tsv").read_text().splitlines())
    return [(full, [int(axis) for axis in row[1].split("x")]) for row in rows for full in expand(row[0])]


def text_encoder(out, width):
    config = json.loads((CASE / "text_encoder/config.json").read_text())
    config.update(d_model=width, num_layers=1)
    inner, heads, ffn = config["num_heads"] * config["d_kv"], config["num_heads"], config["d_ff"]
    at = "encoder.block.0.layer."
    tensors = [("shared.weight", [config["vocab_size"], width]), ("encoder.final_layer_norm.weight", [width])]
    tensors += [(at + "0.SelfAttention.%s.weight" % k, [inner, width]) for k in "qkv"]
    tensors += [(at + "0.SelfAttention.o.weight", [width, inner]), (at + "0.layer_norm.weight", [width]),
                (at + "0.SelfAttention.relative_attention_bias.weight", [32, heads]), (at + "1.layer_norm.weight", [width]),
                (at + "1.DenseReluDense.wi_0.weight", [ffn, width]), (at + "1.DenseReluDense.wi_1.weight", [ffn, width]),
                (at + "1.DenseReluDense.wo.weight", [width, ffn])]
    write(out / "model.safetensors", tensors)
    (out / "config.json").write_text(json.dumps(config))


def main():
    out = pathlib.Path(sys.argv[1])
    denoiser = sys.argv[2] if len(sys.argv) > 2 else "wan2.1-t2v-1.3b"
    vae = sys.argv[3] if len(sys.argv) > 3 else "wan2.1-vae"
    out.mkdir(parents=True, exist_ok=True)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(CASE / part, out / part, dirs_exist_ok=True)
    shutil.copy(CASE / "model_index.json", out)
    for part, name in (("transformer", denoiser), ("vae", vae)):
        write(out / part / "diffusion_pytorch_model.safetensors", manifest(name))
        shutil.copy(MANIFESTS / name / "config.json", out / part)
    text_encoder(out / "text_encoder", json.loads((MANIFESTS / denoiser / "config.json").read_text())["text_dim"])
    print(out)


if __name__ == "__main__":
    main()
