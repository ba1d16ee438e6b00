"""Tokens a second of the sampler, beside a plain JAX loop, Hugging Face `generate` and Tunix.

    python benchmarks/sampler.py                        this sampler and the plain loop
    python benchmarks/sampler.py --torch PY             and a Python that has torch and transformers
    python benchmarks/sampler.py --tunix PY             and one that has google-tunix
    python benchmarks/sampler.py --bandwidth 4.8e12     Qwen3-0.6B's sizes on an accelerator: the
                                                        share of its memory's bandwidth that is used

32 prompts of 16 to 256 tokens × 128 new ones, and 8 prompts of 256 × 8 samples × 128. The model is
random, of 8 M parameters, float32; sampling is at temperature 1, nothing filtered, no stop id, so
that everybody draws as many tokens. Each runs in a process of its own, once without being counted
(what that took is shown apart: it compiles), then in turns; ratios are those of medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEW = 128
VOCAB = 8192
SIZES: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": 4096,
    "model_type": "qwen3",
    "num_attention_heads": 8,
    "num_hidden_layers": 8,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}
Case = dict[str, Any]  # prompts: lists of ids; n: samples of each


def cases() -> dict[str, Case]:
    import random

    rng = random.Random(0)

    def prompt(length: int) -> list[int]:
        return [rng.randrange(1, VOCAB) for _ in range(length)]

    lengths = [16 + round(240 * i / 31) for i in range(32)]
    rng.shuffle(lengths)
    return {
        "32 mixed prompts": {"prompts": [prompt(length) for length in lengths], "n": 1},
        "8 prompts × 8": {"prompts": [prompt(256) for _ in range(8)], "n": 8},
    }


def ours(folder: Path, case: Case) -> Callable[[int], int]:
    from star_jax import models
    from star_jax.sampler import Sampler

    sampler = Sampler(models.load(folder), slots=len(case["prompts"]) * case["n"], max_len=384)

    def run(seed: int) -> int:
        rows = sampler.generate(case["prompts"], case["n"], max_new_tokens=NEW, seed=seed)
        return sum(len(sample.tokens) for row in rows for sample in row)

    return run


def plain(folder: Path, case: Case) -> Callable[[int], int]:
    """What one writes first: every sample its own row, padded to the longest; one jitted step."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from star_jax import models

    model = models.load(folder)
    prompts = [prompt for prompt in case["prompts"] for _ in range(case["n"])]
    T = max(len(prompt) for prompt in prompts)
    length_B = np.array([len(prompt) for prompt in prompts])
    tokens_BT = np.array([prompt + [0] * (T - len(prompt)) for prompt in prompts])

    @jax.jit
    def read(params: Any, tokens_BT: Any, length_B: Any) -> Any:
        return models.prefill(params, model.config, tokens_BT, length_B, T + NEW)

    @jax.jit
    def step(params: Any, logits_BV: Any, cache: Any, key: Any) -> Any:
        token_B = jax.random.categorical(key, logits_BV).astype(jnp.int32)
        layers = models.unstack(params, model.config)
        return token_B, *models.decode(params, layers, model.config, token_B, cache)

    def run(seed: int) -> int:
        logits_BV, cache = read(model.params, tokens_BT, length_B)
        drawn = []
        for i in range(NEW):
            key = jax.random.fold_in(jax.random.key(seed), i)
            token_B, logits_BV, cache = step(model.params, logits_BV, cache, key)
            drawn.append(token_B)
        return int(np.stack(jax.device_get(drawn)).size)

    return run


def hugging_face(folder: Path, case: Case) -> Callable[[int], int]:
    torch = importlib.import_module("torch")  # not a dependency: types can't be looked up
    transformers = importlib.import_module("transformers")

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    T = max(len(prompt) for prompt in case["prompts"])
    padded = [[0] * (T - len(prompt)) + prompt for prompt in case["prompts"]]
    seen = [[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in case["prompts"]]

    def run(seed: int) -> int:
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(seen),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            num_return_sequences=case["n"],
        )
        return int(out[:, T:].numel())

    return run


