"""The worker's training loop beside PyTorch's on the same cores: `ops/bench train` calls it. Each measurement is a process of its own, and they take
turns, so that a drift of the machine hits both alike; what counts is the median over rounds, and the ratio of medians.

    python3 train.py --worker STEPS --python PYTHON [--rounds 5] [--seconds 3] [--threads 2]

`others` is what other processes took of the processor meanwhile, in cores: above 0.1, run again.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = {
    "mlp": ("MLP 1000-500-100-10, ReLU, Adam 1e-3, MSE, f32, 10,000 random rows in memory", [1000, 128, 32]),
    "cnn": ("CNN of images 1x28x28, convolutions 32 and 64 of 3x3 pooled by 2, linear 128-10, ReLU, Adam 1e-3, cross-entropy, f32", [128, 32]),
    "gpt": ("GPT of 6 layers, 384 wide, 6 heads, 65 characters, a context of 256, tied, GELU, Adam 1e-3, cross-entropy, f32; a step is batch x 256 tokens", [8]),
}
# As the daemon starts a worker.
KEEP_MEMORY_BYTES = str(1 << 32)


def busy():
    """Seconds of processor taken so far, by everybody."""
    user, nice, system = open("/proc/stat").readline().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def run(command, environment):
    before, used, began = busy(), resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stderr.strip() or ended.stdout.strip()}")
    wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    own = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {**json.loads(lines[-1]), "others": max(0.0, (busy() - before - own) / wall)}


def facts(options, version):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"machine  {model} x {os.cpu_count()}, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}")
    print(f"build    mlworker {commit or '?'}, PyTorch {version}, {options.threads} threads each\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True, help="the benchmark `steps`, built for release")
    parser.add_argument("--python", required=True, help="a Python that has torch")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    threads = str(options.threads)
    ours = {
        "RAYON_NUM_THREADS": threads,
        "CANDLE_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": KEEP_MEMORY_BYTES,
        "MALLOC_TRIM_THRESHOLD_": KEEP_MEMORY_BYTES,
    }
    most, told = 0.0, False
    peer = [options.python, os.path.join(HERE, "pytorch.py"), "--seconds", str(options.seconds), "--threads", threads]
    for job, batch in [(job, batch) for job in options.jobs for batch in JOBS[job][1]]:
        sides = {
            "mlworker": ([options.worker, job, str(batch), str(options.seconds)], ours),
            "PyTorch eager": ([*peer, "--job", job, "--batch", str(batch)], {}),
            "PyTorch eager, fused Adam": ([*peer, "--job", job, "--batch", str(batch), "--fused"], {}),
        }
        seen = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, (command, environment) in sides.items():
                seen[name].append(run(command, environment))
        if not told:
            facts(options, seen["PyTorch eager"][0]["version"])
            told = True
        if batch == JOBS[job][1][0]:
            print(f"{job}: {JOBS[job][0]}")
        medians = {name: statistics.median(r["steps_per_s"] for r in runs) for name, runs in seen.items()}
        print(f"batch {batch:<22}{'median steps/s':>15}{'min':>9}{'max':>9}{'mlworker is':>13}{'rss MB':>8}{'others':>8}")
        for name, runs in seen.items():
            rates = [r["steps_per_s"] for r in runs]
            ratio = "" if name == "mlworker" else f"{medians['mlworker'] / medians[name]:.2f} x"
            memory, others = max(r["rss_mb"] for r in runs), statistics.mean(r["others"] for r in runs)
            most = max(most, others)
            print(f"{name:<28}{medians[name]:>15.1f}{min(rates):>9.1f}{max(rates):>9.1f}{ratio:>13}{memory:>8.0f}{others:>8.2f}")
        print(flush=True)
    if most > 0.1:
        print(f"Other processes took up to {most:.1f} cores meanwhile: these figures say little. Run it again on a quiet machine.")


main()
