"""What the vocabulary core costs in memory and time, beside a dense head, at 152k tokens.

    python benchmarks/vocab.py
    python benchmarks/vocab.py --tokens 1024 8192 --targets 1024 --runs 5

One row of T tokens with its loss on the last of them, float32, hidden states of Qwen3-0.6B's width;
a step of plain gradient descent on hidden states and head, in place. Two objectives: cross-entropy,
and CKD (forward KL over the teacher's top-100, and ten times what the student's top-100 holds
outside of it).

    dense      logits of all T tokens, masked                  what most trainers do
    targets    logits of all loss positions at once
    per_token  in chunks, the backward pass recomputes logits
    reduce     in chunks, differentiated in the forward pass   what the loops use

Memory is the compiler's account of temporary bytes, beside head and hidden states; the head's
gradient is 0.62 GB of it. Nothing is run for it. Times are medians of runs that take turns.
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
import numpy as np

from star_jax.train import vocab

V, D = 151936, 1024  # Qwen/Qwen3-0.6B
TOP = 100
GB = 1e9


def ckd(logits_CV: jax.Array, teacher: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
    ids_CK, logp_CK = teacher
    own_CV = jax.nn.log_softmax(logits_CV, axis=-1)
    own_CK = jnp.take_along_axis(own_CV, ids_CK, axis=1)
    forward_C = (jnp.exp(logp_CK) * (logp_CK - own_CK)).sum(axis=1)
    _, best_CK = jax.lax.top_k(jax.lax.stop_gradient(own_CV), TOP)
    is_outside_CK = ~(best_CK[:, :, None] == ids_CK[:, None, :]).any(axis=2)
    mass_CK = jnp.exp(jnp.take_along_axis(own_CV, best_CK, axis=1))
    return forward_C + 10 * (is_outside_CK * mass_CK).sum(axis=1), {}


def cross_entropy(logits_CV: jax.Array, target_C: jax.Array) -> tuple[Any, Any]:
    return -vocab.log_prob(logits_CV, target_C), {}


OBJECTIVES: dict[str, Callable[..., Any]] = {"cross-entropy": cross_entropy, "CKD": ckd}


def dense(fn: Any, hidden_TD: Any, head_VD: Any, data_T: Any, mask_T: Any) -> jax.Array:
    value_T, _ = fn(vocab.project(hidden_TD, head_VD), data_T)
    return jnp.where(mask_T, value_T, 0).sum()


def core(way: str, targets: int, chunk: int, fn: Any, *args: Any) -> jax.Array:
    hidden_TD, head_VD, data_T, mask_T = args
    positions = vocab.locate(mask_T[None], targets)
    hidden_ND, data_N = jax.tree.map(
        lambda x_T: vocab.gather(x_T[None], positions), (hidden_TD, data_T)
    )
    match way:
        case "targets":
            return dense(fn, hidden_ND, head_VD, data_N, positions.valid_N)
        case "per_token":
            valid_N = positions.valid_N
            value_N, _ = vocab.per_token(fn, hidden_ND, head_VD, data_N, valid_N, chunk=chunk)
            return value_N.sum()
        case _:
            weight_N = positions.weight_N
            return vocab.reduce(fn, hidden_ND, head_VD, data_N, weight_N, chunk=chunk)[0]


def inputs(T: int, targets: int, name: str) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    hidden_TD = rng.standard_normal((T, D), np.float32)
    head_VD = rng.standard_normal((V, D), np.float32) * np.float32(0.05)
    mask_T = np.arange(T) >= T - targets
    if name == "cross-entropy":
        return hidden_TD, head_VD, rng.integers(0, V, T, np.int32), mask_T
    ids_TK = np.stack([rng.choice(V, TOP, replace=False) for _ in range(T)]).astype(np.int32)
    logp_TK = np.log(rng.dirichlet(np.full(TOP, 0.1), T) + 1e-9).astype(np.float32)
    return hidden_TD, head_VD, (ids_TK, logp_TK), mask_T


def compiled(run: Any, fn: Any, shapes: Any) -> Any:
    def step(hidden_TD: Any, head_VD: Any, data_T: Any, mask_T: Any) -> Any:
        loss = functools.partial(run, fn)
        value, gradients = jax.value_and_grad(loss, (0, 1))(hidden_TD, head_VD, data_T, mask_T)
        new = jax.tree.map(lambda x, dx: x - 1e-3 * dx, (hidden_TD, head_VD), gradients)
        return new, value

    return jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()


def ways(args: argparse.Namespace) -> dict[str, Any]:
    made = {
        name: functools.partial(core, name, args.targets, args.chunk)
        for name in ("targets", "per_token", "reduce")
    }
    return {"dense": dense, **made}


def show_memory(name: str, args: argparse.Namespace) -> None:
    print(f"{name}: temporary GB for rows of T tokens, {args.targets} of them with a loss")
    print(f"  {'T':<10}" + "".join(f"{T:>9}" for T in args.tokens) + "    at the last T / dense")
    last = 0.0
    for way, run in ways(args).items():
        sizes = []
        for T in args.tokens:
            shapes = jax.eval_shape(lambda T=T: jax.tree.map(jnp.asarray, abstract(T, name)))
            memory = compiled(run, OBJECTIVES[name], shapes).memory_analysis()
            sizes.append(memory.temp_size_in_bytes / GB)
        last = last or sizes[-1]
        cells = "".join(f"{size:9.2f}" for size in sizes)
        print(f"  {way:<10}{cells}    {sizes[-1] / last:.3f}", flush=True)


def abstract(T: int, name: str) -> tuple[Any, ...]:
    data = jnp.zeros(T, jnp.int32)
    if name == "CKD":
        data = (jnp.zeros((T, TOP), jnp.int32), jnp.zeros((T, TOP)))
    return jnp.zeros((T, D)), jnp.zeros((V, D)), data, jnp.zeros(T, bool)


def show_times(name: str, args: argparse.Namespace) -> None:
    T = args.tokens[0]
    given = jax.tree.map(jnp.asarray, inputs(T, args.targets, name))
    moving, still = given[:2], given[2:]
    steps = {way: compiled(run, OBJECTIVES[name], given) for way, run in ways(args).items()}
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for turn in range(args.runs + 1):
        for way, step in steps.items():
            start = time.perf_counter()
            moving, _ = jax.block_until_ready(step(*moving, *still))
            if turn:  # the first warms up
                seconds[way].append(time.perf_counter() - start)
    base = statistics.median(seconds["dense"])
    print(f"{name}: seconds a step at T = {T}, median (fastest to slowest) of {args.runs}")
    for way, taken in seconds.items():
        middle = statistics.median(taken)
        spread = f"({min(taken):.2f} to {max(taken):.2f})"
        print(f"  {way:<10}{middle:9.2f} {spread:<18} {middle / base:.2f} of dense", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--targets", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3, help="0 leaves the times out")
    args = parser.parse_args()
    if min(args.tokens) < args.targets:
        parser.error(f"rows of {min(args.tokens)} tokens have no {args.targets} targets")
    for name in OBJECTIVES:
        show_memory(name, args)
        if args.runs:
            show_times(name, args)


if __name__ == "__main__":
    main()
