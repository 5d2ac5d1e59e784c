"""The plan held against what runs take: device memory by the driver's count, host memory by the largest resident set.

usage: plan_truth.py ZOE cpu|cuda [--only NAME[,NAME...]] [--model DIR] [--json FILE]      prints Markdown

Networks of published shapes with random weights, by `zoe bench`; and whole requests, by `zoe plan` and `zoe generate`, of
the demo model and of the Wan folder DIR (bench/random_model.py makes one). The driver is asked through NVML every few
milliseconds while a request runs; what others held before is taken off.
"""
import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "tests/data/manifests"
GIB = 2.0**30


def bench(part, name, size="832x480", frames=81, options="", repeats=2):
    return ["bench", part, "--config", str(MANIFESTS / name), "--size", size, "--frames", str(frames), "--repeats",
            str(repeats), *options.split()]


def request(model, size, frames, steps, options=""):
    return ["generate", "--model", model, "--prompt", "A red ball rolls to the left on a wooden floor.", "--size", size,
            "--frames", str(frames), "--steps", str(steps), "--seed", "1", *options.split()]


DEMO, FOLDER = str(ROOT / "models/demo"), "FOLDER"
T2V, I2V, SMALL = "wan2.1-t2v-14b", "wan2.1-i2v-14b", "wan2.1-t2v-1.3b"

CASES = {
    "cuda": {
        "14b-fp8": bench("denoise", T2V, options="--linear fp8"),
        "14b-fp8-8-16": bench("denoise", T2V, options="--linear fp8 --vram 8G --ram 16G"),
        "14b-int8": bench("denoise", T2V, options="--linear int8"),
        "14b-int8-8-16": bench("denoise", T2V, options="--linear int8 --vram 8G --ram 16G"),
        "14b-bf16": bench("denoise", I2V),
        "14b-bf16-8-40": bench("denoise", I2V, options="--vram 8G --ram 40G"),
        "14b-fp8-720p": bench("denoise", T2V, "1280x720", options="--linear fp8 --attention sage", repeats=1),
        "14b-fp8-720p-8-16": bench("denoise", T2V, "1280x720", options="--linear fp8 --attention sage --vram 8G --ram 16G",
                                   repeats=1),
        "14b-fp8-sage-8-16": bench("denoise", T2V, options="--linear fp8 --attention sage --vram 8G --ram 16G"),
        "1.3b-bf16": bench("denoise", SMALL),
        "1.3b-bf16-block": bench("denoise", SMALL, options="--offload block"),
        "1.3b-fp8-3G": bench("denoise", SMALL, options="--linear fp8 --vram 3G"),
        "1.3b-int8-sage": bench("denoise", SMALL, options="--linear int8 --attention sage"),
        "1.3b-int4-17": bench("denoise", SMALL, frames=17, options="--linear int4"),
        "5b-bf16-8G": bench("denoise", "wan2.2-ti2v-5b", "1280x704", 121, "--vram 8G", repeats=1),
        "cogvideox-5b": bench("denoise", "cogvideox-5b", "720x480", 49),
        "ltx-2b": bench("denoise", "ltx-0.9.0-2b", "768x512", 97),
        "ltx-13b-fp8": bench("denoise", "ltx-0.9.7-13b", "768x512", 97, "--linear fp8"),
        "vae": bench("decode", "wan2.1-vae"),
        "vae-parts": bench("decode", "wan2.1-vae", options="--vae-tiling exact --vae-parts 6"),
        "vae-cogvideox": bench("decode", "cogvideox-vae", "720x480", 49),
        "vae-ltx": bench("decode", "ltx-0.9.7-vae", "768x512", 97),
        "umt5": bench("text", "umt5-xxl"),
        "umt5-int8-2G": bench("text", "umt5-xxl", options="--linear int8 --vram 2G"),
        "demo": request(DEMO, "128x128", 33, 4),
        "folder": request(FOLDER, "832x480", 33, 2),
        "folder-4-4": request(FOLDER, "832x480", 33, 2, "--vram 4G --ram 4G"),
        "folder-int8-3G": request(FOLDER, "480x320", 17, 2, "--linear int8 --vram 3G"),
    },
    "cpu": {
        "1.3b": bench("denoise", SMALL, "128x128", 5, repeats=1),
        "1.3b-int8": bench("denoise", SMALL, "128x128", 5, "--linear int8", repeats=1),
        "1.3b-int4": bench("denoise", SMALL, "128x128", 5, "--linear int4", repeats=1),
        "1.3b-ram": bench("denoise", SMALL, "256x256", 9, "--ram 1500M", repeats=1),
        "5b-int8": bench("denoise", "wan2.2-ti2v-5b", "256x256", 5, "--linear int8", repeats=1),
        "cogvideox-2b": bench("denoise", "cogvideox-2b", "128x128", 9, repeats=1),
        "ltx-2b-int8": bench("denoise", "ltx-0.9.0-2b", "256x256", 9, "--linear int8", repeats=1),
        "vae": bench("decode", "wan2.1-vae", "128x128", 9, repeats=1),
        "demo": request(DEMO, "128x128", 33, 4),
        "demo-int8": request(DEMO, "128x128", 33, 4, "--linear int8"),
        "demo-long": request(DEMO, "192x128", 65, 2),
        "folder": request(FOLDER, "128x128", 5, 2),
        "folder-int8": request(FOLDER, "128x128", 5, 2, "--linear int8"),
        "folder-2G": request(FOLDER, "128x128", 5, 2, "--ram 2G"),
        "folder-fp8-2G": request(FOLDER, "256x192", 9, 1, "--linear fp8 --ram 2G"),
    },
}


