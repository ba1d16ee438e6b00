"""The tiny models, from nothing: a base student and a teacher, trained on the world's rows.

    run(recipe, out) → out/model        out/metrics.jsonl is its curve, out/checkpoints its states

A run goes on where it was ended. Matrices move by Muon; embeddings and norms by Adam. The student
is the weaker of the two by its size and its fewer tokens, never by wrong labels.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from star_jax import batch, models
from star_jax.batch import TokenBatch
from star_jax.data.cache import partfile
from star_jax.data.encode import Tokenizer
from star_jax.models import attention, layout, qwen3
from star_jax.models.config import Qwen3Config
from star_jax.train.checkpoint import Checkpoints
from star_jax.train.loss import Fixed, Forward, Micro, sft
from star_jax.world import corpus, generate
from star_jax.world import tokenizer as tokenizers
from star_jax.world.corpus import Corpus

SEED = 7  # of the rows and of the first weights; the splits that measure have others
PROBES = {"seen": 384, "unseen_tools": 384}  # rows that the curve is measured on
PROBE_SEED = 11
RECORD = "training.json"
Say = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model's size, and how it is trained."""

    name: str
    model: Qwen3Config
    tokens: int  # of the corpus, all of them counted
    seed: int = SEED
    rows: int = 20  # of a batch
    places: int = 384  # of a row
    prompt_weight: float = 0.2
    invented: float = 0.5  # the share of rows that are about invented tools
    matrix_rate: float = 0.02
    other_rate: float = 0.004
    flat: float = 0.5  # the share of the tokens after which rates fall, in a line
    final: float = 0.02  # of the peak, at the end
    weight_decay: float = 0.01
    probe_every: int = 200  # steps
    save_every: int = 100


def _model(width: int, layers: int, heads: int, kv_heads: int, inner: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=tokenizers.SIZE,
        hidden_size=width,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=32,
        rope_theta=10_000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        max_position_embeddings=tokenizers.MAX_LENGTH,
    )


RECIPES = {
    "student": Recipe(name="student", model=_model(128, 4, 4, 2, 352), tokens=5_000_000),
    "teacher": Recipe(name="teacher", model=_model(192, 4, 6, 3, 512), tokens=20_000_000),
}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "moments"], meta_fields=[]
)
@dataclass(frozen=True)
class Young:
    """A model on its way."""

    params: Any
    moments: Any


@dataclass
class Place:
    """Where a run stands: a checkpoint's record."""

    step: int = 0
    next_row: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


