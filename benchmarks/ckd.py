"""Memory and time of the whole CKD step at Qwen3-0.6B's sizes, beside one on dense logits.

    python benchmarks/ckd.py                             the compiler's account, 28 layers
    python benchmarks/ckd.py --run --layers 1            run, too: peak of each process, seconds

The step is the one that `python -m star_jax.train ckd` runs: float32 master weights, bfloat16
compute (float32 with --run: CPUs emulate bfloat16), layers rematerialised, AdamW, a teacher's
top-100 from a cache, and one row of T tokens a micro-batch with its loss on the last of them.

    ours     hidden states at loss positions, logits of a chunk of them at a time
    dense    logits of all T tokens at once, masked

Room is what the step allocates beside its state and its batch. "body" is a step of the same model
whose loss has no vocabulary in it; what is above it is the price of the objective.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from star_jax import models
from star_jax.models import attention, layout, qwen3, sharding
from star_jax.train import distill, loss, place, setup, state, step

TOP = 100
GB = 1e9
WAYS = ("body", "ours", "dense")


def config_of(layers: int) -> models.Qwen3Config:
    return models.Qwen3Config(
        vocab_size=151936,
        hidden_size=1024,
        intermediate_size=3072,
        num_layers=layers,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        max_position_embeddings=40960,
    )


def body(params: Any, micro: Any, fixed: Any, targets: int, *, forward: Any) -> Any:
    hidden_BTD, _ = forward.hidden(params, micro.tokens)
    weight = micro.tokens.weight_BT.sum()
    return (hidden_BTD.astype(jnp.float32) ** 2).sum(), (weight, {})


def dense(params: Any, micro: Any, fixed: Any, targets: int, *, forward: Any) -> Any:
    """Every token's logits in float32, as trainers without a vocabulary core have them."""
    tokens, config = micro.tokens, forward.config
    places = attention.packed(tokens.segment_BT)
    hidden_BTD, _ = qwen3.hidden(
        params, config, tokens.tokens_BT, places, dtype=forward.dtype, remat=forward.remat
    )
    logits_BTV = qwen3.project(params, config, hidden_BTD)
    order_BT = jnp.argsort(tokens.weight_BT == 0, axis=1, stable=True)[:, :targets]

    def spread(x_BR: jax.Array) -> jax.Array:
        """A row's targets back at their places."""
        empty = jnp.zeros((*tokens.tokens_BT.shape, *x_BR.shape[2:]), x_BR.dtype)
        return jax.vmap(lambda row, at, x: row.at[at].set(x))(empty, order_BT, x_BR)

    ids, logp, tail, label = (spread(x).reshape(-1, *x.shape[2:]) for x in micro.teacher)
    known = distill.TopK(ids, logp, tail, tokens.target_BT.reshape(-1), label)
    objective = distill.Objective()
    loss_N, _ = objective(logits_BTV.reshape(-1, config.vocab_size), known)
    weight_N = tokens.weight_BT.reshape(-1)
    return (weight_N * loss_N).sum(), (weight_N.sum(), {})


def compiled(way: str, T: int, args: argparse.Namespace) -> tuple[Any, ...]:
    """The program and its abstract arguments."""
    mesh = models.make_mesh(1, devices=jax.devices()[:1])
    config = config_of(args.layers)
    dtype = jnp.float32 if args.run else jnp.bfloat16
    forward = loss.Forward(config=config, dtype=dtype, remat="block", chunk=args.chunk)
    ours = functools.partial(
        loss.ckd, forward=forward, objective=distill.Objective(), end_of_think=151668
    )
    others = {"body": body, "dense": dense}
    function = functools.partial(others[way], forward=forward) if way in others else ours
    rate = state.learning_rate(3e-6, 100)
    made = step.make_step(function, state.adamw(rate), rate)
    params = setup.placed(
        layout.abstract(config, jnp.float32), sharding.param_shardings(config, mesh)
    )
    R, at = args.targets, place.micro_sharding(mesh)
    shapes = [(1, 1, R, TOP), (1, 1, R, TOP), (1, 1, R), (1, 1, R)]
    dtypes = [jnp.int32, jnp.float16, jnp.float32, jnp.float32]
    words = loss.Stored(
        *(jax.ShapeDtypeStruct(s, d, sharding=at) for s, d in zip(shapes, dtypes, strict=True))
    )
    micro = loss.Micro(place.abstract_rows(mesh, 1, 1, T), words)
    batch = step.StepBatch(micro, place.abstract_number(mesh))
    fixed = loss.Fixed(seed=place.abstract_number(mesh, jnp.uint32))
    with jax.set_mesh(mesh):
        before = state.abstract(params, state.adamw(rate))
        programs = step.Programs(way, made, donate=True)
        return programs.compile(before, batch, fixed, R), before, batch, fixed


