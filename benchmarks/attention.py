"""Attention of long rows on this machine: one einsum, and blocks of queries over spans of keys.

    python benchmarks/attention.py --rows 2 --tokens 1024

Prints, for each block size and number of spans, the median time of a forward pass and of a forward
and backward pass, taken in turns, and the temporary memory that the compiled program asks for.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.models import attention


def variants(places: attention.Places) -> dict[str, tuple[int, int, Callable[..., Any]]]:
    whole = functools.partial(attention.cross, query=places, key=places)
    blocks = functools.partial(attention.within, places=places, backend="xla")
    made = {"one einsum": (attention.QUERY_BLOCK, attention.SPANS, whole)}
    for block in (64, 128, 256):
        for spans in (2, 4, 8):
            made[f"block {block}, {spans} spans"] = (block, spans, blocks)
    return made


def compile_both(attend: Callable[..., Any], *qkv: Any) -> tuple[Any, Any]:
    backward = jax.grad(lambda *qkv: jnp.sin(attend(*qkv)).sum(), argnums=(0, 1, 2))

    def forward(*qkv: Any) -> Any:
        return attend(*qkv)  # a new function each time: JAX keeps the program of a known one

    return jax.jit(forward).lower(*qkv).compile(), jax.jit(backward).lower(*qkv).compile()


def seconds(run: Any, *qkv: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*qkv))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rows", 2), ("tokens", 1024), ("heads", 8), ("size", 32), ("runs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (args.rows, args.tokens, args.heads, args.size)
    qkv = [jax.random.normal(key, shape) for key in keys]
    places = attention.padded(jnp.full(args.rows, args.tokens), args.tokens)
    compiled = {}
    for name, (block, spans, attend) in variants(places).items():
        attention.QUERY_BLOCK, attention.SPANS = block, spans
        compiled[name] = compile_both(attend, *qkv)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in compiled}
    for _ in range(args.runs + 1):  # the first round warms up
        for name, runs in compiled.items():
            for run, taken in zip(runs, times[name], strict=True):
                taken.append(seconds(run, *qkv))
    print(f"{'':24} forward ms   backward ms   memory MB, forward and backward")
    for name, taken in times.items():
        middle = [1e3 * statistics.median(values[1:]) for values in taken]
        memory = [run.memory_analysis().temp_size_in_bytes / 1e6 for run in compiled[name]]
        print(f"{name:24} {middle[0]:10.1f} {middle[1]:13.1f}   {memory[0]:8.0f} {memory[1]:8.0f}")


if __name__ == "__main__":
    main()
