"""From the command to the end of the first step, which brings the weights, and of the second, which does not.

usage: first_step.py RUNS ZOE OPTION...      options of `zoe generate`; --steps should be 2
"""
import subprocess
import sys
import time


def run(command):
    """Seconds from the start to each line of progress: {"denoise 1/2": ...}."""
    start, times = time.monotonic(), {}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    text = []
    for line in process.stderr:
        times.setdefault(" ".join(line.split()[:2]), time.monotonic() - start)
        text.append(line)
    if process.wait():
        sys.exit("".join(text))
    return times


def main():
    for _ in range(int(sys.argv[1])):
        times = run([sys.argv[2], "generate", "--prompt", "A red fox runs through snow", *sys.argv[3:]])
        step = times["denoise 2/2"] - times["denoise 1/2"]
        print(", ".join(f"{name} {at:.2f} s" for name, at in times.items() if name.split()[0] in ("text", "denoise")))
        print(f"command to end of first step {times['denoise 1/2']:.2f} s, of which a step like the second {step:.2f} s: "
              f"all else {times['denoise 1/2'] - step:.2f} s", flush=True)


if __name__ == "__main__":
    main()