def show_memory(args: argparse.Namespace) -> None:
    print(f"GB of room beside state and batch, one row of T tokens, {args.targets} with a loss")
    print(f"  {'T':<8}" + "".join(f"{T:>9}" for T in args.tokens))
    room: dict[str, list[float]] = {}
    for way in WAYS:
        found = [compiled(way, T, args)[0].memory_analysis() for T in args.tokens]
        room[way] = [memory.temp_size_in_bytes / GB for memory in found]
        print(f"  {way:<8}" + "".join(f"{size:9.2f}" for size in room[way]), flush=True)
    for way in WAYS[1:]:
        above = [size - least for size, least in zip(room[way], room["body"], strict=True)]
        print(f"  {way} above body" + "".join(f"{size:9.2f}" for size in above))
    shares = [ours / dense for ours, dense in zip(room["ours"], room["dense"], strict=True)]
    print("  ours / dense  " + "".join(f"{share:9.2f}" for share in shares))


def run_here(args: argparse.Namespace) -> None:
    """One way, in this process: its peak memory and the seconds of its steps, as JSON."""
    way, T = args.way, args.tokens[0]
    program, before, batch, fixed = compiled(way, T, args)
    rng = np.random.default_rng(0)

    def make(x: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating) and len(x.shape) > 1:
            return jax.device_put((rng.random(x.shape, np.float32) * 0.02).astype(x.dtype))
        return jax.device_put(np.ones(x.shape, x.dtype))

    now, given, still = (jax.tree.map(make, tree) for tree in (before, batch, fixed))
    weight = np.zeros((1, 1, T), np.float32)
    weight[..., T - args.targets :] = 1
    tokens = given.micro.tokens._replace(weight_BT=jax.device_put(weight))
    given = given._replace(micro=given.micro._replace(tokens=tokens))
    jax.block_until_ready((now, given))
    before_bytes = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    seconds = []
    for _ in range(args.runs + 1):
        start = time.perf_counter()
        now, metrics = jax.block_until_ready(program(now, given, still))
        seconds.append(time.perf_counter() - start)
    peak = memory("VmHWM") - before_bytes
    print(
        json.dumps(
            {"peak": peak, "seconds": seconds[1:], "loss": float(metrics["loss/total_nats"])}
        )
    )


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def show_runs(args: argparse.Namespace) -> None:
    print("run, each in a process of its own: GB above what stood before, seconds a step (median)")
    for T in args.tokens:
        for way in WAYS[1:]:
            command = [sys.executable, __file__, "--run", "--way", way, "--tokens", str(T)]
            command += ["--layers", str(args.layers), "--targets", str(args.targets)]
            command += ["--chunk", str(args.chunk), "--runs", str(args.runs)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            middle = statistics.median(found["seconds"])
            print(f"  T {T:<7}{way:<8}{found['peak'] / GB:9.2f} GB {middle:9.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096, 5632, 8192])
    parser.add_argument("--targets", type=int, default=512)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--run", action="store_true", help="run the steps too")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        run_here(args)
        return
    show_memory(args)
    if args.run:
        show_runs(args)


if __name__ == "__main__":
    main()