def rate(recipe: Recipe, share: jax.Array | float) -> jax.Array:
    """Of the peak, after this share of the tokens: up within 2 %, flat, and down in a line."""
    up = jnp.clip(jnp.asarray(share) / 0.02, 0.01, 1)
    down = jnp.clip((1 - jnp.asarray(share)) / (1 - recipe.flat), 0, 1)
    return up * (recipe.final + (1 - recipe.final) * down)


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Muon for matrices, Adam for what is left, both at their peaks: the step scales the update."""
    return contrib.muon(
        recipe.matrix_rate,
        adam_learning_rate=recipe.other_rate,
        adam_b1=0.9,
        adam_b2=0.99,
        weight_decay=recipe.weight_decay,
        muon_weight_dimension_numbers=_dimensions,
    )


def _dimensions(params: Any) -> Any:
    """Which axes of a leaf a matrix takes in and puts out; None for what Adam moves."""

    def one(path: tuple[Any, ...], leaf: Any) -> contrib.MuonDimensionNumbers | None:
        name = path[-1].key
        if name == "scale" or path[0].key != "layers":
            return None
        inner = (2, 3) if name == "o" or leaf.ndim == 3 else (3,)
        inner = (2,) if leaf.ndim == 3 else inner
        outer = tuple(axis for axis in range(1, leaf.ndim) if axis not in inner)
        return contrib.MuonDimensionNumbers(inner, outer)

    return jax.tree_util.tree_map_with_path(one, params)


def make_step(recipe: Recipe) -> Callable[..., Any]:
    moves = optimizer(recipe)
    forward = Forward(config=recipe.model, dtype=jnp.float32, chunk=1024)

    def loss(params: Any, made: TokenBatch) -> tuple[jax.Array, Any]:
        total, (weight, metrics) = sft(params, Micro(made), Fixed(), recipe.places, forward=forward)
        return total / weight, metrics["loss/token_accuracy"] / weight

    @functools.partial(jax.jit, donate_argnums=0)
    def step(young: Young, made: TokenBatch, share: jax.Array) -> tuple[Young, Any]:
        (value, hit), gradient = jax.value_and_grad(loss, has_aux=True)(young.params, made)
        norm = optax.global_norm(gradient)
        scale = jnp.minimum(1.0, 1.0 / (norm + 1e-9))
        gradient = jax.tree.map(lambda g: g * scale, gradient)
        updates, moments = moves.update(gradient, young.moments, young.params)
        now = rate(recipe, share)
        params = jax.tree.map(lambda p, u: p + now * u, young.params, updates)
        return Young(params, moments), (value, hit, norm)

    return step


def make_probe(recipe: Recipe, tokenizer: Tokenizer) -> Callable[[Any], dict[str, float]]:
    """Params → of each split, the share of rows whose every target token is the likeliest one: what
    greedy decoding would write to the letter; and the mean loss of a target token."""

    @jax.jit
    def judge(params: Any, made: Any) -> tuple[jax.Array, jax.Array]:
        places = attention.packed(made.segment_BT)
        hidden_BTD, _ = qwen3.hidden(params, recipe.model, made.tokens_BT, places)
        logits_BTV = qwen3.project(params, recipe.model, hidden_BTD)
        nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, made.target_BT)
        return logits_BTV.argmax(-1) == made.target_BT, nll_BT * made.weight_BT

    sets = {split: _batches(tokenizer, split, count) for split, count in PROBES.items()}

    def probe(params: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        for split, batches in sets.items():
            right: list[np.ndarray] = []
            nll, weight = 0.0, 0.0
            for made in batches:
                is_hit_BT, nll_BT = jax.device_get(judge(params, made))
                wrong_BT = ~is_hit_BT & (made.weight_BT > 0)
                right += [~wrong_BT[row, place].any() for row, _, place in batch.segments(made)]
                nll, weight = nll + float(nll_BT.sum()), weight + float(made.weight_BT.sum())
            found[f"{split}/exact"] = float(np.mean(right))
            found[f"{split}/loss_nats"] = nll / weight
        return found

    return probe


def _batches(tokenizer: Tokenizer, split: str, count: int, places: int = 512) -> list[TokenBatch]:
    examples = corpus.encode(tokenizer, generate.rows(split, PROBE_SEED, count))
    packed = batch.pack(examples, places)
    rows = len(packed.tokens_BT)
    whole = batch.pack(examples, places, -(-rows // 10) * 10)
    cut = batch.split(whole, len(whole.tokens_BT) // 10)
    return [TokenBatch(*(part[i] for part in cut)) for i in range(len(cut.tokens_BT))]


def run(recipe: Recipe, out: Path, say: Say) -> Path:
    """Train until the tokens are spent; → the model's folder."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(tokenizers.FOLDER)
    source = Corpus(
        tokenizer=tokenizer,
        seed=recipe.seed,
        rows=recipe.rows,
        tokens=recipe.places,
        prompt_weight=recipe.prompt_weight,
        invented=recipe.invented,
    )
    step, probe = make_step(recipe), make_probe(recipe, tokenizer)
    with Checkpoints(out / "checkpoints", keep_last=2, keep_best=0) as checkpoints:
        young, place = _begin(recipe, checkpoints)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(source.take, place.next_row)
            while place.tokens < recipe.tokens:
                began = time.perf_counter()
                made, next_row = ahead.result()
                ahead = pool.submit(source.take, next_row)
                share = np.float32(place.tokens / recipe.tokens)
                young, numbers = step(young, made, share)
                value, hit, norm = (float(x) for x in jax.device_get(numbers))
                place.step, place.next_row = place.step + 1, next_row
                place.tokens += int((made.segment_BT > 0).sum())
                place.seconds += time.perf_counter() - began
                row = {"step": place.step, "tokens": place.tokens, "seconds": place.seconds}
                row |= {"loss_nats": value, "accuracy": hit, "gradient_norm": norm}
                is_last = place.tokens >= recipe.tokens
                if place.step % recipe.probe_every == 0 or is_last:
                    row |= probe(young.params)
                    place.curve.append(row)
                say(row)
                if place.step % recipe.save_every == 0 or is_last:
                    checkpoints.save(place.step, young, vars(place))
        checkpoints.wait()
    return _write(recipe, out, young.params, place)


def _begin(recipe: Recipe, checkpoints: Checkpoints) -> tuple[Young, Place]:
    params = models.init(recipe.model, jax.random.key(recipe.seed))
    fresh = Young(params, jax.jit(optimizer(recipe).init)(params))
    latest = checkpoints.latest()
    if latest is None:
        return fresh, Place()
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), fresh
    )
    return checkpoints.restore(latest, abstract), Place(**checkpoints.meta(latest))


def _write(recipe: Recipe, out: Path, params: Any, place: Place) -> Path:
    """The model's folder, with its tokenizer and the record of how it was made. The same command
    writes it again where it was torn."""
    folder = out / "model"
    tokenizer = Tokenizer(tokenizers.FOLDER)
    (end,) = tokenizer.encode([tokenizers.SPECIAL[0]])[0]
    generation = {"eos_token_id": [tokenizer.end_of_turn, end], "pad_token_id": end}
    models.save(
        folder, recipe.model, params, generation=generation, dtype="bfloat16", overwrite=True
    )
    for path in tokenizers.FOLDER.iterdir():
        shutil.copyfile(path, folder / path.name)
    record = {
        "command": f"python -m star_jax.world pretrain {recipe.name} OUT "
        f"--tokens {recipe.tokens} --seed {recipe.seed}",
        "world": generate.VERSION,
        "parameters": layout.count(recipe.model),
        "recipe": {name: value for name, value in vars(recipe).items() if name != "model"},
        "steps": place.step,
        "tokens": place.tokens,
        "rows": place.next_row,
        "seconds": round(place.seconds),
        "curve": place.curve,
    }
    partfile.write(folder / RECORD, [json.dumps(record, indent=1).encode() + b"\n"])
    return folder
