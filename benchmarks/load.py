"""How fast a Hugging Face folder loads, beside reading its file, and how much memory that takes.

    python benchmarks/load.py                       # a random Qwen3-0.6B in bfloat16, 1.2 GB
    python benchmarks/load.py --mesh 1 8 1 --runs 5

Makes the checkpoint once (in --folder), then takes turns, each in a fresh process: read the file
into memory that the process has not touched before (what any loader has to do at least), and
`models.load`. Prints both speeds, their ratio pair by pair, and the peak of resident memory above
what the process held before, as a share of the model's size. Warm: the file is in the page cache;
cold: it was dropped from there first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from star_jax import models
from star_jax.models import card, layout
from star_jax.train import devices

CONFIG = models.Qwen3Config(  # Qwen/Qwen3-0.6B
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    max_position_embeddings=40960,
)


def make(folder: Path) -> None:
    params = models.init(CONFIG, jax.random.key(0), "bfloat16")
    models.save(folder, CONFIG, params)
    print(f"made {folder}: {card.in_words(layout.count(CONFIG))} parameters", flush=True)


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM the peak since it was last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(what: str, folder: Path, mesh: list[int] | None, dtype: str) -> dict[str, float]:
    """Seconds and peak bytes of one job, in this process."""
    devices.split_cpu(int(np.prod(mesh)) if mesh else 1)
    jax.block_until_ready(jax.numpy.zeros(8) + 1)  # the backend is up before anything is counted
    data, fsdp, tensor = mesh or (1, 1, 1)
    placed = models.make_mesh(data, fsdp, tensor) if mesh else None
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start = time.perf_counter()
    if what == "read":
        held = [np.fromfile(path, np.uint8) for path in sorted(folder.glob("*.safetensors"))]
    else:
        held = models.load(folder, dtype=dtype, mesh=placed)
    seconds = time.perf_counter() - start
    del held
    return {"seconds": seconds, "peak": memory("VmHWM") - before}


def child(what: str, args: argparse.Namespace, cold: bool) -> dict[str, float]:
    for path in args.folder.glob("*.safetensors"):
        file = os.open(path, os.O_RDONLY)
        advice = os.POSIX_FADV_DONTNEED if cold else os.POSIX_FADV_WILLNEED
        os.posix_fadvise(file, 0, 0, advice)
        if not cold:
            while os.read(file, 1 << 24):
                pass
        os.close(file)
    command = [sys.executable, __file__, "--measure", what, "--folder", str(args.folder)]
    command += ["--dtype", args.dtype]
    if args.mesh:
        command += ["--mesh", *map(str, args.mesh)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def report(args: argparse.Namespace, cold: bool) -> None:
    size = sum(path.stat().st_size for path in args.folder.glob("*.safetensors"))
    width = np.dtype(models.hf.as_dtype(args.dtype)).itemsize
    model = layout.count(CONFIG) * width
    read, load = [], []
    for _ in range(args.runs):
        read.append(child("read", args, cold))
        load.append(child("load", args, cold))
    speed = [[size / run["seconds"] / 1e9 for run in runs] for runs in (read, load)]
    ratio = [b / a for a, b in zip(*speed, strict=True)]
    peak = max(run["peak"] for run in load)
    print(f"{'cold' if cold else 'warm'} cache, {args.runs} pairs, min / median / max:")
    for name, values in (("read, GB/s", speed[0]), ("load, GB/s", speed[1]), ("load/read", ratio)):
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"  {name:<11} {low:6.2f} {middle:6.2f} {high:6.2f}")
    print(f"  peak memory of the load: {peak / 1e9:.2f} GB, {peak / model:.1%} of the model")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(tempfile.gettempdir()) / "star_jax-load-benchmark"
    parser.add_argument("--folder", type=Path, default=default)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--mesh", type=int, nargs=3, metavar=("DATA", "FSDP", "TENSOR"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--measure", choices=["read", "load"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder, args.mesh, args.dtype)))
        return
    if not args.folder.exists():
        make(args.folder)
    for cold in (False, True):
        report(args, cold)


if __name__ == "__main__":
    main()