class Ids:
    """Text that is ids, for a sampler that takes text."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(i) for i in ids)

    def bos_id(self) -> int:
        return 0  # none

    def eos_id(self) -> int:
        return VOCAB  # never drawn

    def pad_id(self) -> int:
        return 0


def tunix(folder: Path, case: Case) -> Callable[[int], int]:
    """Greedy, which is its faster way; random weights of the same sizes."""
    nnx = importlib.import_module("flax.nnx")
    jnp = importlib.import_module("jax.numpy")
    qwen3 = importlib.import_module("tunix.models.qwen3.model")
    sampling = importlib.import_module("tunix.generate.sampler")
    config = qwen3.ModelConfig(
        num_layers=SIZES["num_hidden_layers"],
        vocab_size=VOCAB,
        embed_dim=SIZES["hidden_size"],
        hidden_dim=SIZES["intermediate_size"],
        num_heads=SIZES["num_attention_heads"],
        head_dim=SIZES["head_dim"],
        num_kv_heads=SIZES["num_key_value_heads"],
        rope_theta=1_000_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    )
    prompts = [prompt for prompt in case["prompts"] for _ in range(case["n"])]
    longest = max(len(prompt) for prompt in prompts)
    cache = sampling.CacheConfig(
        cache_size=longest + NEW,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    sampler = sampling.Sampler(qwen3.Qwen3(config, rngs=nnx.Rngs(0)), Ids(), cache)
    texts = [" ".join(str(i) for i in prompt) for prompt in prompts]

    def run(seed: int) -> int:
        out = sampler(
            texts,
            max_generation_steps=NEW,
            max_prompt_length=longest,
            eos_tokens=[VOCAB],
            seed=seed,
        )
        return sum(len(tokens) for tokens in out.tokens)

    return run


WORKERS = {"tunix": tunix, "ours": ours, "plain": plain, "hugging face": hugging_face}


def work(name: str, folder: Path, case: str) -> None:
    """A process of its own: a line with a seed comes in, [tokens, seconds] goes out."""
    run = WORKERS[name](folder, cases()[case])
    for line in sys.stdin:
        start = time.perf_counter()
        tokens = run(int(line))
        print(json.dumps([tokens, time.perf_counter() - start]), flush=True)


class Peer:
    def __init__(self, python: str, name: str, folder: Path, case: str) -> None:
        command = [python, __file__, "--worker", name, "--folder", str(folder), "--case", case]
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, seed: int) -> tuple[int, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: see above")
        return tuple(json.loads(line))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(case: str, pythons: dict[str, str], folder: Path, rounds: int) -> None:
    peers = [Peer(python, name, folder, case) for name, python in pythons.items()]
    first = {peer.name: peer.run(0)[1] for peer in peers}
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    tokens = {}
    for seed in range(1, rounds + 1):
        for peer in peers:
            tokens[peer.name], took = peer.run(seed)
            seconds[peer.name].append(took)
    for peer in peers:
        peer.close()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{case} × {NEW} tokens, {rounds} rounds")
    for name, values in seconds.items():
        spread = f"{min(values):6.2f} {middle[name]:6.2f} {max(values):6.2f}"
        speed = tokens[name] / middle[name]
        ratio = middle[name] / middle["ours"]
        print(
            f"  {name:14}  s {spread}   {speed:8.0f} tokens/s   ours is {ratio:5.2f} times as fast"
            f"   first run {first[name]:.1f} s"
        )


QWEN3_06B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_layers": 28,
    "num_heads": 16,
    "num_kv_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}
PROMPT, STEPS, ROUNDS = 1024, 64, 5


def bandwidth(limit: float, layers: int) -> None:
    """Seconds of a step beside those that reading weights and caches once takes at `limit`."""
    import jax
    import numpy as np

    from star_jax import models
    from star_jax.models import layout
    from star_jax.sampler import rows
    from star_jax.sampler.engine import Engine
    from star_jax.sampler.sizes import STOPS

    sizes: dict[str, Any] = QWEN3_06B | {"num_layers": layers}
    config = models.Qwen3Config(**sizes)
    rng = np.random.default_rng(0)

    def matrix(row: layout.Row) -> Any:
        made = rng.standard_normal(row.shape(config), np.float32) * np.float32(0.02)
        return jax.numpy.asarray(made, jax.numpy.bfloat16)

    model = models.Model(config, layout.tree(config, matrix))
    print(f"{PROMPT} tokens of prompt, {STEPS} steps a call, bfloat16, {jax.devices()[0]}")
    for slots, group in ((1, 1), (64, 1), (256, 1), (32, 8)):
        engine = Engine(model, slots=slots, group=group, max_len=2048)
        state = engine.state(PROMPT, STEPS)
        state = state._replace(
            prompts=state.prompts._replace(length_P=jax.numpy.full(slots, PROMPT, np.int32))
        )
        table = rows.empty(engine.rows, STOPS)
        took = []
        for _ in range(ROUNDS + 1):
            for row in range(engine.rows):
                key = np.array([row, 1], np.uint32)
                begun = rows.Row(5, PROMPT, 0, STEPS, key, 1.0, 0, 1.0, 0.0, ())
                rows.write(table, row, begun)
            state = engine.restart(state)
            start = time.perf_counter()
            state, _, burst = engine.decode(state, table, steps=STEPS)
            took.append((time.perf_counter() - start) / len(burst.token_TB))
        a_token = 2 * layers * config.num_kv_heads * config.head_dim * 2
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(engine.weights.layers))
        weights += engine.weights.head_VD.nbytes
        cache = a_token * (slots * PROMPT + engine.rows * STEPS)
        least, seconds = (weights + cache) / limit, statistics.median(took[1:])
        print(
            f"  {slots:3} prompts × {group}: {seconds * 1e3:8.2f} ms a step, "
            f"{engine.rows / seconds:8.0f} tokens/s, {(weights + cache) / 1e9:.2f} GB, "
            f"{100 * least / seconds:.0f} % of the bandwidth"
        )


def make(folder: Path) -> None:
    """A random model, as a folder that everybody reads."""
    import numpy as np
    import safetensors.numpy

    rng = np.random.default_rng(0)
    D, F, H = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["head_dim"]
    N, K = SIZES["num_attention_heads"], SIZES["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, D)}
    for layer in range(SIZES["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (D,),
            at + "post_attention_layernorm.weight": (D,),
            at + "self_attn.q_norm.weight": (H,),
            at + "self_attn.k_norm.weight": (H,),
            at + "self_attn.q_proj.weight": (N * H, D),
            at + "self_attn.k_proj.weight": (K * H, D),
            at + "self_attn.v_proj.weight": (K * H, D),
            at + "self_attn.o_proj.weight": (D, N * H),
            at + "mlp.gate_proj.weight": (F, D),
            at + "mlp.up_proj.weight": (F, D),
            at + "mlp.down_proj.weight": (D, F),
        }
    shapes["model.norm.weight"] = (D,)
    tensors = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else (0.05 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SIZES, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="a Python that has torch and transformers")
    parser.add_argument("--tunix", help="a Python that has google-tunix")
    parser.add_argument("--bandwidth", type=float, help="bytes a second of the device's memory")
    parser.add_argument("--layers", type=int, default=28, help="of the model for --bandwidth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="a part of the case's name")
    parser.add_argument("--worker", choices=list(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.folder, args.case)
        return
    if args.bandwidth:
        bandwidth(args.bandwidth, args.layers)
        return
    pythons = {"ours": sys.executable, "plain": sys.executable}
    if args.torch:
        pythons["hugging face"] = args.torch
    if args.tunix:
        pythons["tunix"] = args.tunix
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for case in cases():
            if args.only is None or args.only in case:
                compare(case, pythons, Path(folder), args.rounds)


if __name__ == "__main__":
    main()