class Driver:
    """Bytes of the first device in use, by NVML; None without one."""

    class Info(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    def __init__(self):
        self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self.handle = ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.handle)):
            raise OSError("NVML finds no device")

    def used(self):
        info = self.Info()
        self.nvml.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(info))
        return info.used


def watched(command, driver):
    """Runs a command; its JSON (None if it failed), the most that it held of the device, seconds."""
    before = driver.used() if driver else 0
    most, ended, start = before, threading.Event(), time.monotonic()

    def watch():
        nonlocal most
        while not ended.wait(0.004):
            most = max(most, driver.used())

    watcher = threading.Thread(target=watch) if driver else None
    if watcher:
        watcher.start()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        failed = done.stderr.strip() if done.returncode else ""
    except subprocess.TimeoutExpired:
        failed = "took more than 300 s"
    ended.set()
    if watcher:
        watcher.join()
    if failed:
        print(" ".join(command[1:]) + ": " + failed, file=sys.stderr)
    return (None if failed else json.loads(done.stdout)), most - before, time.monotonic() - start


def run_bench(zoe, device, case, driver):
    found, most, wall = watched([zoe, *case, "--device", device, "--json"], driver)
    if not found:
        return None
    return {"device": (found["planned_device_bytes"], found["driver_device_bytes"]), "watched": most, "wall": wall,
            "counted": found["peak_device_bytes"], "host": (found["planned_host_bytes"], found["resident_host_bytes"]),
            "seconds": found["seconds"], "planned_step": found["planned_seconds"],
            "stalled": found["stalled_seconds_per_repeat"],
            "copied": found["copied_bytes_per_repeat"], "read": found["read_bytes_per_repeat"],
            "prepare": found["prepare_seconds"]}


def run_request(zoe, device, case, driver, out):
    options = case[1:] + ["--device", device, "--json"]
    # on a device a build without FFmpeg will do
    options += ["--dump", str(out / "a.safetensors")] if device == "cuda" else ["-o", str(out / "a.y4m")]
    planned, _, _ = watched([zoe, "plan", *options], None)
    found, most, wall = watched([zoe, "generate", *options, "--quiet"], driver)
    if not found or not planned:
        return None
    denoise = next(phase for phase in planned["phases"] if phase["phase"] == "denoise")
    return {"device": (planned["peak_device_bytes"], most), "watched": most, "wall": wall,
            "counted": found["peak_device_bytes"], "host": (planned["peak_host_bytes"], found["peak_host_bytes"]),
            "seconds": found["seconds_per_step"], "planned_step": denoise["seconds"] / denoise["steps"],
            "stalled": found["weights"]["stalled_seconds"],
            "copied": found["weights"]["loaded_bytes_per_step"], "read": found["weights"]["read_bytes"], "prepare": 0,
            "planned_seconds": planned["seconds"], "phases": found["seconds"]}


def beside(pair):
    """"plan, found (difference)"."""
    if not pair[0] or not pair[1]:
        return ""
    return f"{pair[0] / GIB:.3f}, {pair[1] / GIB:.3f} ({100 * (pair[0] / pair[1] - 1):+.1f} %)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoe")
    parser.add_argument("device", choices=["cpu", "cuda"])
    parser.add_argument("--only", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    cases = CASES[options.device]
    driver = Driver() if options.device == "cuda" else None
    print("| case | GiB of the device: plan, driver | GiB of the host: plan, largest resident | a step, s: plan, found | "
          "waited | copied, GiB | read, GiB | wall |")
    print("|---" * 8 + "|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only.split(",") if options.only else cases:
            case = [options.model if word == FOLDER else word for word in cases[name]]
            if "" in case:
                continue  # no folder was named
            run = run_bench if case[0] == "bench" else lambda *given: run_request(*given, pathlib.Path(temporary))
            row = run(options.zoe, options.device, case, driver)
            if not row:
                print(f"| {name} | failed | | | | | | |", flush=True)
                continue
            planned, seconds = row["planned_step"], row["seconds"]
            print(f"| {name} | {beside(row['device'])} | {beside(row['host'])} | "
                  f"{planned:.4f}, {seconds:.4f} ({100 * (planned / seconds - 1):+.1f} %) | "
                  f"{1e3 * row['stalled']:.1f} ms | {row['copied'] / GIB:.2f} | {row['read'] / GIB:.2f} | "
                  f"{row['wall']:.1f} s |", flush=True)
            if options.json:
                with open(options.json, "a") as file:
                    file.write(json.dumps({"name": name, **row}) + "\n")


if __name__ == "__main__":
    main()
