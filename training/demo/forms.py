"""Judge the demo model on a device, in several forms of its weights and attention, beside itself unquantised.

    python forms.py --library build/libzoetrope.so [--device cuda] [--count N] [--size WxH] FORM ...

FORM is DTYPE[:LINEAR[:ATTENTION]], such as f32, bf16, bf16:fp8 or bf16:fp8:sage; the first one is what the others are held
against: PSNR of the videos, and the relative L2 distance of the latents after each step. Clips of another size than the
model's own are not judged. Quantised attention is for long sequences: at 256x256 there are enough tokens for it.
Goes through the library rather than the program, so that a build without FFmpeg will do.
"""
import argparse
import ctypes
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import evaluate  # noqa: E402
import judge as judging  # noqa: E402

MODEL = Path(__file__).resolve().parents[2] / "models" / "demo"


class Option(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("scope", ctypes.c_int), ("type", ctypes.c_int), ("offset", ctypes.c_size_t),
                ("meta", ctypes.c_char_p), ("choices", ctypes.c_char_p), ("min", ctypes.c_double), ("max", ctypes.c_double),
                ("help", ctypes.c_char_p), ("many", ctypes.c_int)]


class Library:
    def __init__(self, path):
        self.calls = ctypes.CDLL(str(path))
        self.calls.zoe_options.restype = ctypes.POINTER(Option)
        self.calls.zoe_context_error.restype = ctypes.c_char_p
        count = ctypes.c_size_t()
        rows = self.calls.zoe_options(ctypes.byref(count))
        self.options = {rows[i].name.decode(): rows[i] for i in range(count.value)}
        self.context = ctypes.c_void_p()
        self.kept = []
        self.check(self.calls.zoe_context_create(None, ctypes.byref(self.context)))

    def check(self, status):
        if status < 0:
            raise SystemExit(f"zoe: {self.calls.zoe_context_error(self.context).decode()}")

    def put(self, target, values):
        for name, value in values.items():
            text = ctypes.c_char_p(str(value).encode())
            self.kept.append(text)  # strings are kept by pointer
            self.check(self.calls.zoe_option_set(self.context, ctypes.byref(self.options[name]), target, text))

    def open(self, folder, **settings):
        block, model = ctypes.create_string_buffer(4096), ctypes.c_void_p()
        self.calls.zoe_model_settings_init(block)
        self.put(block, settings)
        self.check(self.calls.zoe_model_open(self.context, str(folder).encode(), block, ctypes.byref(model)))
        return model

    def generate(self, model, **values):
        block = ctypes.create_string_buffer(4096)
        self.calls.zoe_request_init(model, block)
        self.put(block, values)
        self.check(self.calls.zoe_generate(model, block, None))


def read_dump(path, *names):
    """float32 arrays of a dump; of "video" the values are in 0..1."""
    raw = Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for entry in map(json.loads(raw[8:8 + size]).get, names):
        begin, end = entry["data_offsets"]
        yield np.frombuffer(raw, np.float32, (end - begin) // 4, 8 + size + begin).reshape(entry["shape"])


def relative(a, b):
    """Relative L2 distance of each row of a from b's."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)


def frames_of(video):
    """uint8 [frames, height, width, 3]"""
    while video.ndim > 4:
        video = video[0]
    if video.shape[-1] != 3:
        video = video.transpose(1, 2, 3, 0) if video.shape[0] == 3 else video.transpose(0, 2, 3, 1)
    return torch.from_numpy((video * 255 + 0.5).clip(0, 255).astype(np.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--size")
    parser.add_argument("forms", nargs="+")
    options = parser.parse_args()
    library, (scenes, prompts) = Library(options.library), evaluate.cases(options.count)
    dump, first = str(Path(tempfile.mkdtemp()) / "dump.safetensors"), []
    for number, form in enumerate(options.forms):
        dtype, linear, attention = form.split(":") + ["native", "exact"][form.count(":"):]
        model = library.open(MODEL, device=options.device, dtype=dtype, linear=linear, attention=attention)
        scores, nearness, steps, seconds = evaluate.Scores(), [], [], 0
        for i, prompt in enumerate(prompts):
            started = time.time()
            library.generate(model, prompt=prompt, seed=i, dump=dump, **({"size": options.size} if options.size else {}))
            seconds += time.time() - started
            video, latents = read_dump(dump, "video", "step_latents")
            if number == 0:
                first.append((video, latents))
            error = float(np.mean((video.astype(np.float64) - first[i][0]) ** 2))
            nearness.append(-10 * np.log10(max(error, 1e-10)))
            steps.append(relative(latents, first[i][1]))
            if not options.size:
                scores.add(frames_of(video), judging.wanted(scenes, i), prompt)
        library.calls.zoe_model_close(model)
        result = {k: v for k, v in scores.report().items() if k != "by motion"}
        far = np.median(np.stack(steps), axis=0)
        low, middle = np.percentile(nearness, 10), np.median(nearness)
        print(f"{form}: PSNR median {middle:.1f}, a tenth under {low:.1f}, least {min(nearness):.1f} dB; latents after step 1, half, "
              f"all: {far[0]:.2e}, {far[len(far) // 2]:.2e}, {far[-1]:.2e}; {seconds / len(prompts):.2f} s a clip; "
              f"{json.dumps(result)}", flush=True)


main()
