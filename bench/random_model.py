"""A folder of published shapes with random bf16 weights, to measure memory and speed where the real one is not at hand.

usage: random_model.py [--whole-text] OUT [DENOISER [VAE]]     names of folders in tests/data/manifests
The text encoder has the published width but one small layer, so that the folder stays near the size of its denoiser; with
--whole-text it has the published size (XXL).
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = ROOT / "tests/data/cases"
MANIFESTS = ROOT / "tests/data/manifests"
# By the denoiser's class: the case that tokenizer and schedule come from, where its configuration has the text's width, and
# the entries of the text encoder.
FAMILIES = {
    "WanTransformer3DModel": ("wan21_t2v", "text_dim", 256384),
    "CogVideoXTransformer3DModel": ("cogvideox15_5b", "text_embed_dim", 32128),
    "LTXVideoTransformer3DModel": ("ltx_t2v", "caption_channels", 32128),
}
XXL = {"d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24}


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
        file.flush()
        fill(file.fileno(), 8 + len(text), header)


def fill(file, start, header):
    """Writes every tensor's numbers, on many threads: one alone fills a page cache at 2 GB/s."""
    jobs = []
    for name, entry in header.items():
        source = memoryview(NEAR_ONE if "norm" in name else SMALL)
        at, end = (start + offset for offset in entry["data_offsets"])
        while at < end:
            size = min(end - at, len(source))
            jobs.append((source[:size], at))
            at += size
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for written, (data, _) in zip(pool.map(lambda job: os.pwrite(file, *job), jobs), jobs):
            if written != len(data):
                raise OSError("the disk is full")


def expand(name):
    """Names that "blocks.{0-29}.x" stands for."""
    found = re.search(r"\{(\d+)-(\d+)\}", name)
    if not found:
        return [name]
    first, last = int(found[1]), int(found[2])
    return [rest for i in range(first, last + 1) for rest in expand(name[: found.start()] + str(i) + name[found.end() :])]


def manifest(name):
    rows = (line.split("\t") for line in (MANIFESTS / name / "tensors.tsv").read_text().splitlines())
    return [(full, [int(axis) for axis in row[1].split("x") if axis]) for row in rows for full in expand(row[0])]


def text_encoder(out, config, holes=False):
    width, inner, heads, ffn = config["d_model"], config["num_heads"] * config["d_kv"], config["num_heads"], config["d_ff"]
    tensors = [("shared.weight", [config["vocab_size"], width]), ("encoder.final_layer_norm.weight", [width])]
    for i in range(config["num_layers"]):
        at = f"encoder.block.{i}.layer."
        tensors += [(at + f"0.SelfAttention.{k}.weight", [inner, width]) for k in "qkv"]
        tensors += [(at + "0.SelfAttention.o.weight", [width, inner]), (at + "0.layer_norm.weight", [width]),
                    (at + "1.layer_norm.weight", [width]), (at + "1.DenseReluDense.wi_0.weight", [ffn, width]),
                    (at + "1.DenseReluDense.wi_1.weight", [ffn, width]), (at + "1.DenseReluDense.wo.weight", [width, ffn])]
        if i == 0 or config["model_type"] == "umt5":
            tensors += [(at + "0.SelfAttention.relative_attention_bias.weight", [32, heads])]
    write(out / "model.safetensors", tensors, holes)
    (out / "config.json").write_text(json.dumps(config))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--whole-text", action="store_true")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("denoiser", nargs="?", default="wan2.1-t2v-1.3b")
    parser.add_argument("vae", nargs="?", default="wan2.1-vae")
    args = parser.parse_args()
    denoiser = json.loads((MANIFESTS / args.denoiser / "config.json").read_text())
    name, width, entries = FAMILIES[denoiser["_class_name"]]
    case = CASES / name / "model"
    args.out.mkdir(parents=True, exist_ok=True)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(case / part, args.out / part, dirs_exist_ok=True)
    shutil.copy(case / "model_index.json", args.out)
    for part, name in (("transformer", args.denoiser), ("vae", args.vae)):
        write(args.out / part / "diffusion_pytorch_model.safetensors", manifest(name))
        shutil.copy(MANIFESTS / name / "config.json", args.out / part)
    text = json.loads((case / "text_encoder/config.json").read_text())
    text.update(d_model=denoiser[width], **({"vocab_size": entries, **XXL} if args.whole_text else {"num_layers": 1}))
    text_encoder(args.out / "text_encoder", text)
    print(args.out)


if __name__ == "__main__":
    main()
